import { make, makePanel, makeTable, patchRows, setAttribute, setText, showText, uniqueId } from "./common.js";

/** @type {[string, string?][]} */
const COLUMNS = [
  ["Include", "sk-include"],
  ["Device", "sk-name"],
  ["Snapshot file", "sk-wide"],
  ["Format"],
  ["Mode"],
];

/** @param {{model: import("./common.js").Model, el: HTMLElement}} context */
function render({ model, el }) {
  const panel = makePanel(model, el, "Targets");
  const summary = make("p", { class: "sk-state", role: "status", "aria-label": "Checks" });
  panel.header.append(summary);

  const templateId = uniqueId();
  const helpId = uniqueId();
  const template = make("input", {
    type: "text",
    id: templateId,
    spellcheck: "false",
    autocomplete: "off",
    "aria-describedby": helpId,
  });
  const templateField = panel.field(template, "value", (value) => panel.send("template", { value }));
  const fill = panel.button("Fill in", "fill", { content: () => ({ template: template.value }) });
  panel.listen(template, "keydown", (event) => {
    if (event.key === "Enter") fill.click();
  });
  const help = make("p", { class: "sk-note", id: helpId });

  const { scroll, table, body } = makeTable("Targets", COLUMNS);
  const empty = make("p", { class: "sk-empty" });
  const general = make("ul", { class: "sk-problems", "aria-label": "Problems of the whole plan" });
  const all = panel.button("Include all", "include", { content: () => ({ value: true }) });
  const none = panel.button("Include none", "include", { content: () => ({ value: false }) });
  const tools = make(
    "div",
    { class: "sk-form sk-tools" },
    make("label", { for: templateId }, "Template"),
    template,
    make("div", { class: "sk-line" }, fill, all, none),
  );
  panel.add(tools, help, general, empty, scroll);

  const lines = new Map();
  panel.watch(["rows", "problems", "summary", "template", "fields"], () => {
    const rows = model.get("rows");
    const problems = model.get("problems");
    setText(summary, rows.length ? model.get("summary") : "");
    showText(empty, rows.length ? "" : model.get("summary"));
    templateField.show(model.get("template"));
    setText(help, `Fields of the template: ${model.get("fields")}`);
    showProblems(general, problems[""] ?? []);
    tools.hidden = help.hidden = table.hidden = !rows.length;
    patchRows(body, lines, rows, (row) => row.device, (row) => targetRow(panel, row));
    for (const [device, line] of lines) line.judge(problems[device] ?? []);
  });
  return panel.dispose;
}

/**
 * One device: its controls, and what stands in its way below the file name.
 * @param {import("./common.js").Panel} panel
 * @param {any} first
 */
function targetRow(panel, first) {
  const { device, label } = first;
  const { model } = panel;
  const tell = (/** @type {string} */ name) => (/** @type {any} */ value) =>
    panel.send("edit", { device, name, value });
  const listId = uniqueId();
  const noteId = uniqueId();
  const include = make("input", { type: "checkbox", "aria-label": `Include ${label}` });
  const file = make("input", {
    type: "text",
    spellcheck: "false",
    autocomplete: "off",
    "aria-label": `Snapshot file for ${label}`,
    "aria-describedby": `${listId} ${noteId}`,
  });
  const format = select(`Format for ${label}`, model.get("formats"));
  const mode = select(`Mode for ${label}`, model.get("modes"));
  const note = make("p", { class: "sk-note", id: noteId });
  const problems = make("ul", { class: "sk-problems", id: listId });
  const fields = {
    include: panel.field(include, "checked", tell("include")),
    file: panel.field(file, "value", tell("file")),
    format: panel.field(format, "value", tell("format")),
    mode: panel.field(mode, "value", tell("mode")),
  };
  return {
    tr: make(
      "tr",
      {},
      make("td", { class: "sk-include" }, include),
      make("th", { scope: "row", class: "sk-name" }, make("span", { class: "sk-clip" }, label)),
      make("td", { class: "sk-wide" }, file, note, problems),
      make("td", {}, format),
      make("td", {}, mode),
    ),
    /** @param {any} row */
    update(row) {
      fields.include.show(row.include);
      fields.file.show(row.file);
      file.title = row.file;
      for (const [name, control] of /** @type {const} */ ([["format", format], ["mode", mode]])) {
        if (![...control.options].some((option) => option.value === row[name])) {
          control.append(make("option", {}, row[name]));
        }
        fields[name].show(row[name]);
      }
      for (const control of [include, file, format, mode]) control.disabled = Boolean(row.why_not);
      showText(note, row.why_not || row.note);
    },
    /** @param {any[]} found */
    judge(found) {
      const wrong = found.some((problem) => problem.severity === "error");
      setAttribute(file, "aria-invalid", wrong ? "true" : false);
      showProblems(problems, found);
    },
  };
}

/**
 * @param {string} label
 * @param {string[]} choices
 */
function select(label, choices) {
  return make("select", { "aria-label": label }, ...choices.map((name) => make("option", {}, name)));
}

/**
 * List problems, each with its remedy. Whether it is an error or a warning is said in words.
 * @param {HTMLElement} list
 * @param {any[]} found
 */
function showProblems(list, found) {
  list.hidden = !found.length;
  const key = JSON.stringify(found);
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  const items = found.map((problem) =>
    make(
      "li",
      { class: `sk-${problem.severity}` },
      make("strong", {}, problem.severity === "error" ? "Problem: " : "Warning: "),
      `${problem.message}. `,
      make("span", { class: "sk-remedy" }, problem.remedy),
    ),
  );
  list.replaceChildren(...items);
}

export default { render };
