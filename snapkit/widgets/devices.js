import { make, makePanel, makeTable, patchRows, setText, showText, textRow } from "./common.js";

/** @type {[string, string?][]} */
const COLUMNS = [
  ["Device", "sk-name"],
  ["File", "sk-file"],
  ["Format"],
  ["Size", "sk-number"],
  ["Depth", "sk-number"],
  ["Snapshot possible"],
];

/** @param {{model: import("./common.js").Model, el: HTMLElement}} context */
function render({ model, el }) {
  const panel = makePanel(model, el, "Devices");
  const note = make("p", { class: "sk-state", role: "status", "aria-label": "Devices found" });
  panel.header.append(note, panel.button("Refresh", "refresh"));

  const { scroll, table, body } = makeTable("Devices", COLUMNS);
  const empty = make("p", { class: "sk-empty" });
  panel.add(empty, scroll);

  const lines = new Map();
  const create = textRow(COLUMNS, (/** @type {any} */ row) => [
    [row.label],
    [row.file, row.file],
    [row.format],
    [row.size, row.bytes],
    [row.depth],
    [row.possible],
  ]);
  panel.watch(["rows", "note"], () => {
    const rows = model.get("rows");
    setText(note, rows.length ? model.get("note") : "");
    showText(empty, rows.length ? "" : model.get("note"));
    table.hidden = !rows.length;
    patchRows(body, lines, rows, (row) => row.device, create);
  });
  return panel.dispose;
}

export default { render };
