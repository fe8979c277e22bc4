import { make, makePanel, setAttribute, setEnabled, setText, showText, uniqueId } from "./common.js";

/** @param {{model: import("./common.js").Model, el: HTMLElement}} context */
function render({ model, el }) {
  const panel = makePanel(model, el, "Connect");
  const endpointId = uniqueId();
  const domainId = uniqueId();
  const foundId = uniqueId();
  const exposedId = uniqueId();

  const state = make("p", { class: "sk-state", role: "status", "aria-label": "Connection" });
  panel.header.append(state);

  const common = { type: "text", spellcheck: "false", autocomplete: "off" };
  const endpoint = make("input", {
    ...common,
    id: endpointId,
    placeholder: "unix:/path/to/socket, tcp:localhost:4444 or qemu:///system",
    "aria-describedby": exposedId,
  });
  const domain = make("input", { ...common, id: domainId, placeholder: "libvirt only" });
  // A list of its own, not a datalist: that would make the text field a combobox, which says
  // nothing about what is on offer.
  const found = make("select", { id: foundId });
  const exposed = make("p", { class: "sk-exposed", id: exposedId, hidden: true });

  const typed = () => ({ endpoint: endpoint.value, domain: domain.value });
  const connect = panel.button("Connect", "press", {
    class: "sk-primary",
    content: () => ({ ...typed(), connected: model.get("connected") }),
  });
  const endpointField = panel.field(endpoint, "value", () => panel.send("edit", typed()));
  const domainField = panel.field(domain, "value", () => panel.send("edit", typed()));
  for (const input of [endpoint, domain]) {
    panel.listen(input, "keydown", (event) => {
      if (event.key === "Enter" && !model.get("connected")) connect.click();
    });
  }
  const refresh = panel.button("Look again", "discover");
  panel.listen(found, "change", () => {
    const item = model.get("endpoints")[found.selectedIndex - 1];
    endpoint.value = item?.endpoint ?? "";
    domain.value = item?.domain ?? "";
    panel.send("edit", typed());
  });

  const allow = make("input", { type: "checkbox" });
  const allowField = panel.field(allow, "checked", (value) => panel.send("allow", { value }));
  const allowed = make("span", { class: "sk-note" });

  panel.add(
    make(
      "div",
      { class: "sk-form" },
      make("label", { for: endpointId }, "Endpoint"),
      endpoint,
      make("label", { for: domainId }, "Domain"),
      domain,
      connect,
      make("label", { for: foundId }, "On this host"),
      found,
      refresh,
    ),
    exposed,
    make(
      "p",
      { class: "sk-line" },
      make("label", { class: "sk-check" }, allow, "Allow changes"),
      allowed,
    ),
  );

  panel.watch(
    ["endpoint", "domain", "connected", "busy", "status", "allowed", "endpoints", "exposed"],
    () => {
      const connected = model.get("connected");
      const busy = model.get("busy");
      setText(state, model.get("status"));
      setAttribute(state, "data-connected", String(connected));
      endpointField.show(model.get("endpoint"));
      domainField.show(model.get("domain"));
      endpoint.readOnly = connected || busy;
      domain.readOnly = connected || busy;
      setText(connect, connected ? "Disconnect" : "Connect");
      setAttribute(connect, "class", connected ? "" : "sk-primary");
      setEnabled(connect, !busy);
      allowField.show(model.get("allowed"));
      allow.disabled = !connected;
      setText(allowed, allowedWords(connected, model.get("allowed")));
      showText(exposed, model.get("exposed"));
      offer(found, model.get("endpoints"), model.get("endpoint"), model.get("domain"));
      found.disabled = connected || busy || !model.get("endpoints").length;
    },
  );
  return panel.dispose;
}

/**
 * Offer the VMs that were found; the first line says how many there are.
 * @param {HTMLSelectElement} select
 * @param {{endpoint: string, domain: string, label: string}[]} endpoints
 * @param {string} endpoint
 * @param {string} domain
 */
function offer(select, endpoints, endpoint, domain) {
  const key = JSON.stringify(endpoints);
  if (select.dataset.key !== key) {
    const words = endpoints.length ? `${endpoints.length} found: choose one` : "None found";
    const options = endpoints.map((item) => make("option", {}, item.label));
    select.replaceChildren(make("option", { value: "" }, words), ...options);
    select.dataset.key = key;
  }
  const same = (/** @type {{endpoint: string, domain: string}} */ item) =>
    item.endpoint === endpoint && item.domain === domain;
  select.selectedIndex = endpoints.findIndex(same) + 1;
}

/**
 * What the checkbox means right now.
 * @param {boolean} connected
 * @param {boolean} allowed
 */
function allowedWords(connected, allowed) {
  if (!connected) return "A connection starts read-only.";
  return allowed ? "Snapshots can be taken." : "Read-only: nothing can be changed.";
}

export default { render };
