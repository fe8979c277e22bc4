"""The words of snapkit as values: nodes, layers, devices, targets, problems.

Everything here is frozen and does no I/O. Sizes are bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher, get_close_matches
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from snapkit.printable import printable

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "ENGINES",
    "FORMATS",
    "METADATA",
    "MODES",
    "QUIESCE",
    "Device",
    "Finding",
    "Graph",
    "Job",
    "Layer",
    "Node",
    "Outcome",
    "Problem",
    "Severity",
    "Switched",
    "Target",
]

Severity = Literal["error", "warning"]
Finding = tuple[Severity, str, str]
"""What a check found: severity, message and remedy."""

FORMATS = ("qcow2", "qed")
"""Overlay formats that QEMU can create over any base."""
MODES = ("absolute-paths", "existing")
"""QAPI ``NewImageMode``: create the overlay, or use a file that is already there."""
ENGINES = ("prepared", "classic")
"""``blockdev-snapshot`` of prepared overlays, or ``blockdev-snapshot-sync``."""
METADATA = ("yes", "no")
"""Whether the backend remembers the snapshot, where it can."""
QUIESCE = ("no", "try", "require")
"""Whether the guest's file systems are frozen for the switch."""

# QEMU's drivers with BlockDriver.is_filter set, and those with a protocol_name.
# Everything else interprets its child's bytes and is a format.
_FILTERS = frozenset(
    "backup-top blkdebug blklogwrites blkreplay blkverify commit_top compress copy-before-write "
    "copy-on-read mirror_top preallocate snapshot-access throttle".split()
)
_PROTOCOLS = frozenset(
    "file ftp ftps gluster host_cdrom host_device http https io_uring iscsi nbd nfs null-aio "
    "null-co nvme nvme-io_uring rbd ssh virtio-blk-vfio-pci virtio-blk-vhost-user "
    "virtio-blk-vhost-vdpa vvfat".split()
)

_TEXT_MAX = 4000
_EMPTY: Mapping[str, str] = MappingProxyType({})
_NO_STATS: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Node:
    """One node of QEMU's block graph.

    ``children`` maps the name of an edge (``file``, ``backing``) to a node-name.
    ``users`` names what holds the node: guest devices, exports and other nodes.
    ``given_name`` is the file name as QEMU shows it, ``file`` the same made absolute where
    that was possible. ``header_known`` is False where nobody could read the image's header.
    """

    name: str
    driver: str
    file: str = ""
    given_name: str = ""
    virtual_size: int = 0
    actual_size: int | None = None
    read_only: bool = False
    encrypted: bool = False
    cluster_size: int | None = None
    header_backing_file: str | None = None
    header_backing_format: str | None = None
    header_known: bool = True
    children: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    users: tuple[str, ...] = ()

    @property
    def kind(self) -> Literal["filter", "format", "protocol"]:
        """Whether the node filters, interprets or fetches bytes."""
        if self.driver in _FILTERS:
            return "filter"
        return "protocol" if self.driver in _PROTOCOLS else "format"

    @property
    def below(self) -> str | None:
        """The node a filter stands on, or the backing node of a format."""
        if self.kind == "filter":
            return self.children.get("file") or self.children.get("backing")
        return self.children.get("backing")


@dataclass(frozen=True, slots=True)
class Layer:
    """One image of a device's backing chain; layer 0 is the active one."""

    node: str
    format: str
    file: str
    virtual_size: int
    actual_size: int | None
    backing_file: str | None
    header_backing_file: str | None


@dataclass(frozen=True, slots=True)
class Device:
    """One disk of the guest, or one export of a storage daemon.

    ``name`` is the key of every table. ``drive`` is the ``-drive`` id, where there is one.
    ``root`` is the top node of the device, perhaps a filter; ``node`` is the format node
    that a snapshot goes on; ``inner`` are the protocol nodes below the layers. ``attached``
    is False for a node that neither the guest nor an export uses. ``why_not`` is empty when
    the device can be snapshotted.
    """

    name: str
    qdev: str = ""
    drive: str = ""
    root: str = ""
    node: str = ""
    layers: tuple[Layer, ...] = ()
    filters: tuple[str, ...] = ()
    inner: tuple[str, ...] = ()
    read_only: bool = False
    removable: bool = False
    attached: bool = True
    why_not: str = ""
    aliases: tuple[str, ...] = ()
    stats: Mapping[str, int] = field(default_factory=lambda: _NO_STATS)

    @property
    def snapshotable(self) -> bool:
        """Whether a snapshot of this device is possible and meant."""
        return not self.why_not

    @property
    def active(self) -> Layer | None:
        """The layer that the guest writes to; None without a medium."""
        return self.layers[0] if self.layers else None

    @property
    def depth(self) -> int:
        """The number of backing images below the active one."""
        return max(len(self.layers) - 1, 0)

    @property
    def file(self) -> str:
        """The image that the guest writes to; empty without a medium."""
        return self.layers[0].file if self.layers else ""


