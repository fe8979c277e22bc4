"""QMP's answers as a block graph. Pure: what QEMU said goes in, a ``Graph`` comes out.

The edges come from ``x-debug-query-block-graph``, which is one consistent reading and names
every node once, however deep the chains are. ``query-named-block-nodes`` is only ever asked
with ``flat``: nested, its answer grows with the square of the depth.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from snapkit.model import Device, Graph, Job, Layer, Node

__all__ = ["Inconsistent", "Reading", "build"]

Json = Mapping[str, Any]

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
_KEPT = frozenset(
    "rd_bytes wr_bytes unmap_bytes rd_merged wr_merged wr_highest_offset".split()
)


class Inconsistent(Exception):
    """The answers do not describe one instant: the graph changed between two queries."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The answers of one reading, as QMP gave them, and QEMU's working directory."""

    block: Sequence[Json]
    nodes: Sequence[Json]
    graph: Json
    stats: Sequence[Json]
    jobs: Sequence[Json]
    exports: Sequence[Json]
    directory: str = ""


def build(reading: Reading) -> Graph:
    """The block graph of one reading.

    Raises Inconsistent when the answers do not belong together; then read again.
    """
    edges = _Edges(reading.graph)
    nodes = {row["node-name"]: _node(row, edges, reading.directory) for row in reading.nodes}
    if nodes.keys() != edges.drivers:
        raise Inconsistent
    nodes = {name: _with_file(node, nodes) for name, node in nodes.items()}
    jobs = tuple(_job(row, edges) for row in reading.jobs)
    counters = _counters(reading.stats)
    devices: dict[str, Device] = {}
    found = (
        *(_guest_device(row, edges, counters) for row in reading.block),
        *(_export(row) for row in reading.exports),
        *_unused(nodes),
    )
    for device in found:
        if device.root and device.root not in nodes:
            raise Inconsistent
        whole = _walk(device, nodes, jobs)
        devices[_free_name(whole, devices)] = replace(whole, name=_free_name(whole, devices))
    return Graph(devices, nodes, jobs)


class _Edges:
    """The edges of ``x-debug-query-block-graph``, by name instead of by number."""

    def __init__(self, graph: Json) -> None:
        names = {row["id"]: row["name"] for row in graph["nodes"]}
        kinds = {row["id"]: row["type"] for row in graph["nodes"]}
        self.drivers = {names[i] for i, kind in kinds.items() if kind == "block-driver"}
        self.children: dict[str, dict[str, str]] = {}
        self.users: dict[str, list[str]] = {}
        self.roots: dict[str, str] = {}
        self.jobs: dict[str, list[str]] = {}
        for edge in graph["edges"]:
            parent, child = names[edge["parent"]], names[edge["child"]]
            kind = kinds[edge["parent"]]
            self.users.setdefault(child, []).append(parent)
            if kind == "block-driver":
                self.children.setdefault(parent, {})[edge["name"]] = child
            elif kind == "block-backend" and parent:
                self.roots[parent] = child
            elif kind == "block-job":
                self.jobs.setdefault(parent, []).append(child)


def _node(row: Json, edges: _Edges, directory: str) -> Node:
    image = row.get("image", {})
    name = row["node-name"]
    given = row.get("file", "")
    return Node(
        name=name,
        driver=row["drv"],
        file=_absolute(_plain(given), directory),
        given_name=given,
        virtual_size=image.get("virtual-size", 0),
        actual_size=image.get("actual-size"),
        read_only=row.get("ro", False),
        encrypted=row.get("encrypted", False),
        cluster_size=image.get("cluster-size"),
        header_backing_file=image.get("backing-filename"),
        header_backing_format=image.get("backing-filename-format"),
        children=edges.children.get(name, {}),
        users=tuple(edges.users.get(name, ())),
    )


def _plain(name: str) -> str:
    """A ``json:`` name as the plain file name that it stands for, where that loses nothing.

    QEMU resorts to ``json:`` also where just the backing file differs from the header's.
    """
    if not name.startswith("json:"):
        return name
    try:
        options = json.loads(name.removeprefix("json:"))
    except ValueError:
        return name
    file = options.get("file", options) if isinstance(options, dict) else None
    if not isinstance(file, dict) or not file.keys() <= {"driver", "filename"}:
        return name
    if file is not options and not options.keys() <= {"driver", "file", "backing"}:
        return name
    filename = file.get("filename")
    return filename if isinstance(filename, str) and file.get("driver") == "file" else name


def _absolute(name: str, directory: str) -> str:
    if not name or not directory or name.startswith("/") or ":" in name:
        return name
    return posixpath.normpath(posixpath.join(directory, name))


