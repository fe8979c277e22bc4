"""The preflight: one small function a check, each knows its remedy.

A check is a pure function of facts. Most look at one target: they get a ``Case``, the target
with its device and all that is known, and yield ``(severity, message, remedy)``. Some look at
the whole set at once: they get the ``Survey`` and yield ``SetFinding``. To add one, write the
function in the module of its subject, decorate it, and name it in ``CHECKS``; plans, panels,
the terminal and the README's table read that.
"""

from __future__ import annotations

from snapkit.checks import asked, chain, devices, place, rest, reused, room
from snapkit.checks.registry import Case, Check, SetFinding, Survey
from snapkit.checks.registry import run as _run
from snapkit.model import Problem

__all__ = ["CHECKS", "Case", "Check", "SetFinding", "Survey", "run"]

CHECKS: tuple[Check, ...] = (
    devices.known,
    devices.once,
    devices.empty,
    devices.filter_,
    devices.protocol,
    devices.unattached,
    devices.job,
    devices.read_only,
    devices.snapshotable,
    devices.removable,
    asked.format_,
    asked.mode,
    asked.path,
    asked.engine,
    asked.quiesce,
    place.visible,
    place.directory,
    place.permission,
    place.exists,
    place.distinct,
    place.in_use,
    place.locked,
    room.space,
    room.descriptors,
    reused.overlay,
    chain.image,
    chain.base,
    chain.classic_name,
    chain.node_name,
    chain.depth,
    chain.backing_format,
    chain.cluster_size,
    chain.encryption,
    rest.left_out,
    rest.firmware,
    rest.tpm,
    rest.remembered,
)
"""Every check, in the order of the tables."""


def run(survey: Survey) -> tuple[tuple[Problem, ...], dict[tuple[str, str], str]]:
    """All problems at once, and the matrix of devices and checks as words."""
    return _run(CHECKS, survey)
