"""A plan: targets checked against the live state, and the exact commands.

A plan is made by ``vm.plan()``. It never changes; what changes is the VM, and then the plan
is refused when it runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING

from snapkit import checks
from snapkit.errors import PlanError, SnapkitError
from snapkit.facts import Facts
from snapkit.model import Graph, Outcome, Problem, Target
from snapkit.printable import printable
from snapkit.request import Request
from snapkit.script import Script, Wishes

if TYPE_CHECKING:
    from pandas import DataFrame

    from snapkit.engine import Progress, Run

__all__ = ["Plan", "Preview", "make"]


_ONE_CLIENT = "# A monitor serves one client at a time: disconnect here first, or use this vm."


class Preview(str):
    """Text that shows itself as it is, without quotes and escapes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        # JupyterLab would break lines in the middle of words.
        style = "white-space: pre-wrap; word-break: normal; overflow-wrap: anywhere"
        return f'<pre style="{style}; text-align: left">{escape(self)}</pre>'


@dataclass(frozen=True)
class Bound:
    """What a plan needs of the VM that it was made for, and nothing more of it."""

    uri: str
    domain: str | None
    local: bool | None
    forms: tuple[str, ...]
    write: Callable[[tuple[Target, ...], Facts, str, Wishes], Script]
    render: Callable[[Script, str], str]
    start: Callable[[Plan, Progress | None], Run]


@dataclass(frozen=True)
class Plan:
    """Targets, the live state that they were checked against, and what was found.

    ``problems`` are all problems at once; ``ok`` is False if one of them is an error.
    """

    request: Request
    facts: Facts
    problems: tuple[Problem, ...]
    cells: dict[tuple[str, str], str] = field(repr=False)
    bound: Bound = field(repr=False)

    @property
    def targets(self) -> tuple[Target, ...]:
        """The targets, under the names that the tables show."""
        return self.request.targets

    @property
    def engine(self) -> str:
        """``prepared`` or ``classic``."""
        return self.request.engine

    @property
    def quiesce(self) -> str:
        """``no``, ``try`` or ``require``."""
        return self.request.quiesce

    @property
    def graph(self) -> Graph:
        """The block graph that the plan was made from."""
        return self.facts.graph

    @property
    def fingerprint(self) -> str:
        """The digest of that graph; a VM with another one refuses the plan."""
        return self.graph.fingerprint

    @property
    def ok(self) -> bool:
        """Whether nothing stands in the way."""
        return not any(problem.severity == "error" for problem in self.problems)

    @property
    def forms(self) -> tuple[str, ...]:
        """What ``preview`` can show."""
        return (*self.bound.forms, "python")

    @cached_property
    def script(self) -> Script:
        """The exact commands.

        Raises PlanError if the plan is refused: then nothing would be sent.
        """
        if not self.ok:
            raise PlanError(self.refusal(), self.problems)
        return self.bound.write(self.targets, self.facts, self.engine, self.request.wishes)

    def again(self, facts: Facts) -> Plan:
        """The same request, checked against newer facts."""
        return make(self.request, facts, self.bound)

    def refusal(self) -> str:
        """Why the plan is refused, a line a problem."""
        errors = [str(problem) for problem in self.problems if problem.severity == "error"]
        count = "1 problem" if len(errors) == 1 else f"{len(errors)} problems"
        return "\n".join([f"The plan is refused ({count}); nothing was sent.", *errors])

    def preview(self, form: str | None = None) -> Preview:
        """Exactly what runs, as text in one of ``forms``; without one, in the first of them.

        Raises PlanError if the plan is refused, and SnapkitError for an unknown form.
        """
        form = self.forms[0] if form is None else form
        if form == "python":
            if not self.ok:
                raise PlanError(self.refusal(), self.problems)
            return Preview(_python(self))
        if form not in self.forms:
            msg = f"There is no preview {form!r} here. Choose one of: {', '.join(self.forms)}."
            raise SnapkitError(msg)
        return Preview(self.bound.render(self.script, form))

    def to_frame(self) -> DataFrame:
        """A row a target: what will happen, and what stands in the way."""
        from snapkit import tables

        return tables.plan([(target.device, self._row(target)) for target in self.targets])

    def _row(self, target: Target) -> dict[str, object]:
        device = self.graph.find(target.device)
        mine = [p for p in self.problems if p.device == target.device]
        overlays = self.script.overlays if self.ok else ()
        node = next((o.node for o in overlays if o.device == target.device), None)
        return {
            "node": device.node or None if device else None,
            "file_before": device.file or None if device else None,
            "snapshot_file": target.file,
            "format": target.format,
            "mode": target.mode,
            "overlay_node": node,
            "ok": not any(problem.severity == "error" for problem in mine),
            "problems": "; ".join(problem.message for problem in mine),
        }

    def checks(self) -> DataFrame:
        """Devices by checks: ``ok``, ``-`` (does not apply), or the problem in words.

        What a check of the whole set found stands beside every device that it concerns.
        """
        from snapkit import tables

        names = [check.name for check in checks.CHECKS]
        return tables.checks([target.device for target in self.targets], names, self.cells)

    def run(self, progress: Progress | None = None) -> Outcome:
        """Take the snapshot and say what the VM shows afterwards.

        ``progress`` is called with each phase as it begins. Interrupted before the switch,
        the run is undone; after it, the run is finished first.

        Raises PlanError (refused), SnapshotError (failed; its text says what was undone) or
        OutcomeUnknown.
        """
        return self.start(progress).result()

    def start(self, progress: Progress | None = None) -> Run:
        """Start the run and return at once. For callbacks."""
        return self.bound.start(self, progress)

    def __repr__(self) -> str:
        state = "ok" if self.ok else "refused"
        devices = ", ".join(target.device for target in self.targets)
        return f"<Plan: {printable(devices or 'nothing')}; {state}; {_counted(self.problems)}>"

    def _repr_html_(self) -> str:
        items = "".join(f"<li>{p.severity}: {escape(str(p))}</li>" for p in self.problems)
        return f"<p>{escape(repr(self)[1:-1])}</p><ul>{items}</ul>{self.to_frame().to_html()}"


