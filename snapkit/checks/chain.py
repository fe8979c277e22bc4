"""Checks of the disk's own images: what the overlay stands on, and what its header will say."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Iterator
from itertools import pairwise

from snapkit import disk_image, node_names, space
from snapkit.checks.registry import Case, check, switches
from snapkit.model import FORMATS, Finding, Layer

__all__ = [
    "backing_format",
    "base",
    "classic_name",
    "cluster_size",
    "depth",
    "encryption",
    "image",
    "node_name",
]

_DEEP = 16
"""Backing images from which on a chain costs more than it gives."""
_LIBVIRT_MOST = 200
"""Images of one chain with which libvirt starts a VM; 10.8 to 11 manage about 25."""
_QEMU_MOST = 1000
"""Backing images through which QEMU can read. 7.2 does; with 1,100 its stack overflows."""
_LIBVIRT_NODE = re.compile(r"libvirt-\d+-(format|storage)")


@check("image", "Is the disk's image still the file that QEMU has open?", "error", applies=switches)
def image(case: Case) -> Iterator[Finding]:
    """The overlay's header names a file, and at the next start that file would be opened."""
    for words in disk_image.replaced(case.facts.graph, case.disk, case.facts.files):
        yield "error", words, "Put the disk's own image back under its name"


@check(
    "base", "Can the overlay's header name the disk's image?", "error", "warning", applies=switches
)
def base(case: Case) -> Iterator[Finding]:
    """A header with a name that cannot be opened later breaks the chain at the next start."""
    yield from disk_image.nameable(case.facts.graph, case.active)


@check(
    "classic name",
    "Will the classic engine write a header that can be opened?",
    "error",
    applies=switches,
)
def classic_name(case: Case) -> Iterator[Finding]:
    """``blockdev-snapshot-sync`` records the name that QEMU was given, relative or not."""
    if case.survey.engine != "classic" or not case.creates:
        return
    node = case.facts.graph.nodes[case.disk.node]
    here = posixpath.dirname(case.target.file)
    remedy = "Use engine='prepared', which writes the header itself"
    if (
        disk_image.is_relative(node.given_name)
        and posixpath.normpath(here) != case.facts.qemu_directory
    ):
        message = f"QEMU would record the relative backing file {node.given_name!r}"
        yield "error", f"{message}, lost from {here}", remedy
    elif node.given_name.startswith("json:") and node.file != node.given_name:
        message = f"QEMU would record the options of {node.file} instead of its name"
        yield "error", f"{message}, and they cannot be opened later", remedy


@check("node name", "Are the nodes' names ones that QEMU takes?", "error", applies=switches)
def node_name(case: Case) -> Iterator[Finding]:
    """The disk's node has to be named in a command, and the overlay's node is a new one."""
    if not node_names.can_be_sent(case.disk.node):
        message = f"the disk's node {case.disk.node!r} has a name that cannot be sent"
        yield "error", message, "Start the VM with node-name=, in letters and digits"
    name = case.survey.node_names[case.disk.name]
    for wanted in (name, node_names.file_of(name)):
        if not node_names.is_valid(wanted) or wanted in case.facts.graph.nodes:
            message = f"the overlay's node would be called {wanted!r}, which QEMU does not take"
            yield "error", message, "Give the device an id of letters and digits"


@check("chain depth", "Can a VM start with so long a chain?", "error", "warning", applies=switches)
def depth(case: Case) -> Iterator[Finding]:
    """Every layer costs an open file and time; QEMU and libvirt each have a limit."""
    below = len(case.disk.layers)
    long = f"the chain would have {below} backing images"
    shorten = "Shorten the chain first, with block-commit or block-stream"
    by_libvirt = any(_LIBVIRT_NODE.fullmatch(layer.node) for layer in case.disk.layers)
    if below > _QEMU_MOST:
        message = f"{long}; QEMU can crash when it reads through more than {_QEMU_MOST}"
        yield "error", message, shorten
    elif by_libvirt and below + 1 > _LIBVIRT_MOST:
        message = f"{long}; libvirt starts no VM with more than {_LIBVIRT_MOST} images in a chain"
        yield "error", message, shorten
    elif below >= _DEEP:
        message = f"{long}; each one makes reading slower and has to be found at every start"
        if by_libvirt:
            message += ", and libvirt 10.8 to 11 starts no VM with more than about 25"
        yield "warning", message, shorten


@check(
    "backing format",
    "Does every header say its backing file's format?",
    "warning",
    applies=switches,
)
def backing_format(case: Case) -> Iterator[Finding]:
    """Without it QEMU guesses from the content, and libvirt takes the file for raw."""
    silent = [pair for pair in pairwise(case.disk.layers) if _is_silent(case, *pair)]
    if not silent:
        return
    layer, below = silent[0]
    message = f"the header of {layer.file} does not record that its backing file is {below.format}"
    if below.format == "raw":
        message += "; QEMU guesses, from bytes that the guest has written"
    if len(silent) > 1:
        message += f"; nor do {len(silent) - 1} more headers of the chain"
    name = case.facts.graph.nodes[layer.node].header_backing_file or below.file
    files = f"-b {shlex.quote(name)} {shlex.quote(layer.file)}"
    cure = f"qemu-img rebase -u -f {layer.format} -F {below.format} {files}"
    yield "warning", message, f"Run {cure} when the VM is off"


def _is_silent(case: Case, layer: Layer, below: Layer) -> bool:
    node = case.facts.graph.nodes.get(layer.node)
    if node is None or not node.header_backing_file or node.header_backing_format is not None:
        return False
    # A qed header has no room for another format than raw; other formats have none at all.
    return layer.format in FORMATS and (layer.format != "qed" or below.format == "raw")


@check("cluster size", "Has the overlay the cluster size of its base?", "warning", applies=switches)
def cluster_size(case: Case) -> Iterator[Finding]:
    """Prepared overlays take it over; QEMU's own default is 64 KiB whatever the base has."""
    mine = overlay_cluster(case)
    theirs = case.facts.graph.nodes[case.disk.node].cluster_size
    if (case.target.format, case.active.format) != ("qcow2", "qcow2") or theirs is None:
        return
    if mine is None or mine == theirs:
        return
    cost = (
        "the first write to each cluster copies more than it would in the base"
        if mine > theirs
        else "it needs more tables than the base, and reading them takes longer"
    )
    sizes = f"{space.in_words(mine)}, not {space.in_words(theirs)}"
    remedy = (
        "Use engine='prepared', which takes the base's size"
        if case.creates
        else f"Create it again with qemu-img create -o cluster_size={theirs}"
    )
    yield "warning", f"the overlay has clusters of {sizes}: {cost}", remedy


def overlay_cluster(case: Case) -> int | None:
    """The cluster size that the overlay has or would get; None if that is not known."""
    if not case.creates:
        return case.file.image.cluster_size if case.file.image else None
    theirs = case.facts.graph.nodes[case.disk.node].cluster_size
    alike = case.target.format == case.active.format
    if case.survey.engine == "classic" or not alike or theirs is None:
        return space.CLUSTER
    return theirs


@check("encryption", "Would the overlay be as secret as the disk?", "warning", applies=switches)
def encryption(case: Case) -> Iterator[Finding]:
    """An overlay is not encrypted only because its base is."""
    if case.creates and case.facts.graph.nodes[case.disk.node].encrypted:
        message = "the disk is encrypted, and the overlay would not be: new data would be readable"
        yield "warning", message, "Keep the overlay where nobody else reads it, or leave it out"
