"""What a check is, what it may know, and how all are run."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from snapkit import node_names, paths
from snapkit.facts import Facts, FileFacts
from snapkit.model import Device, Finding, Layer, Problem, Severity, Target
from snapkit.script import Wishes

__all__ = [
    "Case",
    "Check",
    "SetFinding",
    "Survey",
    "always",
    "check",
    "check_set",
    "is_known",
    "run",
    "same_file_key",
    "switches",
]


def same_file_key(file: FileFacts) -> object:
    """What two names of one file have in common, as far as is known."""
    return file.identity or file.real_path or posixpath.normpath(file.path)


@dataclass(frozen=True)
class Survey:
    """The whole set, and what is looked up in it for every target, found once.

    ``unread`` are devices that the user named too, but whose targets could not be read.
    ``wishes`` say how the snapshot shall be remembered.
    """

    targets: tuple[Target, ...]
    facts: Facts
    engine: str = "prepared"
    quiesce: str = "no"
    unread: frozenset[str] = frozenset()
    wishes: Wishes = field(default_factory=Wishes)

    @cached_property
    def cases(self) -> tuple[Case, ...]:
        """Every target with its device."""
        find = self.facts.graph.find
        return tuple(Case(target, find(target.device), self) for target in self.targets)

    @cached_property
    def named(self) -> Counter[str]:
        """How often each device is named."""
        return Counter(case.device.name for case in self.cases if case.device is not None)

    @cached_property
    def by_file(self) -> dict[object, list[Target]]:
        """The targets by the file that they mean."""
        found: dict[object, list[Target]] = {}
        for target in self.targets:
            found.setdefault(same_file_key(self.facts.file(target.file)), []).append(target)
        return found

    @cached_property
    def reuses(self) -> bool:
        """Whether a target of the set is an overlay that is there already."""
        return any(target.mode == "existing" for target in self.targets)

    @cached_property
    def layers(self) -> dict[object, tuple[Device, int]]:
        """The files of every chain, each with its device and the number of its layer."""
        found: dict[object, tuple[Device, int]] = {}
        for device in self.facts.graph.devices.values():
            for number, layer in enumerate(device.layers):
                if layer.file:
                    key = same_file_key(self.facts.file(layer.file))
                    found.setdefault(key, (device, number))
        return found

    @cached_property
    def node_files(self) -> dict[object, str]:
        """The files of every node, each with the node's name."""
        nodes = self.facts.graph.nodes.values()
        return {same_file_key(self.facts.file(n.file)): n.name for n in nodes if n.file}

    @cached_property
    def node_names(self) -> dict[str, str]:
        """The node-name that each device's overlay would get."""
        graph = self.facts.graph
        devices = [graph.devices[name] for name in self.named]
        return dict(zip(self.named, node_names.propose(devices, graph), strict=True))


@dataclass(frozen=True, slots=True)
class Case:
    """One target with all that a check may know. ``device`` is None if there is none."""

    target: Target
    device: Device | None
    survey: Survey

    @property
    def facts(self) -> Facts:
        """The block graph, and the files where QEMU is."""
        return self.survey.facts

    @property
    def disk(self) -> Device:
        """The device, for checks that apply only where there is one."""
        assert self.device is not None  # noqa: S101  the check applies, so there is one
        return self.device

    @property
    def active(self) -> Layer:
        """The disk's active layer, for checks that apply only where there is one."""
        assert self.disk.active is not None  # noqa: S101  the check applies, so there is one
        return self.disk.active

    @property
    def file(self) -> FileFacts:
        """What is at the target's path, where QEMU is."""
        return self.facts.file(self.target.file)

    @property
    def creates(self) -> bool:
        """Whether the overlay is to be created."""
        return self.target.mode != "existing"

    @property
    def path_is_usable(self) -> bool:
        """Whether the path can be looked at, so that file checks mean something."""
        return bool(self.target.file) and paths.fault(self.target.file) is None

    @property
    def can_see(self) -> bool:
        """Whether something is known about the path, and it is QEMU's path too."""
        return self.path_is_usable and self.file.known and self.file.shared is not False


@dataclass(frozen=True, slots=True)
class SetFinding:
    """What a check of the whole set found. ``rows`` are the targets concerned; empty: all."""

    device: str
    severity: Severity
    message: str
    remedy: str
    rows: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Check:
    """A check: its name in the tables, what it asks, and how bad what it finds can be."""

    name: str
    asks: str
    severities: tuple[Severity, ...]
    look: Callable[[Survey], Iterator[tuple[str, list[Problem]]]]
    """The targets that the check is about, each with what was found there."""


_Find = Callable[[Case], Iterator[Finding]]
_FindInSet = Callable[[Survey], Iterator[SetFinding]]


def always(_: object) -> bool:
    """Applies to every target, or to every set."""
    return True


def is_known(case: Case) -> bool:
    """Applies to targets that name a device."""
    return case.device is not None


def switches(case: Case) -> bool:
    """Applies to targets whose device can be snapshotted."""
    return case.device is not None and case.device.snapshotable and case.device.active is not None


def check(
    name: str, asks: str, *severities: Severity, applies: Callable[[Case], bool] = always
) -> Callable[[_Find], Check]:
    """Make a check of a function that looks at one target."""

    def make(find: _Find) -> Check:
        def look(survey: Survey) -> Iterator[tuple[str, list[Problem]]]:
            for case in survey.cases:
                if applies(case):
                    device = case.target.device
                    yield device, [Problem(device, name, *found) for found in find(case)]

        return Check(name, asks, severities, look)

    return make


def check_set(
    name: str, asks: str, *severities: Severity, applies: Callable[[Survey], bool] = always
) -> Callable[[_FindInSet], Check]:
    """Make a check of a function that looks once at the whole set."""

    def make(find: _FindInSet) -> Check:
        def look(survey: Survey) -> Iterator[tuple[str, list[Problem]]]:
            if not applies(survey):
                return
            found = [
                (f.rows, Problem(f.device, name, f.severity, f.message, f.remedy))
                for f in find(survey)
            ]
            for target in survey.targets:
                concerned = [p for rows, p in found if not rows or target.device in rows]
                yield target.device, concerned

        return Check(name, asks, severities, look)

    return make


def run(
    checks: Sequence[Check], survey: Survey
) -> tuple[tuple[Problem, ...], dict[tuple[str, str], str]]:
    """All problems at once, device by device, and the matrix of devices and checks as words."""
    # What concerns several targets is one problem all the same.
    problems: dict[int, Problem] = {}
    cells: dict[tuple[str, str], str] = {}
    for each in checks:
        for device, found in each.look(survey):
            problems |= {id(problem): problem for problem in found}
            cells[device, each.name] = _cell(device, found)
    return tuple(_by_device(problems.values(), survey)), cells


def _cell(device: str, found: Sequence[Problem]) -> str:
    if not found:
        return "ok"
    worst = "error" if any(problem.severity == "error" for problem in found) else "warning"
    said = (
        f"{f'{p.device}: ' if p.device not in {'', device} else ''}{p.message}"
        for p in sorted(found, key=lambda problem: problem.severity != "error")
    )
    return f"{worst}: {'; '.join(said)}"


def _by_device(problems: Iterable[Problem], survey: Survey) -> list[Problem]:
    """In the order of the targets; what is about no target of the set comes last."""
    place = {target.device: number for number, target in reversed([*enumerate(survey.targets)])}
    return sorted(problems, key=lambda problem: place.get(problem.device, len(place)))
