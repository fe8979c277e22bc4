/**
 * What the panels share: elements, the link to the kernel, fields and rows.
 *
 * State goes one way, from the kernel's traits to the page. What the user does goes back as
 * numbered messages; the trait `seen` holds the last number that the kernel has answered.
 * Everything that a VM names is untrusted: it becomes text or an attribute's value, never HTML.
 *
 * @typedef {object} Model anywidget's model, as far as the panels use it
 * @property {(name: string) => any} get
 * @property {(event: string, callback: () => void) => void} on
 * @property {(event: string, callback: () => void) => void} off
 * @property {(content: object) => void} send
 *
 * @typedef {ReturnType<typeof makePanel>} Panel
 */

const PATIENCE = 400; // milliseconds until a click that waits says so
const TYPING = 100; // milliseconds of rest that end a burst of typing
const EDITING = "snapkit-editing"; // an event of the page: a panel has, or no more has, news

const salt = Math.random().toString(36).slice(2, 9);
let serial = 0;

/** An id that no other element of the page has. */
export function uniqueId() {
  serial += 1;
  return `snapkit-${salt}-${serial}`;
}

/**
 * An element with attributes and children. Strings become text, never HTML.
 * @param {string} tag
 * @param {Record<string, string | number | boolean>} [attributes]
 * @param {...(Node | string)} children
 * @returns {any}
 */
export function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) setAttribute(node, name, value);
  node.append(...children);
  return node;
}

/**
 * Set, or with `false` remove, an attribute; leave it alone if it is so already.
 * @param {Element} node
 * @param {string} name
 * @param {string | number | boolean} value
 */
export function setAttribute(node, name, value) {
  const text = value === true ? "" : String(value);
  if (value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== text) node.setAttribute(name, text);
}

/**
 * Set an element's text; leave it alone if it is so already, so that nothing is announced twice.
 * @param {Element} node
 * @param {string} text
 */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * Show text in an element that is hidden while it has none.
 * @param {HTMLElement} node
 * @param {string} text
 */
export function showText(node, text) {
  setText(node, text);
  node.hidden = !text;
}

/**
 * Enable a button, or disable it so that it keeps the focus and can still be found and read.
 * @param {Element} button
 * @param {boolean} enabled
 */
export function setEnabled(button, enabled) {
  setAttribute(button, "aria-disabled", enabled ? false : "true");
}

/**
 * The frame of a panel: heading, error area, and the link to the kernel.
 * @param {Model} model
 * @param {HTMLElement} el
 * @param {string} title
 */
export function makePanel(model, el, title) {
  const view = `${salt}-${uniqueId()}`;
  const headingId = uniqueId();
  const header = make("header", {}, make("h3", { id: headingId }, title));
  const alert = make("div", { class: "sk-alert", role: "alert", hidden: true });
  const asked = make("p", { class: "sk-asked", role: "status", hidden: true });
  const root = make("section", { class: "snapkit", "aria-labelledby": headingId });
  root.append(header, alert, asked);
  el.append(root);
  // The notebook's shortcuts must not see keys meant for a control: "d d" deletes the cell.
  root.addEventListener("keydown", (/** @type {Event} */ event) => event.stopPropagation());

  let sent = 0;
  let timer = 0;
  /** @type {Set<() => void>} what sends the fields that are being typed in */
  const unsent = new Set();
  let editing = false;
  /** @type {Map<Element, number>} buttons that wait for the kernel, and their message */
  const waiting = new Map();
  /** @type {(() => void)[]} */
  const undo = [];

  /** The number of this view's last message that the kernel has answered. */
  const seen = () => model.get("seen")?.[view] ?? 0;

  /** @param {unknown} reason */
  function fail(reason) {
    showText(alert, `Error: ${reason instanceof Error ? reason.message : reason}`);
  }

  /**
   * Handle an event; what goes wrong in the handler is shown here as well as in the console.
   * @param {EventTarget} node
   * @param {string} type
   * @param {(event: any) => void} handler
   */
  function listen(node, type, handler) {
    node.addEventListener(type, (event) => {
      try {
        handler(event);
      } catch (reason) {
        fail(reason);
        throw reason;
      }
    });
  }

  /** Tell the page's other panels whether there is something here that the kernel has not seen. */
  function tellEditing() {
    const open = unsent.size > 0 || sent > seen();
    if (open === editing) return;
    editing = open;
    const detail = { group: model.get("group"), view, open };
    window.dispatchEvent(new CustomEvent(EDITING, { detail }));
  }

  /**
   * Tell the kernel what the user did, after what was typed before. Returns the message's number.
   * @param {string} action
   * @param {object} [content]
   */
  function send(action, content = {}) {
    for (const flush of unsent) flush();
    sent += 1;
    tellEditing();
    try {
      model.send({ ...content, do: action, view, number: sent });
    } catch (reason) {
      const why = reason instanceof Error ? reason.message : reason;
      fail(`the kernel cannot be reached (${why}). Run this cell again.`);
    }
    return sent;
  }

  function showWaiting() {
    for (const [button, number] of waiting) {
      if (number <= seen()) {
        waiting.delete(button);
        setAttribute(button, "aria-busy", false);
      }
    }
    if (waiting.size) return;
    clearTimeout(timer);
    showText(asked, "");
  }

  /**
   * A button that tells the kernel. It waits for the answer before it can be pressed again,
   * and the second click of a double click does nothing.
   * @param {string} label
   * @param {string} action
   * @param {{class?: string, content?: () => object}} [options]
   */
  function button(label, action, options = {}) {
    const node = make("button", { type: "button", class: options.class ?? "" }, label);
    listen(node, "click", (event) => {
      if (event.detail > 1 || waiting.has(node) || node.getAttribute("aria-disabled")) return;
      waiting.set(node, send(action, options.content?.()));
      setAttribute(node, "aria-busy", "true");
      clearTimeout(timer);
      timer = setTimeout(() => {
        const words = "Asked the kernel, which is busy. This runs as soon as it answers.";
        if (waiting.size) showText(asked, words);
      }, PATIENCE);
    });
    return node;
  }

  /**
   * A control whose value the kernel holds. What the user is typing is never overwritten by
   * the kernel's answer to something typed before.
   * @param {any} input
   * @param {"value" | "checked"} property
   * @param {(value: any) => number} tell
   * @returns {{show: (value: any) => void}}
   */
  function field(input, property, tell) {
    let told = 0;
    let rest = 0;
    const flush = () => {
      clearTimeout(rest);
      if (unsent.delete(flush)) told = tell(input[property]);
    };
    listen(input, "input", () => {
      clearTimeout(rest);
      rest = setTimeout(flush, TYPING);
      unsent.add(flush);
      tellEditing();
    });
    listen(input, "change", flush);
    return {
      show(value) {
        const typing = unsent.has(flush) || seen() < told;
        if (!typing && input[property] !== value) input[property] = value;
      },
    };
  }

  /**
   * Draw now, and again whenever one of the traits changes.
   * @param {string[]} names
   * @param {() => void} draw
   */
  function watch(names, draw) {
    let queued = false;
    const redraw = () => {
      queued = false;
      try {
        draw();
      } catch (reason) {
        fail(reason);
        throw reason;
      }
    };
    const later = () => {
      if (!queued) queueMicrotask(redraw);
      queued = true;
    };
    for (const name of [...names, "seen"]) {
      model.on(`change:${name}`, later);
      undo.push(() => model.off(`change:${name}`, later));
    }
    redraw();
  }

  watch(["error"], () => {
    const error = model.get("error");
    showText(alert, error ? `Error: ${error}` : "");
    showWaiting();
    tellEditing();
  });

  return {
    root,
    header,
    model,
    view,
    /** @param {() => void} step */
    atEnd: (step) => undo.push(step),
    listen,
    send,
    button,
    field,
    watch,
    /** @param {...Node} nodes */
    add: (...nodes) => asked.before(...nodes),
    dispose: () => {
      for (const flush of unsent) flush();
      clearTimeout(timer);
      for (const step of undo) step();
      // Nobody waits for the answers any more; the kernel itself refuses an old plan.
      const detail = { group: model.get("group"), view, open: false };
      window.dispatchEvent(new CustomEvent(EDITING, { detail }));
    },
  };
}

