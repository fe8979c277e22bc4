"""The Run panel: the button, the phases, and the outcome."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import traitlets as t

from snapkit.engine import PHASES
from snapkit.model import Outcome, Switched
from snapkit.widgets.base import Handler, Panel, esm, style
from snapkit.widgets.hub import Topic
from snapkit.widgets.static import Static
from snapkit.widgets.words import count, visible

__all__ = ["Run"]

_STEPS = [name for name in PHASES if name != "undo"]
_CANCELLABLE = ("", "journal", "observe", "check", "prepare", "flush")


class Run(Panel):
    """Take the snapshot, see how far it is, and what the VM shows afterwards."""

    title = "Run"
    topics: ClassVar[frozenset[Topic]] = frozenset({"connection", "targets", "plan", "run"})
    _esm = esm("run.js")
    _css = style()

    label = t.Unicode("").tag(sync=True)
    reason = t.Unicode("").tag(sync=True)
    revision = t.Int(0).tag(sync=True)
    running = t.Bool(default_value=False).tag(sync=True)
    cancellable = t.Bool(default_value=False).tag(sync=True)
    phase = t.Unicode("").tag(sync=True)
    step = t.Int(0).tag(sync=True)
    steps = t.Int(len(_STEPS)).tag(sync=True)
    outcome = t.Dict().tag(sync=True)

    _edits = 0
    """The user's changes to the targets that the error, if any, is about."""

    def state(self) -> Mapping[str, Any]:
        """Whether the button can be pressed, how far the run is, and how the last one ended."""
        session = self.session
        progress = session.progress
        phase = progress.phase or ""
        if self._edits != session.draft.edits:
            self._edits, self.error = session.draft.edits, ""
        return {
            "label": f"Snapshot {count(len(session.draft.included), 'disk')}",
            "reason": session.not_ready,
            "revision": session.draft.revision,
            "running": progress.active,
            "cancellable": progress.active and phase in _CANCELLABLE,
            "phase": f"{progress.phase.text} …" if progress.active and progress.phase else "",
            "step": _STEPS.index(phase) + 1 if phase in _STEPS else 0,
            "outcome": {} if not progress.words else _ended(progress.words, progress.outcome),
        }

    def handlers(self) -> Mapping[str, Handler]:
        """The two buttons."""
        return {
            "press": lambda said: self.session.start_run(self.fail, said["revision"]),
            "cancel": lambda _: self.cancel(),
        }

    def press(self) -> None:
        """Take the snapshot, as the button does. Returns at once; ``wait`` for the end.

        Raises PlanError, with nothing sent, while the button is disabled.
        """
        self.session.start_run(self.fail)

    def cancel(self) -> None:
        """Stop the run before the switch. Raises PlanError when there is none."""
        self.session.cancel()

    def static(self) -> Static:
        """How the last run ended, or why there can be none now."""
        progress = self.session.progress
        label = f"Snapshot {count(len(self.session.draft.included), 'disk')}."
        said = progress.words or self.session.not_ready or "Ready."
        columns = ("Device", "File before", "File after", "Depth before", "Depth after", "Result")
        names = ("device", "file_before", "file_after", "depth_before", "depth_after", "result")
        devices = progress.outcome.devices if progress.outcome else ()
        rows = tuple(tuple(_row(device)[name] for name in names) for device in devices)
        return Static(self.title, (label, said), columns, rows)


def _ended(words: str, outcome: Outcome | None) -> dict[str, Any]:
    """An ending for the page. Times are shown, and stored nowhere else."""
    if outcome is None:
        return {"words": words, "ok": False, "findings": [], "rows": []}
    if outcome.ok and outcome.switch_seconds is not None:
        words = f"{words} The switch took {outcome.switch_seconds * 1000:.1f} ms."
    return {
        "words": words,
        "ok": outcome.ok,
        "findings": [visible(text) for text in outcome.findings],
        "rows": [_row(device) for device in outcome.devices],
    }


def _row(device: Switched) -> dict[str, str]:
    return {
        "device": device.device,
        "label": visible(device.device),
        "file_before": visible(device.file_before),
        "file_after": visible(device.file_after),
        "depth_before": str(device.depth_before),
        "depth_after": str(device.depth_after),
        "result": "ok" if device.ok else "not switched",
    }
