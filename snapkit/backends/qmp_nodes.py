"""The nodes and edges of QEMU's block graph, from two QMP answers. Pure."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from snapkit.backends.qmp_json import Json, Malformed, flag, number, record, rows, text
from snapkit.model import Node

__all__ = ["Edges", "down", "edges", "nodes"]

# What QEMU takes for a protocol: a colon before the first slash.
_PROTOCOL = re.compile(r"^[^/:]*:")


@dataclass(frozen=True, slots=True)
class Edges:
    """The edges of ``x-debug-query-block-graph``, by name instead of by number.

    ``roots`` are the nodes on which guest devices of a name stand, ``jobs`` those that a job
    holds, ``exported`` those on which something without a name stands: an export or a job.
    """

    drivers: frozenset[str]
    children: Mapping[str, Mapping[str, str]]
    users: Mapping[str, list[str]]
    roots: Mapping[str, list[str]]
    jobs: Mapping[str, list[str]]
    exported: frozenset[str]


def edges(graph: Json) -> Edges:
    """Read the graph. Raises Malformed."""
    listed = rows(graph.get("nodes"), "the graph's nodes")
    known = {number(row, "id"): (text(row, "type"), text(row, "name")) for row in listed}
    children: dict[str, dict[str, str]] = {}
    users: dict[str, list[str]] = {}
    roots: dict[str, list[str]] = {}
    jobs: dict[str, list[str]] = {}
    exported: set[str] = set()
    for edge in rows(graph.get("edges"), "the graph's edges"):
        kind, parent = known.get(number(edge, "parent"), ("", ""))
        child_kind, child = known.get(number(edge, "child"), ("", ""))
        if not kind or child_kind != "block-driver":
            msg = "an edge of the graph leads nowhere"
            raise Malformed(msg)
        users.setdefault(child, []).append(parent)
        if kind == "block-driver":
            children.setdefault(parent, {})[text(edge, "name")] = child
        elif kind == "block-job":
            jobs.setdefault(parent, []).append(child)
        elif parent:
            roots.setdefault(parent, []).append(child)
        else:
            exported.add(child)
    drivers = frozenset(name for kind, name in known.values() if kind == "block-driver")
    return Edges(drivers, children, users, roots, jobs, frozenset(exported))


def nodes(answer: object, found: Edges, directory: str) -> dict[str, Node]:
    """The nodes of ``query-named-block-nodes``. Raises Malformed.

    ``directory`` is QEMU's own, to which file names may be relative.
    """
    listed = (_node(row, found, directory) for row in rows(answer, "query-named-block-nodes"))
    by_name = {node.name: node for node in listed}
    if by_name.keys() != found.drivers:
        # Not one instant; the caller compares the two and reads again.
        return by_name
    return {name: _with_file(node, by_name) for name, node in by_name.items()}


def down(top: Node, known: Mapping[str, Node]) -> Iterator[Node]:
    """A node and all that it stands on, filters among them. Raises Malformed for a circle."""
    seen: set[str] = set()
    node: Node | None = top
    while node is not None:
        if node.name in seen:
            msg = f"the node {node.name!r} stands on itself"
            raise Malformed(msg)
        seen.add(node.name)
        yield node
        node = known[node.below] if node.below else None


def _node(row: Json, found: Edges, directory: str) -> Node:
    image = record(row.get("image", {}), "a node's image")
    name = text(row, "node-name")
    given = text(row, "file", "")
    return Node(
        name=name,
        driver=text(row, "drv"),
        file=_absolute(_plain(given), directory),
        given_name=given,
        virtual_size=number(image, "virtual-size", 0),
        actual_size=number(image, "actual-size") if "actual-size" in image else None,
        read_only=flag(row, "ro"),
        encrypted=flag(row, "encrypted"),
        cluster_size=number(image, "cluster-size") if "cluster-size" in image else None,
        header_backing_file=_optional(image, "backing-filename"),
        header_backing_format=_optional(image, "backing-filename-format"),
        children=found.children.get(name, {}),
        users=tuple(found.users.get(name, ())),
    )


def _optional(row: Json, key: str) -> str | None:
    return text(row, key) if key in row else None


def _plain(name: str) -> str:
    """A ``json:`` name as the plain file name that it stands for, where that loses nothing.

    QEMU resorts to ``json:`` also where just the backing file differs from the header's.
    """
    if not name.startswith("json:"):
        return name
    try:
        options = json.loads(name.removeprefix("json:"))
    except (ValueError, RecursionError):
        return name
    file = options.get("file", options) if isinstance(options, dict) else None
    if not isinstance(file, dict) or not file.keys() <= {"driver", "filename"}:
        return name
    if file is not options and not options.keys() <= {"driver", "file", "backing"}:
        return name
    filename = file.get("filename")
    return filename if isinstance(filename, str) and file.get("driver") == "file" else name


def _absolute(name: str, directory: str) -> str:
    if not name or not directory or name.startswith("/") or _PROTOCOL.match(name):
        return name
    return posixpath.normpath(posixpath.join(directory, name))


def _with_file(node: Node, known: Mapping[str, Node]) -> Node:
    """A filter's own name is a ``json:`` text of no use: show that of what it stands on."""
    if node.kind != "filter":
        return node
    below = next((found for found in down(node, known) if found.kind != "filter"), None)
    return replace(node, file=below.file) if below else node
