"""The one libvirt call of a plan, and how it looks as XML and for virsh. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from snapkit import eligible, naming
from snapkit.backends import libvirt_xml
from snapkit.backends.libvirt_xml import DiskWish
from snapkit.errors import SnapkitError
from snapkit.facts import Facts
from snapkit.model import Device, Target
from snapkit.paths import unfit_for_xml
from snapkit.script import Command, Overlay, Script, Wishes

__all__ = ["CALL", "FLAGS", "FORMS", "render", "write"]

CALL = "virDomainSnapshotCreateXML"
FORMS = ("xml", "virsh")
"""What a script can be rendered as."""
FLAGS = {
    "NO_METADATA": "--no-metadata",
    "DISK_ONLY": "--disk-only",
    "REUSE_EXT": "--reuse-external",
    "ATOMIC": "--atomic",
    "VALIDATE": "--validate",
}
"""``VIR_DOMAIN_SNAPSHOT_CREATE_*``, and virsh's option for it."""

# What virsh reads as a name whatever domains there are: neither an id, a uuid nor an option.
_PLAIN_NAME = re.compile(r"[A-Za-z_][\w.+-]*", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}-.*", re.IGNORECASE)
_NAMES_TRIED = 10_000


@dataclass(frozen=True, slots=True)
class Subject:
    """The domain that a script is for."""

    uri: str
    name: str
    uuid: str


def write(targets: Sequence[Target], facts: Facts, wishes: Wishes, subject: Subject) -> Script:
    """The call that puts every target's overlay on its disk, all at one instant.

    Every disk of the domain is named: libvirt would take a snapshot of those that are not.
    Raises SnapkitError for a name that XML cannot hold.
    """
    overlays = tuple(_overlay(target, facts) for target in targets)
    by_device = {overlay.device: overlay for overlay in overlays}
    disks = [
        _wish(device, by_device.get(device.name), facts)
        for device in facts.graph.devices.values()
        if not eligible.is_firmware(device)
    ]
    name = _snapshot_name(wishes.name, facts.snapshots)
    flags = ["DISK_ONLY", "ATOMIC", "VALIDATE"]
    flags += ["REUSE_EXT"] if any(not overlay.create for overlay in overlays) else []
    flags += ["NO_METADATA"] if wishes.metadata == "no" else []
    arguments = {
        "domain": subject.name,
        "uuid": subject.uuid,
        "uri": subject.uri,
        "xml": libvirt_xml.snapshot(name, wishes.description, disks),
        "flags": [flag for flag in FLAGS if flag in flags],
    }
    return Script(overlays, (), Command(CALL, arguments))


def _overlay(target: Target, facts: Facts) -> Overlay:
    device = facts.graph.find(target.device)
    assert isinstance(device, Device) and device.active is not None  # noqa: S101, PT018  checked
    return Overlay(
        device=device.name,
        file=target.file,
        format=target.format,
        create=target.mode != "existing",
        virtual_size=device.active.virtual_size,
        base_node=device.node,
        backing_file=device.file,
        backing_format=device.active.format,
    )


def _wish(device: Device, overlay: Overlay | None, facts: Facts) -> DiskWish:
    """What becomes of a disk. One that is switched is named by its image, not by its target.

    libvirt looks for that image when it holds the domain, and refuses where the disk has got
    another one meanwhile: nobody else's snapshot can come in between.
    """
    if overlay is None:
        return DiskWish(device.name)
    images = [other.file for other in facts.graph.devices.values()]
    node = facts.graph.nodes.get(device.node)
    known = node is None or node.given_name == device.file
    plain = known and device.file.startswith("/") and not unfit_for_xml(device.file)
    unique = images.count(device.file) == 1
    return DiskWish(device.file if plain and unique else device.name, overlay.file, overlay.format)


def _snapshot_name(wanted: str, taken: Collection[str]) -> str:
    """The name that was asked for, or the first of ``snap1``, ``snap2`` ... that is free."""
    if wanted:
        return wanted
    names = map(naming.next_tag, range(1, _NAMES_TRIED))
    return next((name for name in names if name not in taken), naming.next_tag(_NAMES_TRIED))


def render(script: Script, form: str) -> str:
    """The script as text: its XML, or the shell command that does the same.

    Raises SnapkitError for a form that libvirt has not.
    """
    arguments: Any = script.switch.arguments
    if form == "xml":
        return str(arguments["xml"])
    if form == "virsh":
        return _virsh(arguments)
    msg = f"A libvirt domain has no preview {form!r}. Choose one of: {', '.join(FORMS)}, python."
    raise SnapkitError(msg)


def _virsh(arguments: Any) -> str:
    """A shell command with the XML as its input, which no line of the XML can end."""
    name = arguments["domain"]
    plain = _PLAIN_NAME.fullmatch(name) and not _UUID.fullmatch(name)
    words = ["virsh", "-c", arguments["uri"], "snapshot-create"]
    words += [name if plain else arguments["uuid"], "--xmlfile", "/dev/stdin"]
    words += [FLAGS[flag] for flag in arguments["flags"]]
    end = "XML"
    while end in arguments["xml"].splitlines():
        end += "_"
    return f"{shlex.join(words)} <<'{end}'\n{arguments['xml']}\n{end}"
