import {
  make,
  makePanel,
  makeTable,
  patchRows,
  setAttribute,
  setEnabled,
  setText,
  showText,
  textRow,
  uniqueId,
  watchEditing,
} from "./common.js";

/** @type {[string, string?][]} */
const COLUMNS = [
  ["Device", "sk-name"],
  ["File before", "sk-file"],
  ["File after", "sk-file"],
  ["Depth before", "sk-number"],
  ["Depth after", "sk-number"],
  ["Result"],
];

/** @param {{model: import("./common.js").Model, el: HTMLElement}} context */
function render({ model, el }) {
  const panel = makePanel(model, el, "Run");
  const reasonId = uniqueId();
  const press = panel.button("", "press", {
    class: "sk-primary",
    content: () => ({ revision: model.get("revision") }),
  });
  setAttribute(press, "aria-describedby", reasonId);
  const reason = make("span", { class: "sk-note", id: reasonId });
  const cancel = panel.button("Cancel", "cancel");

  const progress = make("progress", { "aria-label": "Progress" });
  const phase = make("span", { class: "sk-phase", role: "status", "aria-label": "Phase" });
  const running = make("div", { class: "sk-line sk-running" }, progress, phase);

  // Only the words are announced: a table of two hundred disks is to be read, not listened to.
  const words = make("p", { class: "sk-words" });
  const findings = make("ul", { class: "sk-problems" });
  const { scroll, body } = makeTable("Before and after", COLUMNS);
  setAttribute(scroll, "aria-live", "off");
  const outcome = make(
    "div",
    { class: "sk-outcome", role: "status", "aria-label": "Outcome", "aria-atomic": "false" },
    words,
    findings,
    scroll,
  );
  panel.add(make("div", { class: "sk-line" }, press, cancel, reason), running, outcome);

  const lines = new Map();
  const create = textRow(COLUMNS, (/** @type {any} */ row) => [
    [row.label],
    [row.file_before, row.file_before],
    [row.file_after, row.file_after],
    [row.depth_before],
    [row.depth_after],
    [row.result],
  ]);
  const traits = ["label", "reason", "running", "cancellable", "phase", "step", "steps", "outcome"];
  const editing = watchEditing(panel, draw);
  panel.watch([...traits, "revision"], draw);

  function draw() {
    // What is typed disarms the button before the kernel has heard of it.
    const why = model.get("reason") || (editing.size ? "The plan is being checked." : "");
    setText(press, model.get("label"));
    setEnabled(press, !why);
    setText(reason, why);
    const active = model.get("running");
    if (!active && cancel.contains(document.activeElement)) press.focus();
    cancel.hidden = !active;
    setEnabled(cancel, model.get("cancellable"));
    running.hidden = !model.get("phase");
    progress.max = model.get("steps");
    progress.value = model.get("step");
    setText(phase, model.get("phase"));
    const found = model.get("outcome");
    showText(words, found.words ?? "");
    setAttribute(outcome, "data-ok", String(found.ok ?? ""));
    findings.hidden = !found.findings?.length;
    findings.replaceChildren(
      ...(found.findings ?? []).map((/** @type {string} */ text) => make("li", {}, text)),
    );
    scroll.hidden = !found.rows?.length;
    patchRows(body, lines, found.rows ?? [], (row) => row.device, create);
  }
  return panel.dispose;
}

export default { render };
