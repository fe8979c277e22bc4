"""The Targets panel: which disks, and where their overlays go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import traitlets as t

from snapkit.errors import PlanError
from snapkit.model import FORMATS, MODES, Device, Problem
from snapkit.naming import FIELDS
from snapkit.widgets.base import Handler, Panel, esm, style
from snapkit.widgets.draft import Row
from snapkit.widgets.hub import Topic
from snapkit.widgets.static import Static
from snapkit.widgets.words import count, visible

__all__ = ["Targets"]

_FIELDS = ("file", "format", "mode", "include")


class Targets(Panel):
    """A row a device: whether it is included, its snapshot file, format and mode.

    Every change is checked, and what stands in the way is shown beside its row.
    """

    title = "Targets"
    topics: ClassVar[frozenset[Topic]] = frozenset({"connection", "devices", "targets", "plan"})
    _esm = esm("targets.js")
    _css = style()

    rows: t.List[Any] = t.List().tag(sync=True)
    problems = t.Dict().tag(sync=True)
    summary = t.Unicode("").tag(sync=True)
    template = t.Unicode("").tag(sync=True)
    fields = t.Unicode("").tag(sync=True)
    formats = t.List(list(FORMATS)).tag(sync=True)
    modes = t.List(list(MODES)).tag(sync=True)

    def _lines(self) -> Iterable[tuple[Device, Row]]:
        """Every device with its row; one that cannot be snapshotted has an empty one."""
        graph, rows = self.session.graph, self.session.draft.rows
        for device in graph.devices.values() if graph else ():
            yield device, rows.get(device.name) or Row(device.name, include=False)

    def _found(self) -> dict[str, list[Problem]]:
        """The plan's problems by device; "" has those of the whole plan."""
        found: dict[str, list[Problem]] = {}
        plan, rows = self.session.draft.plan, self.session.draft.rows
        for problem in plan.problems if plan else ():
            found.setdefault(problem.device if problem.device in rows else "", []).append(problem)
        return found

    def state(self) -> Mapping[str, Any]:
        """What is filled in, and what stands in its way."""
        return {
            "rows": [_line(device, row) for device, row in self._lines()],
            "problems": {
                device: [_shown(problem) for problem in problems]
                for device, problems in self._found().items()
            },
            "summary": self._summary(),
            "template": self.session.draft.template,
            "fields": ", ".join(f"{{{name}}}" for name in FIELDS),
        }

    def _summary(self) -> str:
        draft = self.session.draft
        if self.session.graph is None:
            return "Not connected." if self.session.vm is None else "The VM is being read."
        if not draft.rows:
            return "No device of this VM can be snapshotted."
        if not draft.included:
            return "No disk is included."
        disks = count(len(draft.included), "disk")
        if draft.checking:
            return f"{disks}, being checked …"
        if draft.plan is None:
            return f"{disks}, not checked."
        if not self.session.connected:
            return f"{disks}, as last checked: not connected any more."
        wrong = sum(problem.severity == "error" for problem in draft.plan.problems)
        warned = len(draft.plan.problems) - wrong
        found = [count(n, noun) for n, noun in ((wrong, "problem"), (warned, "warning")) if n]
        return f"{disks}, {' and '.join(found) or 'all checks passed'}."

    def handlers(self) -> Mapping[str, Handler]:
        """The controls of a row, the template, and the buttons."""
        return {
            "edit": lambda said: self.set(said["device"], **{said["name"]: said["value"]}),
            "template": lambda said: self.session.draft.type_template(said["value"]),
            "fill": lambda said: self.fill(said["template"]),
            "include": lambda said: self.include_all(include=said["value"]),
        }

    def set(self, device: str, **changes: Any) -> None:
        """Fill in ``file``, ``format``, ``mode`` or ``include`` for a device.

        Raises PlanError for a device that cannot be snapshotted, or another field.
        """
        for name in changes:
            if name not in _FIELDS:
                msg = f"A target has no field {name!r}; it has: {', '.join(_FIELDS)}."
                raise PlanError(msg)
        self.session.draft.edit(device, self.fail, **changes)

    def fill(self, template: str | None = None) -> None:
        """Name every snapshot file by the template, as the button "Fill in" does."""
        draft = self.session.draft
        draft.fill(draft.template if template is None else template, self.fail)

    def include_all(self, *, include: bool = True) -> None:
        """Include every device, or none."""
        self.session.draft.include_all(include, self.fail)

    def static(self) -> Static:
        """The table, with problems and reasons in words."""
        columns = ("Include", "Device", "Snapshot file", "Format", "Mode", "Problems")
        found = self._found()
        rows = tuple(_cells(dev, row, found.get(row.device, ())) for dev, row in self._lines())
        general = tuple(str(problem) for problem in found.get("", ()))
        return Static(self.title, (self._summary(), *general), columns, rows)


def _line(device: Device, row: Row) -> dict[str, Any]:
    hidden = "" if row.file.isprintable() else "Has characters that cannot be seen: "
    return {
        "device": row.device,
        "label": visible(row.device),
        "include": row.include,
        "file": row.file,
        "format": row.format,
        "mode": row.mode,
        "why_not": device.why_not and f"Cannot be snapshotted: {visible(device.why_not)}.",
        "note": hidden and hidden + visible(row.file),
    }


def _shown(problem: Problem) -> dict[str, str]:
    return {
        "severity": problem.severity,
        "message": visible(problem.message),
        "remedy": visible(problem.remedy) + ("" if problem.remedy.endswith("?") else "."),
    }


def _cells(device: Device, row: Row, found: Iterable[Problem]) -> tuple[str, ...]:
    if device.why_not:
        return "no", row.device, "", "", "", f"cannot be snapshotted: {device.why_not}"
    said = " ".join(f"{p.severity}: {p.message}. {p.remedy}." for p in found)
    include = "yes" if row.include else "no"
    return include, row.device, row.file, row.format, row.mode, said
