"""Checks of what the whole set needs of the host: space, and open files."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence

from snapkit import space as sizes
from snapkit.checks.chain import overlay_cluster
from snapkit.checks.registry import Case, SetFinding, Survey, check_set, switches
from snapkit.model import FORMATS

__all__ = ["descriptors", "space"]

_NAMES_SHOWN = 8


def _rooms(survey: Survey) -> list[list[Case]]:
    """The overlays that are to be plain files, by the file system on which they are."""
    found: dict[int, list[Case]] = {}
    for case in survey.cases:
        if not switches(case) or case.target.format not in FORMATS or not case.can_see:
            continue
        file = case.file
        if file.file_system is not None and file.free_bytes is not None and file.kind != "device":
            found.setdefault(file.file_system, []).append(case)
    return list(found.values())


def _some_room_is_known(survey: Survey) -> bool:
    return bool(_rooms(survey))


@check_set(
    "space",
    "Is there room for the overlays, however much the guest writes?",
    "error",
    "warning",
    applies=_some_room_is_known,
)
def space(survey: Survey) -> Iterator[SetFinding]:
    """At worst every overlay grows to its disk's size, and its tables on top."""
    for cases in _rooms(survey):
        free = min(case.file.free_bytes or 0 for case in cases)
        first, worst = sum(map(_at_first, cases)), sum(map(_at_worst, cases))
        names = tuple(case.target.device for case in cases)
        where = f"the file system of {posixpath.dirname(cases[0].target.file)}"
        left = f"{sizes.in_words(free)} are free on {where}"
        more = "Make room there, or choose another place"
        if free < first:
            needs = f"to create {_overlays(names)} takes {sizes.in_words(first)}"
            for name in names:
                yield SetFinding(name, "error", f"only {left}, and {needs}", more, (name,))
        elif free < worst:
            grows = f"{_overlays(names)} may grow to {sizes.in_words(worst)}"
            message = f"{left}, and {grows}: if it fills up, the guest's writes fail or it stops"
            device = names[0] if len(names) == 1 else ""
            yield SetFinding(device, "warning", message, more, names)


def _at_first(case: Case) -> int:
    if not case.creates:
        return 0
    cluster = overlay_cluster(case) or sizes.CLUSTER
    return sizes.at_first(case.target.format, case.active.virtual_size, cluster)


def _at_worst(case: Case) -> int:
    """What the overlay may still take, besides what it has."""
    cluster = overlay_cluster(case) or sizes.CLUSTER
    worst = sizes.at_worst(case.target.format, case.active.virtual_size, cluster)
    return max(worst - (case.file.allocated_bytes or 0), 0)


def _overlays(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    together = "" if len(names) == 1 else " together"
    plural = "overlay" if len(names) == 1 else "overlays"
    return f"the {plural} of {', '.join(names[:_NAMES_SHOWN])}{more}{together}"


def _descriptors_are_known(survey: Survey) -> bool:
    return survey.facts.fd_limit is not None and survey.facts.fd_used is not None


@check_set(
    "file descriptors",
    "May QEMU open as many files as the set needs?",
    "error",
    applies=_descriptors_are_known,
)
def descriptors(survey: Survey) -> Iterator[SetFinding]:
    """One a file for each overlay, for good, and one more for a moment."""
    limit, used = survey.facts.fd_limit or 0, survey.facts.fd_used or 0
    wanted = sum(map(switches, survey.cases))
    if wanted and used + wanted + 1 > limit:
        message = f"QEMU has {used} files open of {limit} that it may, and needs {wanted + 1} more"
        cure = f"Raise its limit (prlimit --pid PID --nofile={2 * limit}:), or shorten the chains"
        yield SetFinding("", "error", message, cure)
