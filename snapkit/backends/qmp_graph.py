"""QMP's answers as a block graph. Pure: what QEMU said goes in, a ``Graph`` comes out.

The edges come from ``x-debug-query-block-graph``, which is one consistent reading and names
every node once, however deep the chains are. ``query-named-block-nodes`` is only ever asked
with ``flat``: nested, its answer grows with the square of the depth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from snapkit import eligible
from snapkit.backends import qmp_nodes
from snapkit.backends.qmp_json import (
    Json,
    Malformed,
    counts,
    flag,
    record,
    rows,
    text,
)
from snapkit.model import Device, Graph, Job, Layer, Node

__all__ = ["Inconsistent", "Malformed", "Reading", "build", "danger", "ended"]

Names = tuple[str, str]
"""A guest device by its ``-drive`` id and its qdev id or path, either of them empty."""

_COUNTERS = {
    "rd_operations": "rd_ops",
    "wr_operations": "wr_ops",
    "flush_operations": "flush_ops",
    "unmap_operations": "unmap_ops",
    "rd_total_time_ns": "rd_total_ns",
    "wr_total_time_ns": "wr_total_ns",
    "flush_total_time_ns": "flush_total_ns",
    "unmap_total_time_ns": "unmap_total_ns",
    "failed_rd_operations": "failed_rd_ops",
    "failed_wr_operations": "failed_wr_ops",
    "failed_flush_operations": "failed_flush_ops",
}
_KEPT = frozenset("rd_bytes wr_bytes unmap_bytes rd_merged wr_merged wr_highest_offset".split())


class Inconsistent(Exception):
    """The answers do not describe one instant: the graph changed between two queries."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The answers of one reading, as QMP gave them, and QEMU's working directory."""

    block: object
    nodes: object
    graph: object
    stats: object = field(default_factory=list)
    jobs: object = field(default_factory=list)
    exports: object = field(default_factory=list)
    directory: str = ""


def ended(jobs: object) -> bool:
    """Whether a job has ended and waits to be dismissed. Raises Malformed."""
    return any(text(row, "status") == "concluded" for row in rows(jobs, "query-jobs"))


def creating(jobs: object) -> str:
    """The id of a job that is creating an image; empty if there is none. Raises Malformed."""
    for row in rows(jobs, "query-jobs"):
        if text(row, "type") == "create" and text(row, "status") not in {"concluded", "null"}:
            return text(row, "id")
    return ""


def danger(graph: object, jobs: object) -> str:
    """Why ``query-named-block-nodes`` must not be sent now; empty if it may be.

    A stream job that has ended and waits for ``job-dismiss`` still holds its filter, which
    stands on nothing any more. QEMU (seen with 7.2) crashes when it describes that node.
    Raises Malformed.
    """
    edges = qmp_nodes.edges(record(graph, "x-debug-query-block-graph"))
    for row in rows(jobs, "query-jobs"):
        job = _job(row, edges)
        if job.status == "concluded" and any(not edges.children.get(x) for x in job.nodes):
            return (
                f"the job {job.id} ({job.type}) has ended and waits to be dismissed, and until "
                "then QEMU can crash when its nodes are read. Send job-dismiss with the id "
                f"{job.id}, then try again"
            )
    return ""


def build(reading: Reading) -> Graph:
    """The block graph of one reading.

    Raises Inconsistent when the answers do not belong together (then read again), and
    Malformed when they are not what QMP says they are.
    """
    edges = qmp_nodes.edges(record(reading.graph, "x-debug-query-block-graph"))
    nodes = qmp_nodes.nodes(reading.nodes, edges, reading.directory)
    if nodes.keys() != edges.drivers:
        raise Inconsistent
    jobs = tuple(_job(row, edges) for row in rows(reading.jobs, "query-jobs"))
    counters = _counters(rows(reading.stats, "query-blockstats"))
    found = (
        *(_guest_device(row, edges, nodes, counters) for row in rows(reading.block, "query-block")),
        *(_export(row, edges) for row in rows(reading.exports, "query-block-exports")),
        *_unused(nodes),
    )
    devices: dict[str, Device] = {}
    for device in found:
        whole = _walk(device, nodes)
        name = _free_name(whole, devices)
        why_not = eligible.why_not(whole, nodes, jobs, devices.values())
        devices[name] = replace(whole, name=name, why_not=why_not)
    return Graph(_by_one_name(devices), nodes, jobs)


def _job(row: Json, edges: qmp_nodes.Edges) -> Job:
    name = text(row, "id")
    return Job(name, text(row, "type"), text(row, "status"), tuple(edges.jobs.get(name, ())))


