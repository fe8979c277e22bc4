"""What every panel is: an anywidget with one error path and a form without a kernel."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import anywidget
import traitlets as t

from snapkit.errors import SnapkitError
from snapkit.widgets.hub import Topic
from snapkit.widgets.session import Session
from snapkit.widgets.static import Static
from snapkit.widgets.words import what_went_wrong

__all__ = ["Handler", "Panel", "esm", "style"]

Handler = Callable[[Mapping[str, Any]], None]
"""What the user did, as the page reports it."""

STRICT = "SNAPKIT_STRICT"
"""Environment variable: if set, a panel shows its errors and raises them too. For tests."""

_SETTLE = 5.0
"""Seconds that showing a panel waits for the VM, so that its stored form is complete."""
_VIEWS = 16
"""The number of views whose messages are remembered as answered."""
_HERE = Path(__file__).parent
_log = logging.getLogger("snapkit.widgets")


def esm(name: str) -> str:
    """A panel's ES module with what it imports from ``common.js`` written into it.

    The browser loads a widget's module from a blob, where a relative import finds nothing.
    """
    common = (_HERE / "common.js").read_text(encoding="utf-8").replace("\nexport ", "\n")
    _, line, module = (_HERE / name).read_text(encoding="utf-8").partition('from "./common.js";\n')
    if not line:
        msg = f"{name} does not begin by importing from ./common.js"
        raise ValueError(msg)
    return f"{common}\n{module}"


def style() -> str:
    """The style sheet of all panels."""
    return (_HERE / "style.css").read_text(encoding="utf-8")


class Panel(anywidget.AnyWidget):
    """A view of a session. State goes to the page in traits; what the user does comes back.

    What the user does comes as a message, in whichever thread the kernel chooses. It only
    changes the session or hands work to snapkit's loop, so it never takes long.
    """

    title: ClassVar[str]
    topics: ClassVar[frozenset[Topic]]

    error = t.Unicode("").tag(sync=True)
    seen = t.Dict().tag(sync=True)
    group = t.Unicode("").tag(sync=True)

    def __init__(self, vm: object = None) -> None:
        self.session = Session.of(vm)
        super().__init__(group=self.session.name)
        self.on_msg(self._receive)
        self.session.subscribe(self._changed)
        self.begin()
        with self.caught():
            self._draw()

    def begin(self) -> None:
        """Read what the panel shows. The first panel of a session does it for all."""
        if self.session.vm is not None and self.session.graph is None:
            self.session.load(self.fail)

    def state(self) -> Mapping[str, Any]:
        """The panel's traits, as the session is now."""
        raise NotImplementedError

    def handlers(self) -> Mapping[str, Handler]:
        """What to do about each thing that the user can do."""
        raise NotImplementedError

    def static(self) -> Static:
        """The panel without a kernel: the same in every run."""
        raise NotImplementedError

    def wait(self, timeout: float = 60) -> None:
        """Return when all pending work is done. Raises TimeoutError."""
        self.session.wait(timeout)

    # --- the one error path ---------------------------------------------------------------

    def fail(self, error: BaseException) -> None:
        """Log an error and show it in the panel. Under test, raise it as well."""
        if not isinstance(error, SnapkitError):
            _log.error("%s: %s", self.title, error, exc_info=error)
        else:
            _log.info("%s: %s", self.title, error)
        with self.session.lock:
            self.error = what_went_wrong(error)
        if os.environ.get(STRICT):
            raise error

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Everything that is raised in here goes through ``fail``."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  the one place that takes them all
            self.fail(error)

    def _changed(self, topics: frozenset[str]) -> None:
        if topics & self.topics:
            with self.caught():
                self._draw()

    def _draw(self) -> None:
        with self.session.lock, self.hold_sync():
            for name, value in self.state().items():
                setattr(self, name, value)

    def _receive(self, _: object, content: Any, __: object) -> None:
        """Do what the user asked for, and tell the page that it has been answered."""
        with self.caught():
            try:
                with self.session.lock:
                    self.error = ""
                self.handlers()[content["do"]](content)
            finally:
                self._answered(content)

    def _answered(self, content: Any) -> None:
        view, number = content.get("view"), content.get("number")
        with self.session.lock:
            others = {name: last for name, last in self.seen.items() if name != view}
            recent = dict(list(others.items())[-_VIEWS:])
            self.seen = {**recent, view: number}

    # --- the widget's life ----------------------------------------------------------------

    def open(self) -> None:
        """Open the comm to the page."""
        super().open()
        _answer_beside_cells(self.comm)

    def close(self) -> None:
        """Close the comm and follow the session no more."""
        if hasattr(self, "session"):
            self.session.unsubscribe(self._changed)
        super().close()

    def __repr__(self) -> str:
        return f"<{' '.join([f'{self.title}:', *self.static().sentences])}>"

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is None:
            return None
        with self.caught():
            self.settle()
        static = self.static()
        data, metadata = bundle
        return {**data, "text/plain": static.to_text(), "text/html": static.to_html()}, metadata

    def settle(self) -> None:
        """Wait a moment for what is being read, so that what gets stored is complete."""
        if not self.session.progress.active:
            try:
                self.session.wait(_SETTLE)
            except TimeoutError:
                _log.info("%s is shown before the VM has answered", self.title)


def _answer_beside_cells(comm: Any) -> None:
    """Let messages be handled in the subshell that the page sent them to.

    JupyterLab sends a widget's messages to a subshell, so that they need not wait for the
    cell that runs. ipykernel 7.4 hands them to the thread that made the widget instead,
    where they do wait. Panels are safe in any thread, so the page's choice may stand.
    """
    if hasattr(comm, "_reply_subshell_for"):
        comm._reply_subshell_for = lambda _, chosen: chosen  # noqa: SLF001  no public way