/**
 * Call `changed` whenever another panel of the same session begins or ends to hold news that
 * the kernel has not seen. The returned set is empty when there are none.
 * @param {Panel} panel
 * @param {() => void} changed
 */
export function watchEditing(panel, changed) {
  /** @type {Set<string>} */
  const open = new Set();
  const listener = (/** @type {any} */ event) => {
    const { group, view, open: begins } = event.detail;
    if (group !== panel.model.get("group") || view === panel.view) return;
    if (begins) open.add(view);
    else open.delete(view);
    changed();
  };
  window.addEventListener(EDITING, listener);
  panel.atEnd(() => window.removeEventListener(EDITING, listener));
  return open;
}

/**
 * A table with a caption for its name and a header cell for each column.
 * @param {string} name
 * @param {[string, string?][]} columns label and class
 */
export function makeTable(name, columns) {
  const head = make("tr");
  for (const [label, kind = ""] of columns) {
    head.append(make("th", { scope: "col", class: kind }, label));
  }
  const body = make("tbody");
  const table = make("table", {}, make("caption", {}, name), make("thead", {}, head), body);
  const scroll = make("div", { class: "sk-scroll" }, table);
  return { scroll, table, body };
}

/**
 * Bring a table's body in line with `rows`, touching only what differs: rows keep their
 * elements, and with them focus, selection and scroll.
 * @template Row
 * @template {{tr: HTMLTableRowElement, update: (row: Row) => void, last?: string}} Line
 * @param {HTMLTableSectionElement} body
 * @param {Map<string, Line>} lines what `body` shows, by key
 * @param {Row[]} rows
 * @param {(row: Row) => string} key
 * @param {(row: Row) => Line} create
 */
export function patchRows(body, lines, rows, key, create) {
  const wanted = new Set(rows.map(key));
  for (const [name, line] of lines) {
    if (wanted.has(name)) continue;
    line.tr.remove();
    lines.delete(name);
  }
  let next = body.firstElementChild;
  for (const row of rows) {
    let line = lines.get(key(row));
    if (!line) {
      line = create(row);
      lines.set(key(row), line);
    }
    if (line.tr === next) next = next.nextElementSibling;
    else body.insertBefore(line.tr, next);
    line.update(row);
  }
}

/**
 * A row of plain text cells; the first is its header. `cells` gives text and title of each.
 * @template Row
 * @param {[string, string?][]} columns
 * @param {(row: Row) => [string, string?][]} cells
 */
export function textRow(columns, cells) {
  return () => {
    const nodes = columns.map(() => make("span", { class: "sk-clip" }));
    const boxes = columns.map(([, kind = ""], index) =>
      index
        ? make("td", { class: kind }, nodes[index])
        : make("th", { class: kind, scope: "row" }, nodes[index]),
    );
    return {
      tr: make("tr", {}, ...boxes),
      /** @param {Row} row */
      update(row) {
        cells(row).forEach(([text, title], index) => {
          setText(nodes[index], text);
          setAttribute(boxes[index], "title", title || false);
        });
      },
    };
  };
}
