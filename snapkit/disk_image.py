"""Whether a disk's image can be what an overlay stands on. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from snapkit import paths
from snapkit.facts import FileFacts
from snapkit.model import Device, Finding, Graph, Layer

__all__ = ["is_relative", "nameable", "replaced"]

_DESCRIPTORS = "/dev/fdset/"
"""Names of files that QEMU was handed open; no such names are in the file system."""
_UNKNOWN_BYTE = "\N{REPLACEMENT CHARACTER}"


def is_relative(name: str) -> bool:
    """Whether this is a plain file name that depends on a directory."""
    return bool(name) and not name.startswith("/") and ":" not in name


def nameable(graph: Graph, layer: Layer) -> Iterator[Finding]:
    """What keeps an image's name out of a header, or from being understood there."""
    name, absolute = layer.file, "Start the VM with an absolute image name"
    if _UNKNOWN_BYTE in name:
        message = f"the disk's image {name!r} has a name that is not UTF-8"
        yield "error", message, "Rename the image and start the VM with the new name"
        return
    if len(name.encode()) > paths.LONGEST:
        message = "the name of the disk's image is too long for an overlay's header"
        yield "error", message, "Start the VM with a shorter name"
    if is_relative(name):
        message = f"QEMU was given the relative name {name!r} and its directory is not known"
        yield "error", message, absolute
    elif _is_file_with_colon(graph, layer):
        protocol = name.partition(":")[0]
        message = f"QEMU was given the relative name {name!r}, and in the overlay's header it"
        yield "error", f"{message} would be read as the protocol {protocol!r}", absolute
    elif words := paths.is_misread(name):
        message = f"the disk's image {name} {words}, and so it would be from the overlay's header"
        yield "warning", message, "Give QEMU the whole chain at the next start, or rebase it then"


def _is_file_with_colon(graph: Graph, layer: Layer) -> bool:
    """Whether a plain file's own name looks like a protocol. ``json:`` is QEMU's own."""
    looks = not layer.file.startswith(("/", "json:")) and ":" in layer.file.partition("/")[0]
    return looks and _is_plain(graph, layer)


def replaced(graph: Graph, device: Device, files: Mapping[str, FileFacts]) -> Iterator[str]:
    """The files of a device's chain that are not those that QEMU has open, in words.

    Only plain files are judged, and only those of which it is known what QEMU has open.
    """
    for layer in device.layers:
        facts = files.get(layer.file)
        if facts is None or facts.held is not False or facts.shared is False:
            continue
        if not _is_plain(graph, layer):
            continue
        if facts.exists:
            yield f"{layer.file} is another file than the one that QEMU has open"
        else:
            yield f"{layer.file} is gone: QEMU has a file open that no longer has this name"


def _is_plain(graph: Graph, layer: Layer) -> bool:
    """Whether a layer is a file that QEMU has opened by a name that can be looked up."""
    if layer.file.startswith(_DESCRIPTORS) or _UNKNOWN_BYTE in layer.file:
        return False
    node = graph.nodes.get(layer.node)
    for _ in graph.nodes:
        if node is None or node.kind == "protocol":
            break
        node = graph.nodes.get(node.children.get("file", ""))
    return node is not None and node.driver == "file"
