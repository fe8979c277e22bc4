"""libvirt's view of a domain's disks as a block graph. Pure.

The chains come from the live XML, sizes and counters from one ``virDomainListGetStats`` call
with all backing layers. libvirt names QEMU's nodes after the number of an image:
``libvirt-4-format`` is the image and ``libvirt-4-storage`` the file below it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from snapkit import eligible
from snapkit.backends.headers import Header
from snapkit.backends.libvirt_xml import Disk, Domain, Image, relocated
from snapkit.model import Device, Graph, Job, Layer, Node

__all__ = [
    "BlockJob",
    "Inconsistent",
    "LayerStats",
    "Reading",
    "build",
    "has_sizes",
    "layer_stats",
]

_COUNTERS = {
    "rd.bytes": "rd_bytes",
    "wr.bytes": "wr_bytes",
    "rd.reqs": "rd_ops",
    "wr.reqs": "wr_ops",
    "fl.reqs": "flush_ops",
    "rd.times": "rd_total_ns",
    "wr.times": "wr_total_ns",
    "fl.times": "flush_total_ns",
}
_DRIVERS = {
    "file": "file",
    "block": "host_device",
    "dir": "vvfat",
    "volume": "file",
    "vhostuser": "virtio-blk-vhost-user",
    "vhostvdpa": "virtio-blk-vhost-vdpa",
}
"""Type of a source, and QEMU's driver for it."""
_REMOVABLE = frozenset(("cdrom", "floppy"))
_FLASH = "pflash"


class Inconsistent(Exception):
    """XML and counters do not belong together: the chain changed in between."""


@dataclass(frozen=True, slots=True)
class BlockJob:
    """What ``virDomainGetBlockJobInfo`` says of a disk: ``kind`` is libvirt's word for it."""

    target: str
    kind: str
    done: int
    whole: int


@dataclass(frozen=True, slots=True)
class LayerStats:
    """What the counters say of one layer; sizes in bytes, None where they do not say."""

    target: str
    index: int | None
    path: str
    capacity: int | None
    physical: int | None
    counters: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading: the domain, its layers' counters, and its block jobs.

    ``header`` reads an image's header where it can be seen; None where it cannot.
    """

    domain: Domain
    layers: Sequence[LayerStats]
    jobs: Sequence[BlockJob]
    header: Callable[[Image], Header | None]


def layer_stats(answer: Mapping[str, Any]) -> list[LayerStats]:
    """The layers in the counters of one domain, disk by disk, each from the top down."""
    return [_layer_stats(answer, f"block.{n}.") for n in range(answer.get("block.count", 0))]


def _layer_stats(answer: Mapping[str, Any], begin: str) -> LayerStats:
    def of(name: str) -> Any:
        return answer.get(f"{begin}{name}")

    counted = {ours: of(theirs) for theirs, ours in _COUNTERS.items()}
    return LayerStats(
        target=of("name") or "",
        index=of("backingIndex"),
        path=of("path") or "",
        capacity=of("capacity"),
        physical=of("physical"),
        counters={name: value for name, value in counted.items() if value is not None},
    )


def build(reading: Reading) -> Graph:
    """The block graph of one reading. Raises Inconsistent: then read again."""
    by_disk: dict[str, list[LayerStats]] = {}
    for layer in reading.layers:
        by_disk.setdefault(layer.target, []).append(layer)
    nodes: dict[str, Node] = {}
    devices: dict[str, Device] = {}
    jobs: list[Job] = []
    disks = (*reading.domain.disks, *reading.domain.flash)
    for given in disks:
        counted = by_disk.get(given.target, [])
        disk = _fitting(given, counted)
        chain = _nodes(disk, counted, reading.header)
        nodes |= {node.name: node for node in chain}
        device = _device(disk, [node for node in chain if node.kind == "format"], counted)
        jobs += _jobs(disk, device, reading.jobs)
        devices[device.name] = device
    for name, device in devices.items():
        disk = next(x for x in disks if x.target == name)
        why_not = _why_not(disk) or eligible.why_not(device, nodes, jobs, ())
        devices[name] = replace(device, why_not=why_not)
    return Graph(_by_one_name(devices), nodes, tuple(jobs))


def _fitting(disk: Disk, counted: Sequence[LayerStats]) -> Disk:
    """The disk, its volumes named by their files. Raises Inconsistent."""
    # What is no file of that host has a number and no path; a drive without a medium neither.
    # While a disk is copied, the layers of the copy come after its own.
    told = [layer for layer in counted if layer.path or layer.index is not None]
    layers = told[: len(disk.images)]
    if not layers:
        # A driver without such counters, or a drive without a medium.
        return disk
    indexes = [layer.index for layer in layers]
    if None not in indexes and indexes != [image.index for image in disk.images]:
        raise Inconsistent
    if len(layers) != len(disk.images):
        return disk
    return relocated(disk, [layer.path for layer in layers])


def _nodes(
    disk: Disk, counted: Sequence[LayerStats], header: Callable[[Image], Header | None]
) -> list[Node]:
    """The nodes of a disk's chain: an image and its file for each layer, from the top down."""
    found: list[Node] = []
    names = [_node_name(disk, number) for number in range(len(disk.images))]
    for number, image in enumerate(disk.images):
        name, storage = names[number], _storage_name(names[number])
        below = names[number + 1 : number + 2]
        stats = counted[number] if number < len(counted) else None
        seen = header(image)
        children = {"file": storage} | ({"backing": below[0]} if below else {})
        found.append(
            Node(
                name=name,
                driver=image.format,
                file=image.file,
                given_name=_known_as(image),
                virtual_size=_virtual_size(disk, stats, seen),
                actual_size=stats.physical if stats else None,
                read_only=disk.read_only or number > 0,
                encrypted=image.encrypted,
                cluster_size=(seen.cluster_size or None) if seen else None,
                header_backing_file=(seen.backing_file or None) if seen else None,
                header_backing_format=seen.backing_format if seen else None,
                header_known=seen is not None,
                children=children,
                users=(names[number - 1] if number else disk.target,),
            )
        )
        driver = _DRIVERS.get(image.kind) or image.file.partition(":")[0].partition("+")[0]
        found.append(
            Node(storage, driver, file=image.file, given_name=_known_as(image), users=(name,))
        )
    return found


