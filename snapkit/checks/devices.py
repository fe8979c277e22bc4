"""Checks of the device: whether there is one, and whether it can be snapshotted."""

from __future__ import annotations

from collections.abc import Iterator

from snapkit import eligible
from snapkit.checks.registry import Case, check, is_known
from snapkit.model import Device, Finding

__all__ = [
    "empty",
    "filter_",
    "job",
    "known",
    "once",
    "protocol",
    "read_only",
    "removable",
    "snapshotable",
    "unattached",
]

_NAMES_SHOWN = 8


@check("known", "Is there such a device?", "error")
def known(case: Case) -> Iterator[Finding]:
    """The device is one of this VM's; a node below one is named as what it is."""
    if case.device is not None:
        return
    name = case.target.device
    node = case.facts.graph.nodes.get(name)
    if node is not None:
        user = next((d.name for d in case.facts.graph.devices.values() if _holds(d, name)), "")
        where = f" inside the chain of {user}" if user else ""
        message = f"{name!r} is a {node.kind} node ({node.driver}){where}"
        remedy = f"Name the device {user}" if user else _choices(case)
        yield "error", f"{message}; a snapshot there would damage it", remedy
        return
    close = case.facts.graph.closest(name)
    remedy = f"Did you mean {' or '.join(close)}?" if close else _choices(case)
    yield "error", f"the VM has no device {name!r}", remedy


def _choices(case: Case) -> str:
    names = [device.name for device in case.facts.graph.devices.values() if device.snapshotable]
    if not names:
        return "This VM has no device that can be snapshotted"
    more = ", and more" if len(names) > _NAMES_SHOWN else ""
    return f"Choose one of: {', '.join(names[:_NAMES_SHOWN])}{more}"


def _holds(candidate: Device, node: str) -> bool:
    below = candidate.name, candidate.root, *candidate.filters, *(x.node for x in candidate.layers)
    return node in below or node in candidate.inner


@check("once", "Is the device named only once?", "error", applies=is_known)
def once(case: Case) -> Iterator[Finding]:
    """Two overlays for one device would stack two layers on it."""
    if case.survey.named[case.disk.name] > 1:
        yield "error", "the device is named twice", "Leave one of the two out"


@check("empty", "Is a medium inserted?", "error", applies=is_known)
def empty(case: Case) -> Iterator[Finding]:
    """An overlay needs an image to stand on."""
    if why := eligible.empty(case.disk):
        yield "error", _cannot(why), "Insert a medium first, or leave the device out"


@check("filter", "Is there an image below the device's filters?", "error", applies=is_known)
def filter_(case: Case) -> Iterator[Finding]:
    """A job that was ended without its image leaves such a device."""
    if why := eligible.hollow(case.disk):
        remedy = "End the job that the filter belongs to, or leave the device out"
        yield "error", _cannot(why), remedy


@check("protocol", "Is there a format above the file?", "error", applies=is_known)
def protocol(case: Case) -> Iterator[Finding]:
    """QEMU would take such a snapshot, and nest the overlay inside of the file."""
    if why := eligible.protocol(case.disk, case.facts.graph.nodes):
        remedy = "Start the VM with a format node above it, such as driver=raw, or leave it out"
        yield "error", _cannot(why), remedy


@check("unattached", "Does anybody use the node?", "error", applies=is_known)
def unattached(case: Case) -> Iterator[Finding]:
    """QEMU reports success for such a node, and the overlay is gone at once."""
    if why := eligible.unattached(case.disk):
        yield "error", _cannot(why), "Name the device that the guest uses, or leave it out"


@check("job", "Is the device free of running jobs?", "error", applies=is_known)
def job(case: Case) -> Iterator[Finding]:
    """A mirror, backup, commit or stream is at work on the chain."""
    if why := eligible.busy(case.disk, case.facts.graph.jobs):
        yield "error", _cannot(why), "Wait until the job has ended, or cancel it"


@check("read-only", "Can the guest write to the device?", "error", applies=is_known)
def read_only(case: Case) -> Iterator[Finding]:
    """The overlay would stay empty for ever."""
    if why := eligible.read_only(case.disk):
        yield "error", _cannot(why), "Leave the device out: it cannot change"


@check("snapshotable", "Is there no other reason against it?", "error", applies=is_known)
def snapshotable(case: Case) -> Iterator[Finding]:
    """The device's own reason, where no check of this module has named it."""
    graph = case.facts.graph
    if case.disk.why_not and not eligible.named(case.disk, graph.nodes, graph.jobs):
        yield "error", _cannot(case.disk.why_not), "Leave the device out"


def _cannot(why: str) -> str:
    return f"it cannot be snapshotted: {why}"


@check("removable", "Does the medium stay where it is?", "warning", applies=is_known)
def removable(case: Case) -> Iterator[Finding]:
    """A drive without a guest device counts as removable for QEMU, and is not meant."""
    if case.disk.removable and case.disk.qdev and case.disk.layers:
        message = "the medium is removable, and without it the overlay is worth nothing"
        yield "warning", message, "Keep image and overlay together, or leave the device out"
