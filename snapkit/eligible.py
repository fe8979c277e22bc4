"""Why a device cannot or should not be snapshotted: a reason each, in words. Pure.

A backend fills in ``Device.why_not`` from here, and the checks ask one by one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from snapkit.model import Device, Job, Node

__all__ = [
    "backing",
    "busy",
    "empty",
    "hollow",
    "is_firmware",
    "named",
    "protocol",
    "read_only",
    "twin",
    "unattached",
    "why_not",
]

# QEMU's path of it, or libvirt's name for it.
_FLASH = re.compile(r"/machine/[^/]*\.flash\d+|pflash\d+")


def empty(device: Device) -> str:
    """A drive without a medium."""
    return "" if device.root else "it is empty: no medium is inserted"


def hollow(device: Device) -> str:
    """A filter whose image is gone, as a job leaves it behind."""
    missing = device.root and not device.layers
    return f"its filter {device.root} stands on nothing" if missing else ""


def protocol(device: Device, nodes: Mapping[str, Node]) -> str:
    """An overlay would end up inside of the file, not above the image."""
    node = nodes.get(device.layers[0].node) if device.layers else None
    if node is None or node.kind != "protocol":
        return ""
    return f"its node {node.name} is a protocol node ({node.driver}) without a format above it"


def unattached(device: Device) -> str:
    """A node of which nobody would notice a snapshot, QEMU least of all."""
    return "" if device.attached else "neither a guest device nor an export uses this node"


def busy(device: Device, jobs: Iterable[Job]) -> str:
    """A job works on the chain: QEMU refuses, or the chain changes under the snapshot."""
    held = {*device.filters, *(layer.node for layer in device.layers)}
    job = next((job for job in jobs if not held.isdisjoint(job.nodes)), None)
    return f"the job {job.id} ({job.type}, {job.status}) is running on it" if job else ""


def read_only(device: Device) -> str:
    """Nothing is ever written to such a disk."""
    return "it is read-only: nothing is written to it" if device.read_only else ""


def twin(device: Device, earlier: Iterable[Device]) -> str:
    """Another device that uses the same disk."""
    other = next((x.name for x in earlier if x.node and x.node == device.node), "")
    return f"it is the same disk as {other} (node {device.node}): snapshot that" if other else ""


def backing(device: Device, nodes: Mapping[str, Node]) -> str:
    """Another image that stands on this disk, and would change with it."""
    node = nodes.get(device.node)
    above = next((x for x in node.users if _backs(x, device, nodes)), "") if node else ""
    return f"its node {device.node} is the backing file of the node {above}" if above else ""


def _backs(user: str, device: Device, nodes: Mapping[str, Node]) -> bool:
    above = nodes.get(user)
    return (
        above is not None
        and above.name not in device.filters
        and above.children.get("backing") == device.node
    )


def why_not(
    device: Device, nodes: Mapping[str, Node], jobs: Sequence[Job], earlier: Iterable[Device]
) -> str:
    """The first of all these reasons; empty if there is none.

    ``earlier`` are the devices before this one: of two with one disk, the second is refused.
    """
    return named(device, nodes, jobs) or twin(device, earlier) or backing(device, nodes)


def named(device: Device, nodes: Mapping[str, Node], jobs: Sequence[Job]) -> str:
    """The first of the reasons that have a check of their own; empty if there is none."""
    return (
        empty(device)
        or hollow(device)
        or protocol(device, nodes)
        or unattached(device)
        or busy(device, jobs)
        or read_only(device)
    )


def is_firmware(device: Device) -> bool:
    """Whether this is the flash memory in which the firmware and its variables live."""
    return bool(_FLASH.fullmatch(device.qdev))