def make(request: Request, facts: Facts, bound: Bound) -> Plan:
    """Check a request against facts."""
    survey = checks.Survey(
        targets=request.targets,
        facts=facts,
        engine=request.engine,
        quiesce=request.quiesce,
        wishes=request.wishes,
        unread=frozenset(_names(facts.graph, (p.device for p in request.problems))),
    )
    found, cells = checks.run(survey)
    problems = (*request.problems, *found)
    if not request.targets and not problems:
        remedy = "Name at least one device and its snapshot file"
        problems = (Problem("", "targets", "error", "there is nothing to snapshot", remedy),)
    return Plan(request, facts, problems, cells, bound)


def _counted(problems: Iterable[Problem]) -> str:
    """``2 problems, 1 warning``; warnings are told only where there are some."""
    count = Counter(problem.severity for problem in problems)
    words = [(count["error"], "problem"), (count["warning"], "warning")]
    told = [f"{n} {word}{'' if n == 1 else 's'}" for n, word in words if n]
    return ", ".join(told) or "0 problems"


def _names(graph: Graph, given: Iterable[str]) -> Iterable[str]:
    """The devices under the names that the tables show."""
    found = (graph.find(name) for name in given)
    return (device.name for device in found if device is not None)


def _python(plan: Plan) -> str:
    """A cell that does the same."""
    bound = plan.bound
    where = [repr(bound.uri), *([repr(bound.domain)] if bound.domain else [])]
    where += [f"local={bound.local}"] if bound.local is not None else []
    lines = [
        "import snapkit",
        "",
        *([] if bound.domain else [_ONE_CLIENT]),
        f"with snapkit.connect({', '.join(where)}) as vm:",
        "    plan = vm.plan(",
        "        {",
        *(f"            {item}," for item in _items(plan)),
        "        },",
        *(f"        {name}={value!r}," for name, value in _options(plan)),
        "    )",
        "    outcome = plan.run()",
        "outcome.to_frame()",
    ]
    return "\n".join(lines)


def _shared(plan: Plan, name: str) -> bool:
    return len({getattr(target, name) for target in plan.targets}) == 1


def _items(plan: Plan) -> Iterable[str]:
    names = [name for name in ("format", "mode") if not _shared(plan, name)]
    for target in plan.targets:
        value: object = target.file
        if names:
            value = {"file": target.file} | {name: getattr(target, name) for name in names}
        yield f"{target.device!r}: {value!r}"


def _options(plan: Plan) -> Iterable[tuple[str, str]]:
    first = plan.targets[0]
    yield from ((n, getattr(first, n)) for n in ("format", "mode") if _shared(plan, n))
    yield "engine", plan.engine
    if plan.quiesce != "no":
        yield "quiesce", plan.quiesce
    for wish in fields(Wishes):
        value = getattr(plan.request.wishes, wish.name)
        if value != wish.default:
            yield wish.name, value
