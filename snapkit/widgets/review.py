"""The Review panel: exactly what will be sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import traitlets as t

from snapkit.errors import SnapkitError
from snapkit.plan import Plan
from snapkit.widgets.base import Handler, Panel, esm, style
from snapkit.widgets.hub import Topic
from snapkit.widgets.static import Static
from snapkit.widgets.words import count, visible

__all__ = ["Review"]

# "Shell" is the form of QEMU's qmp-shell: nobody who asks for "QMP" is to find two tabs.
_LABELS = {"qmp": "QMP", "qmp-shell": "Shell", "xml": "XML", "python": "Python"}


class Review(Panel):
    """The plan in each of its forms, to read and to copy; or what stands in its way."""

    title = "Review"
    topics: ClassVar[frozenset[Topic]] = frozenset({"connection", "plan"})
    _esm = esm("review.js")
    _css = style()

    forms: t.List[Any] = t.List().tag(sync=True)
    status = t.Unicode("").tag(sync=True)
    problems: t.List[Any] = t.List().tag(sync=True)

    @property
    def _plan(self) -> Plan | None:
        """The plan, unless it is being made."""
        draft = self.session.draft
        return None if draft.checking else draft.plan

    def state(self) -> Mapping[str, Any]:
        """Every form's text. While a plan is being made, the last one stays in view."""
        status = {"status": self._status()}
        if self.session.draft.checking:
            return status
        plan = self._plan
        names = plan.forms if plan else ()
        return status | {
            "forms": [
                {"form": name, "label": _LABELS.get(name, name), "text": _text(plan, name)}
                for name in names
            ],
            "problems": [_line(problem) for problem in plan.problems] if plan else [],
        }

    def _status(self) -> str:
        draft = self.session.draft
        if draft.checking:
            return "The plan is being checked …"
        if draft.plan is None:
            return "There is no plan yet."
        if not draft.plan.ok:
            return "Refused: nothing would be sent."
        disks = count(len(draft.plan.targets), "disk")
        if not self.session.connected:
            return f"Not connected. This would have been sent for {disks}."
        return f"This is what will be sent for {disks}."

    def handlers(self) -> Mapping[str, Handler]:
        """Nothing here changes anything; tabs and copying are the page's own."""
        return {}

    def static(self) -> Static:
        """The plan as it will be sent, or its problems."""
        plan = self._plan
        problems = tuple(_line(problem) for problem in plan.problems) if plan else ()
        code = _text(plan, plan.forms[0]) if plan else ""
        return Static(self.title, (self._status(), *problems), code=code)


def _text(plan: Plan | None, form: str) -> str:
    """The plan in one form; where a form cannot express it, why not."""
    if plan is None or not plan.ok:
        return ""
    try:
        return str(plan.preview(form))
    except SnapkitError as err:
        return str(err)


def _line(problem: object) -> str:
    severity = getattr(problem, "severity", "")
    return visible(f"{'Problem' if severity == 'error' else 'Warning'}: {problem}")
