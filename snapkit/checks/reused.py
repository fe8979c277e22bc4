"""The check of an overlay that is there already."""

from __future__ import annotations

from collections.abc import Iterator

from snapkit import reuse
from snapkit.checks.registry import Case, check, same_file_key
from snapkit.model import Finding

__all__ = ["overlay"]


def _reuses_visibly(case: Case) -> bool:
    return not case.creates and case.can_see and case.device is not None


@check(
    "overlay",
    "Does the existing overlay fit the disk?",
    "error",
    "warning",
    applies=_reuses_visibly,
)
def overlay(case: Case) -> Iterator[Finding]:
    """QEMU checks neither header nor size: a wrong one loses data at the next start."""
    disk = case.disk.active
    if disk is not None and case.file.kind in {"file", "device"}:
        yield from reuse.find(case.target, disk, case.file.image, lambda x: _is_image(x, case))


def _is_image(backing: str, case: Case) -> bool:
    """Whether a header's backing file is the device's active image."""
    mine, theirs = case.facts.file(case.disk.file), case.facts.file(backing)
    return same_file_key(mine) == same_file_key(theirs)