def _known_as(image: Image) -> str:
    """The name by which libvirt finds an image's disk; a volume has none but the disk's own."""
    return "" if image.kind == "volume" else image.file


def _virtual_size(disk: Disk, stats: LayerStats | None, seen: Header | None) -> int:
    """The counters', and of what has none the header's; 0 where neither is known."""
    if stats is not None:
        return stats.capacity or 0
    if seen is None:
        return 0
    # Of a raw disk QEMU keeps the size that it found, or was told; of flash it takes the file's.
    return seen.virtual_size if seen.format != "raw" or disk.device == _FLASH else 0


def has_sizes(graph: Graph) -> bool:
    """Whether it is known of all images how large their disks are."""
    return all(node.virtual_size for node in graph.nodes.values() if node.kind == "format")


def _node_name(disk: Disk, number: int) -> str:
    """QEMU's own name of an image's node; where libvirt does not tell, a name like it."""
    if disk.device == _FLASH:
        return f"libvirt-{disk.target}-format"
    index = disk.images[number].index
    return f"{disk.target}-{number}" if index is None else f"libvirt-{index}-format"


def _storage_name(node: str) -> str:
    stem = node.removesuffix("-format")
    return f"{stem}-storage" if stem != node else f"{node}-file"


def _device(disk: Disk, chain: Sequence[Node], counted: Sequence[LayerStats]) -> Device:
    top = chain[0].name if chain else ""
    file = chain[0].file if chain else ""
    alias = disk.alias
    drive = f"drive-{alias}" if alias else ""
    return Device(
        name=disk.target,
        qdev=alias,
        root=top,
        node=top,
        layers=tuple(_layer(node, chain[n + 1 : n + 2]) for n, node in enumerate(chain)),
        inner=tuple(node.children["file"] for node in chain),
        read_only=disk.read_only,
        removable=disk.device in _REMOVABLE,
        aliases=tuple(name for name in (alias, drive, top, file) if name),
        stats=counted[0].counters if counted else {},
    )


def _layer(node: Node, below: Sequence[Node]) -> Layer:
    return Layer(
        node=node.name,
        format=node.driver,
        file=node.file,
        virtual_size=node.virtual_size,
        actual_size=node.actual_size,
        backing_file=below[0].file if below else None,
        header_backing_file=node.header_backing_file,
    )


def _jobs(disk: Disk, device: Device, known: Sequence[BlockJob]) -> list[Job]:
    """The block job of a disk: it works on the whole chain, as far as libvirt tells."""
    nodes = tuple(layer.node for layer in device.layers)
    told = [job for job in known if job.target == disk.target]
    if told:
        job = told[0]
        status = "ready" if job.whole and job.done == job.whole else "running"
        return [Job(disk.target, job.kind, status, nodes)]
    return [Job(disk.target, disk.job, "running", nodes)] if disk.job else []


def _why_not(disk: Disk) -> str:
    """What only libvirt knows against a snapshot of a disk."""
    if disk.device == "lun":
        return "it is a SCSI device handed through to the guest"
    if disk.transient:
        return "it is transient: libvirt throws its writes away, and takes no snapshot of it"
    if disk.shareable:
        return "it is shareable: others may write to its image, which an overlay must not stand on"
    if any(image.kind in {"vhostuser", "vhostvdpa"} for image in disk.images):
        return "another process or a device has its data, not QEMU"
    if disk.device == _FLASH and not disk.read_only:
        return "it is the firmware's memory, of which libvirt takes no snapshot"
    return ""


def _by_one_name(devices: Mapping[str, Device]) -> dict[str, Device]:
    """No second name of a disk may stand for another disk too: such names are left out."""
    often = Counter(alias for d in devices.values() for alias in dict.fromkeys(d.aliases))
    return {
        name: replace(
            device,
            aliases=tuple(
                alias
                for alias in dict.fromkeys(device.aliases)
                if often[alias] == 1 and alias not in devices
            ),
        )
        for name, device in devices.items()
    }