def _with_file(node: Node, nodes: Mapping[str, Node]) -> Node:
    """A filter's own name is a ``json:`` text of no use: show that of what it stands on."""
    if node.kind != "filter":
        return node
    seen, below = {node.name}, node.below
    while below and below not in seen and nodes[below].kind == "filter":
        seen.add(below)
        below = nodes[below].below
    return replace(node, file=nodes[below].file) if below else node


def _job(row: Json, edges: _Edges) -> Job:
    return Job(row["id"], row["type"], row["status"], tuple(edges.jobs.get(row["id"], ())))


def _counters(rows: Sequence[Json]) -> dict[tuple[str, str], dict[str, int]]:
    """Counters by ``(device, qdev)``."""
    return {
        (row.get("device", ""), row.get("qdev", "")): {
            _COUNTERS.get(key, key): value
            for key, value in row["stats"].items()
            if key in _COUNTERS or key in _KEPT
        }
        for row in rows
    }


def _guest_device(
    row: Json, edges: _Edges, counters: Mapping[tuple[str, str], Mapping[str, int]]
) -> Device:
    drive, qdev = row.get("device", ""), row.get("qdev", "")
    inserted = row.get("inserted")
    # query-block hides the filters that jobs put on top; the graph shows them.
    root = edges.roots.get(drive or qdev, inserted["node-name"]) if inserted else ""
    short = _short(qdev)
    return Device(
        name=drive or short,
        qdev=qdev,
        drive=drive,
        root=root,
        read_only=bool(inserted and inserted.get("ro")),
        removable=row.get("removable", False),
        aliases=tuple(alias for alias in (short, qdev) if alias),
        stats=counters.get((drive, qdev), {}),
    )


def _short(qdev: str) -> str:
    """The id that the user gave: ``/machine/peripheral/vd0/virtio-backend`` is ``vd0``."""
    path = qdev.removesuffix("/virtio-backend")
    return path.removeprefix("/machine/peripheral/").removeprefix("/machine/")


def _export(row: Json) -> Device:
    return Device(name=row["id"], root=row["node-name"])


def _unused(nodes: Mapping[str, Node]) -> Iterable[Device]:
    """Nodes on which nothing stands: given with ``-blockdev``, and used by nobody."""
    return (Device(n.name, root=n.name, attached=False) for n in nodes.values() if not n.users)


def _walk(device: Device, nodes: Mapping[str, Node], jobs: Sequence[Job]) -> Device:
    """Complete a device from its root: filters, format node, layers, and the reason why not."""
    if not device.root:
        return replace(device, why_not="it is empty: no medium is inserted")
    filters: list[str] = []
    node = nodes[device.root]
    while node.kind == "filter" and node.below:
        filters.append(node.name)
        node = nodes[node.below]
    chain = list(_chain(node, nodes))
    inner = tuple(child for layer in chain for child in _storage(layer, nodes))
    held = {*filters, *(layer.name for layer in chain)}
    whole = replace(
        device,
        node="" if node.kind == "protocol" else node.name,
        filters=tuple(filters),
        inner=inner,
        read_only=device.read_only or nodes[device.root].read_only,
        layers=tuple(_layer(n, chain[i + 1 : i + 2]) for i, n in enumerate(chain)),
        aliases=tuple(dict.fromkeys((*device.aliases, node.name, device.root))),
    )
    return replace(whole, why_not=_why_not(whole, node, held, jobs))


def _chain(top: Node, nodes: Mapping[str, Node]) -> Iterable[Node]:
    """The images of a backing chain, filters between them left out."""
    node: Node | None = top
    while node is not None:
        if node.kind != "filter":
            yield node
        node = nodes[node.below] if node.below else None


def _storage(layer: Node, nodes: Mapping[str, Node]) -> Iterable[str]:
    """The nodes that hold the bytes of one image."""
    todo = [child for edge, child in layer.children.items() if edge != "backing"]
    while todo:
        name = todo.pop()
        yield name
        todo += nodes[name].children.values()


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


def _why_not(device: Device, node: Node, held: set[str], jobs: Sequence[Job]) -> str:
    """Why this device must not be snapshotted; empty if it can be."""
    if node.kind == "protocol":
        return f"its node {node.name} is a protocol node ({node.driver}) without a format above it"
    if not device.attached:
        return "neither a guest device nor an export uses this node"
    job = next((job for job in jobs if held & set(job.nodes)), None)
    if job is not None:
        return f"the job {job.id} ({job.type}, {job.status}) is running on it"
    if device.read_only:
        return "it is read-only: nothing is written to it"
    return ""


def _free_name(device: Device, taken: Mapping[str, Device]) -> str:
    """The device's name, or a longer one where two devices would share it."""
    for name in (device.name, device.qdev, device.root):
        if name and name not in taken:
            return name
    return f"{device.name}#{len(taken)}"