def _counters(answer: Sequence[Json]) -> dict[Names, dict[str, int]]:
    """Counters by the device's names."""
    found: dict[Names, dict[str, int]] = {}
    for row in answer:
        kept = counts(record(row.get("stats"), "a device's stats"), (*_COUNTERS, *_KEPT))
        counted = {_COUNTERS.get(name, name): value for name, value in kept.items()}
        found[text(row, "device", ""), text(row, "qdev", "")] = counted
    return found


def _guest_device(
    row: Json,
    edges: qmp_nodes.Edges,
    nodes: Mapping[str, Node],
    counters: Mapping[Names, Mapping[str, int]],
) -> Device:
    drive, qdev = text(row, "device"), text(row, "qdev", "")
    inserted = record(row["inserted"], "inserted") if "inserted" in row else None
    short = _short(qdev)
    return Device(
        name=drive or short,
        qdev=qdev,
        drive=drive,
        root=_root(drive or qdev, text(inserted, "node-name"), edges, nodes) if inserted else "",
        read_only=flag(inserted, "ro") if inserted else False,
        removable=flag(row, "removable"),
        aliases=tuple(alias for alias in (short, qdev) if alias),
        stats=counters.get((drive, qdev), {}),
    )


def _root(name: str, inserted: str, edges: qmp_nodes.Edges, nodes: Mapping[str, Node]) -> str:
    """The node on which a guest device stands.

    ``query-block`` hides the filters that jobs put on top; the graph shows them. A drive and
    another disk's qdev id may share one name: of their nodes this is the one that leads to
    what ``query-block`` named.
    """
    for root in edges.roots.get(name, ()):
        for node in qmp_nodes.down(nodes[root], nodes):
            if node.name == inserted:
                return root
            if node.kind != "filter":
                break
    raise Inconsistent


def _short(qdev: str) -> str:
    """The id that the user gave: ``/machine/peripheral/vd0/virtio-backend`` is ``vd0``."""
    path = qdev.removesuffix("/virtio-backend")
    return path.removeprefix("/machine/peripheral/").removeprefix("/machine/")


def _export(row: Json, edges: qmp_nodes.Edges) -> Device:
    root = text(row, "node-name")
    if root not in edges.exported:
        raise Inconsistent
    return Device(name=text(row, "id"), root=root)


def _unused(nodes: Mapping[str, Node]) -> Iterable[Device]:
    """Nodes on which nothing stands: given with ``-blockdev``, and used by nobody."""
    return (Device(n.name, root=n.name, attached=False) for n in nodes.values() if not n.users)


def _walk(device: Device, nodes: Mapping[str, Node]) -> Device:
    """Complete a device from its root: filters, format node and layers."""
    if not device.root:
        return device
    whole_chain = list(qmp_nodes.down(nodes[device.root], nodes))
    chain = [node for node in whole_chain if node.kind != "filter"]
    if not chain:
        return device
    node = chain[0]
    filters = [above.name for above in whole_chain[: whole_chain.index(node)]]
    inner = tuple(child for layer in chain for child in _storage(layer, nodes))
    return replace(
        device,
        node="" if node.kind == "protocol" else node.name,
        filters=tuple(filters),
        inner=inner,
        read_only=device.read_only or nodes[device.root].read_only,
        layers=tuple(_layer(n, chain[i + 1 : i + 2]) for i, n in enumerate(chain)),
        aliases=tuple(dict.fromkeys((*device.aliases, node.name, device.root))),
    )


def _storage(layer: Node, nodes: Mapping[str, Node]) -> Iterable[str]:
    """The nodes that hold the bytes of one image."""
    found: dict[str, None] = {}
    todo = [child for edge, child in layer.children.items() if edge != "backing"]
    while todo:
        name = todo.pop()
        if name not in found:
            found[name] = None
            todo += nodes[name].children.values()
    return found


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


def _free_name(device: Device, taken: Mapping[str, Device]) -> str:
    """The device's name, or a longer one where two devices would share it."""
    for name in (device.name, device.qdev, device.root):
        if name and name not in taken:
            return name
    return f"{device.name}#{len(taken)}"


def _by_one_name(devices: Mapping[str, Device]) -> dict[str, Device]:
    """No second name of a device may stand for another disk too: such names are left out."""
    meant = {(alias, device.node) for device in devices.values() for alias in device.aliases}
    often = Counter(alias for alias, _ in meant)
    taken = set(devices)
    found: dict[str, Device] = {}
    for name, device in devices.items():
        free = tuple(x for x in device.aliases if often[x] == 1 and x not in taken)
        taken.update(free)
        found[name] = replace(device, aliases=free)
    return found
