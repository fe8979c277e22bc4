"""A browser page that shows panels without Jupyter, and panels that raise their errors."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page

import snapkit.widgets
from snapkit.widgets.base import STRICT, esm
from tests.browser.chromium import chromium, watched_page

# One libvirtd for all tests of panels, as the suite for all backends has one.
from tests.conformance.conftest import suite_libvirt  # noqa: F401

MODULES = Path(snapkit.widgets.__file__).parent
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Panels</title>
<link rel="stylesheet" href="/style.css"><body><main id="stage"></main>
<script type="module">
class Model {
  constructor(state) { this.state = state; this.sent = []; this.listeners = new Map(); }
  get(name) { return this.state[name]; }
  on(event, callback) { this.of(event).add(callback); }
  off(event, callback) { this.of(event).delete(callback); }
  of(event) {
    if (!this.listeners.has(event)) this.listeners.set(event, new Set());
    return this.listeners.get(event);
  }
  send(content) { this.sent.push(structuredClone(content)); }
  update(values) {
    Object.assign(this.state, values);
    for (const name of Object.keys(values)) for (const call of this.of(`change:${name}`)) call();
  }
  answer() {
    const last = this.sent.at(-1);
    this.update({ seen: { ...this.state.seen, [last.view]: last.number } });
  }
}
window.show = async (url, state) => {
  const el = document.createElement("div");
  document.getElementById("stage").replaceChildren(el);
  window.model = new Model(state);
  const module = await import(url);
  window.dispose = module.default.render({ model: window.model, el });
};
window.edits = [];
addEventListener("snapkit-editing", (event) => window.edits.push(event.detail.open));
window.ready = true;
</script></body></html>"""


@pytest.fixture(autouse=True)
def _strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors of panels are shown, and raised as well."""
    monkeypatch.setenv(STRICT, "1")


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors of panels are only shown, as for a user."""
    monkeypatch.delenv(STRICT)


class _Files(BaseHTTPRequestHandler):
    """The page, the modules as they are, and as they are sent to a notebook."""

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        if not name:
            self._send("text/html", PAGE)
        elif name == "favicon.ico":
            self._send("image/x-icon", "")
        elif name.endswith(".css"):
            self._send("text/css", (MODULES / name).read_text())
        elif self.path.startswith("/inlined/"):
            self._send("text/javascript", esm(name))
        else:
            self._send("text/javascript", (MODULES / name).read_text())

    def _send(self, kind: str, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="session")
def files() -> Iterator[str]:
    """The address of a server that has the modules."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for one module: while one runs, this thread cannot run an event loop."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, files: str) -> Iterator[Page]:
    with watched_page(browser) as page:
        page.goto(f"{files}/")
        page.wait_for_function("window.ready")
        yield page


class Stage:
    """One panel on a page, with a model that has no kernel behind it."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def show(self, module: str, state: Mapping[str, Any], where: str = "/inlined/") -> Locator:
        """Render a panel's module with a state; returns the panel."""
        self.page.evaluate("([url, state]) => show(url, state)", [f"{where}{module}", dict(state)])
        return self.page.locator(".snapkit")

    def update(self, **state: Any) -> None:
        """Change traits, as the kernel does."""
        self.page.evaluate("(state) => model.update(state)", state)

    def answer(self) -> None:
        """Say that the last message has been answered."""
        self.page.evaluate("() => model.answer()")

    def editing(self, **detail: Any) -> None:
        """Say what a panel says while it has something that the kernel has not seen."""
        script = "(d) => dispatchEvent(new CustomEvent('snapkit-editing', { detail: d }))"
        self.page.evaluate(script, detail)

    @property
    def edits(self) -> list[bool]:
        """What panels have said to each other: whether there is something unseen."""
        said: list[bool] = self.page.evaluate("() => window.edits")
        return said

    @property
    def sent(self) -> list[dict[str, Any]]:
        """What the panel has told the kernel, without the numbers."""
        messages: list[dict[str, Any]] = json.loads(
            self.page.evaluate("() => JSON.stringify(model.sent)")
        )
        return [{k: m[k] for k in m if k not in {"view", "number"}} for m in messages]

    def wait_sent(self, count: int) -> list[dict[str, Any]]:
        """Wait until that many messages have been sent; returns them."""
        self.page.wait_for_function("(count) => model.sent.length >= count", arg=count)
        return self.sent


@pytest.fixture
def stage(page: Page) -> Stage:
    return Stage(page)
