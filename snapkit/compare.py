"""Two readings of one VM side by side: what a run changed, and what it must not have. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Callable

from snapkit.model import Device, Graph, Node, Switched
from snapkit.script import Overlay

__all__ = ["changes", "header", "header_of", "is_on", "misplaced", "put_on", "switched"]


def is_on(graph: Graph, overlay: Overlay) -> bool:
    """Whether the overlay's device stands on the overlay, or on what was put on top of it."""
    device = graph.devices.get(overlay.device)
    return device is not None and any(layer.file == overlay.file for layer in device.layers)


def switched(before: Graph, after: Graph, overlay: Overlay) -> Switched:
    """What became of the overlay's device; ``ok`` if its old chain is whole below the overlay."""
    old = before.devices[overlay.device]
    new = after.devices.get(overlay.device) or Device(old.name)
    return Switched(
        device=old.name,
        file_before=old.file,
        file_after=new.file,
        depth_before=old.depth,
        depth_after=new.depth,
        ok=new.file == overlay.file and _chain(new)[1:] == _chain(old),
    )


def put_on(before: Graph, overlay: Overlay) -> Switched:
    """What became of a device of which only its overlay can still be looked at."""
    old = before.devices[overlay.device]
    return Switched(old.name, old.file, overlay.file, old.depth, old.depth + 1, ok=False)


def changes(before: Graph, after: Graph) -> dict[str, str]:
    """A sentence for every device that is not as it was."""
    found: dict[str, str] = {}
    for name, old in before.devices.items():
        if old.attached and (text := _change(old, after.devices.get(name))):
            found[name] = f"{name} {text}"
    new = (d for d in after.devices.values() if d.attached and d.name not in before.devices)
    return found | {device.name: f"{device.name} is new" for device in new}


def _change(old: Device, new: Device | None) -> str:
    if new is None:
        return "is gone"
    if new.file != old.file:
        return f"was on {old.file or 'nothing'} and is on {new.file or 'nothing'}"
    if _chain(new) != _chain(old):
        return f"has another chain below {new.file}"
    if [x.virtual_size for x in new.layers] != [x.virtual_size for x in old.layers]:
        return "has another size"
    if (new.root, new.read_only, new.qdev) != (old.root, old.read_only, old.qdev):
        return "has another node, access mode or guest device"
    return ""


def _chain(device: Device) -> list[tuple[str, str, str]]:
    return [(layer.node, layer.format, layer.file) for layer in device.layers]


def misplaced(after: Graph, found: Switched, overlay: Overlay) -> str:
    """What is wrong with where a device is after the switch, or nothing."""
    if found.ok:
        return ""
    if found.file_after != overlay.file:
        return f"{found.device} is on {found.file_after or 'nothing'}"
    below = ", ".join(layer.file for layer in after.devices[found.device].layers[1:])
    return (
        f"{found.device}: the chain below {overlay.file} is another one now: {below or 'nothing'}"
    )


def header(graph: Graph, overlay: Overlay) -> str:
    """What is wrong with the overlay's header as the live node shows it, or nothing.

    Names are compared as text: where the files can be looked at, that says more.
    """
    device = graph.devices.get(overlay.device)
    node = graph.nodes.get(device.node) if device else None
    return header_of(node, overlay) if node and node.header_known else ""


def header_of(
    node: Node, overlay: Overlay, real: Callable[[str], object] = posixpath.normpath
) -> str:
    """What is wrong with the header of an overlay's open node, or nothing.

    Two names are one file if ``real`` makes the same of them.
    """
    there = posixpath.dirname(overlay.file)
    named = posixpath.normpath(posixpath.join(there, node.header_backing_file or ""))
    # A qed header has no room for another format than raw.
    unsaid = None if overlay.backing_format == "raw" else overlay.backing_format
    format_ = node.header_backing_format or unsaid
    wanted = posixpath.normpath(overlay.backing_file), overlay.backing_format
    if node.header_backing_file and (real(named), format_) == (real(wanted[0]), wanted[1]):
        return ""
    words = f"{named} ({format_})" if node.header_backing_file else "nothing"
    return (
        f"the header of {overlay.file} names {words} as its backing file, "
        f"not {wanted[0]} ({wanted[1]})"
    )
