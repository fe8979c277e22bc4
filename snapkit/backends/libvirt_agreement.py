"""Whether what libvirt remembers of snapshots still agrees with the disks' chains. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from snapkit.backends.base import Snapshot
from snapkit.backends.libvirt_xml import Moment
from snapkit.model import Device, Graph

__all__ = ["compare"]


def compare(moments: Sequence[Moment], current: str, graph: Graph) -> list[Snapshot]:
    """Every snapshot, with what does not fit in words.

    A snapshot fits if its overlays are in their disks' chains, above those of its parents.
    """
    by_name = {moment.name: moment for moment in moments}
    return [
        Snapshot(
            name=moment.name,
            parent=moment.parent,
            created=moment.created,
            state=moment.state,
            current=moment.name == current,
            description=moment.description,
            disks=moment.disks,
            why_not="; ".join(_faults(moment, by_name, graph)),
        )
        for moment in moments
    ]


def _faults(moment: Moment, by_name: Mapping[str, Moment], graph: Graph) -> list[str]:
    found: list[str] = []
    for target, file in moment.disks:
        device = graph.find(target)
        if device is None:
            found.append(f"there is no disk {target} any more")
        elif (place := _place(device, file)) is None:
            found.append(f"{file} is in the chain of {target} no more")
        elif below := _out_of_order(moment, by_name, device, place):
            found.append(f"{file} is not above {below} in the chain of {target}")
    return found


def _place(device: Device, file: str) -> int | None:
    return next((n for n, layer in enumerate(device.layers) if layer.file == file), None)


def _out_of_order(moment: Moment, by_name: Mapping[str, Moment], device: Device, place: int) -> str:
    """The overlay of an earlier snapshot that is not below; empty if there is none."""
    seen = {moment.name}
    parent = by_name.get(moment.parent or "")
    while parent is not None and parent.name not in seen:
        seen.add(parent.name)
        for target, file in parent.disks:
            if _means(target, device):
                there = _place(device, file)
                if there is not None and there <= place:
                    return file
        parent = by_name.get(parent.parent or "")
    return ""


def _means(target: str, device: Device) -> bool:
    """Whether a snapshot's name of a disk means this device."""
    return target == device.name or target in device.aliases