@dataclass(frozen=True, slots=True)
class Job:
    """One job of the VM: ``nodes`` are those that it holds."""

    id: str
    type: str
    status: str
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Graph:
    """One consistent reading of a VM's block graph."""

    devices: Mapping[str, Device]
    nodes: Mapping[str, Node]
    jobs: tuple[Job, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """A digest of what a plan relies on: every device and its chain, not the counters."""
        shape = [
            [
                d.name,
                d.root,
                d.qdev,
                d.read_only,
                [[x.node, x.format, x.file, x.virtual_size] for x in d.layers],
            ]
            for d in self.devices.values()
            if d.attached
        ]
        return hashlib.sha256(json.dumps(shape).encode()).hexdigest()

    def find(self, name: str) -> Device | None:
        """The device of that name, ``-drive`` id, qdev id or path, or node-name."""
        return self.devices.get(name) or self._by_alias.get(name)

    def closest(self, name: str) -> list[str]:
        """The devices whose names are most like this one; none if it is like no name."""
        close = get_close_matches(name, self.devices, n=3)
        likeness = [SequenceMatcher(None, other, name).ratio() for other in close]
        return sorted(o for o, r in zip(close, likeness, strict=True) if r == likeness[0])

    @cached_property
    def _by_alias(self) -> dict[str, Device]:
        return {alias: device for device in self.devices.values() for alias in device.aliases}


@dataclass(frozen=True, slots=True)
class Target:
    """What the user fills in for one device: overlay file, format and mode."""

    device: str
    file: str
    format: str = "qcow2"
    mode: str = "absolute-paths"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that stands in the way of a plan, or should be known before it runs."""

    device: str
    check: str
    severity: Severity
    message: str
    remedy: str

    def __str__(self) -> str:
        where = f"{self.device}: " if self.device else ""
        text = f"{where}{self.message}. {self.remedy}{'' if self.remedy.endswith('?') else '.'}"
        return printable(text, _TEXT_MAX)


@dataclass(frozen=True, slots=True)
class Switched:
    """What became of one device: the active image and the depth, before and after."""

    device: str
    file_before: str
    file_after: str
    depth_before: int
    depth_after: int
    ok: bool


@dataclass(frozen=True)
class Outcome:
    """What the live VM says after a run.

    ``switched`` says whether the devices were moved to their overlays, all of them or none.
    ``switch_seconds`` is the time of the one command that switched, as this side saw it.
    ``phases`` are (name, seconds) in the order in which they ran. ``findings`` are
    sentences about what was found that should not be so, or could not be looked at.
    """

    devices: tuple[Switched, ...]
    switched: bool
    ok: bool
    switch_seconds: float | None = None
    phases: tuple[tuple[str, float], ...] = ()
    findings: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """The time of the whole run."""
        return sum(seconds for _, seconds in self.phases)

    def to_frame(self) -> DataFrame:
        """Before and after as a table, a row a device."""
        from snapkit import tables

        return tables.outcome(self)

    def __str__(self) -> str:
        count = len(self.devices)
        disks = "1 disk" if count == 1 else f"{count} disks"
        if self.ok:
            return f"{disks} switched at one instant"
        return f"{disks} {'switched, with findings' if self.switched else 'not switched'}"

    def __repr__(self) -> str:
        return f"<Outcome: {self}>"

    def _repr_html_(self) -> str:
        from html import escape

        findings = "".join(f"<li>{escape(text)}</li>" for text in self.findings)
        return f"<p>{escape(str(self))}</p><ul>{findings}</ul>{self.to_frame().to_html()}"
