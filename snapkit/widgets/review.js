import { make, makePanel, setAttribute, setText, uniqueId } from "./common.js";

/** @param {{model: import("./common.js").Model, el: HTMLElement}} context */
function render({ model, el }) {
  const panel = makePanel(model, el, "Review");
  const state = make("p", { class: "sk-state", role: "status", "aria-label": "Plan" });
  panel.header.append(state);

  const panelId = uniqueId();
  const tabs = make("div", { class: "sk-tabs", role: "tablist", "aria-label": "What will be sent" });
  const code = make("code");
  const text = make("pre", { tabindex: "0" }, code);
  const copy = make("button", { type: "button" }, "Copy");
  const copied = make("span", { class: "sk-note", role: "status", "aria-label": "Copied" });
  const view = make("div", { id: panelId, role: "tabpanel", class: "sk-code" }, text);
  const bar = make("div", { class: "sk-bar" }, tabs, copied, copy);
  const problems = make("ul", { class: "sk-problems", "aria-label": "Problems" });
  panel.add(problems, bar, view);

  let chosen = "";
  const forms = () => model.get("forms");

  /** @param {string} name */
  function choose(name) {
    chosen = name;
    draw();
    tabs.querySelector('[aria-selected="true"]')?.focus();
  }

  panel.listen(tabs, "keydown", (event) => {
    const names = forms().map((/** @type {any} */ form) => form.form);
    const here = names.indexOf(chosen);
    const steps = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: -1 };
    const next = steps[/** @type {keyof typeof steps} */ (event.key)];
    if (next === undefined) return;
    event.preventDefault();
    choose(names.at(next % names.length));
  });
  panel.listen(copy, "click", () => {
    copyText(code.textContent ?? "", text).then(
      () => setText(copied, "Copied"),
      () => setText(copied, "Selected: press Ctrl+C"),
    );
  });

  function drawTabs() {
    const names = forms().map((/** @type {any} */ form) => form.form);
    if (!names.includes(chosen)) chosen = names[0] ?? "";
    const shown = [...tabs.children].map((tab) => tab.dataset.form);
    if (JSON.stringify(shown) !== JSON.stringify(names)) {
      tabs.replaceChildren(...forms().map((/** @type {any} */ form) => makeTab(form)));
    }
    for (const tab of tabs.children) {
      const selected = tab.dataset.form === chosen;
      setAttribute(tab, "aria-selected", String(selected));
      setAttribute(tab, "tabindex", selected ? "0" : "-1");
      if (selected) setAttribute(view, "aria-labelledby", tab.id);
    }
  }

  /** @param {{form: string, label: string}} form */
  function makeTab(form) {
    const attributes = { type: "button", role: "tab", id: uniqueId(), "aria-controls": panelId };
    const tab = make("button", { ...attributes, "data-form": form.form }, form.label);
    panel.listen(tab, "click", () => choose(form.form));
    return tab;
  }

  function draw() {
    drawTabs();
    const form = forms().find((/** @type {any} */ item) => item.form === chosen);
    const before = code.textContent;
    setText(code, form?.text ?? "");
    if (code.textContent !== before) setText(copied, "");
    bar.hidden = !form;
    view.hidden = copy.hidden = !form?.text;
    setText(state, model.get("status"));
    const lines = model.get("problems");
    problems.hidden = !lines.length;
    problems.replaceChildren(...lines.map((/** @type {string} */ line) => make("li", {}, line)));
  }

  panel.watch(["forms", "status", "problems"], draw);
  return panel.dispose;
}

/**
 * Copy text. Where the page may not write to the clipboard, select it and reject.
 * @param {string} words
 * @param {Node} shown
 */
async function copyText(words, shown) {
  try {
    await navigator.clipboard.writeText(words);
  } catch (reason) {
    getSelection()?.selectAllChildren(shown);
    throw reason;
  }
}

export default { render };
