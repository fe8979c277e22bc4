"""Answers as QEMU gives them, put together by hand."""

from __future__ import annotations

from typing import Any

from snapkit.backends.qmp_graph import Reading, build
from snapkit.model import Graph

VIRTIO = "/machine/peripheral/{}/virtio-backend"


class Vm:
    """Answers of a VM that is put together node by node."""

    def __init__(self) -> None:
        self.block: list[dict[str, Any]] = []
        self.nodes: list[dict[str, Any]] = []
        self.stats: list[dict[str, Any]] = []
        self.jobs: list[dict[str, Any]] = []
        self.exports: list[dict[str, Any]] = []
        self.points: list[dict[str, Any]] = []
        self.edges: list[dict[str, Any]] = []
        self.directory = "/vm"

    def point(self, kind: str, name: str) -> int:
        self.points.append({"id": len(self.points) + 1, "type": kind, "name": name})
        return len(self.points)

    def edge(self, parent: int, child: str, name: str) -> None:
        self.edges.append({"parent": parent, "child": self.id_of(child), "name": name})

    def id_of(self, node: str) -> int:
        found: int = next(
            p["id"] for p in self.points if (p["type"], p["name"]) == ("block-driver", node)
        )
        return found

    def node(self, name: str, driver: str, file: str = "", /, **edges: str) -> str:
        """A node; keywords are its edges, or ``ro`` and what ``image`` says."""
        children = {k: v for k, v in edges.items() if k in {"file", "backing"}}
        row: dict[str, Any] = {"node-name": name, "drv": driver, "ro": False}
        row["file"] = file or f"{name}.img"
        row["image"] = {"virtual-size": 1000, "actual-size": 10}
        self.nodes.append(row)
        number = self.point("block-driver", name)
        for edge, child in children.items():
            self.edge(number, child, edge)
        return name

    def image(self, name: str, file: str = "", backing: str = "") -> str:
        """A qcow2 image over a file, perhaps with another image below."""
        self.node(f"{name}-file", "file", file)
        below = {"backing": backing} if backing else {}
        return self.node(name, "qcow2", file, file=f"{name}-file", **below)

    def device(
        self, node: str = "", *, drive: str = "", qdev: str = "", shown: str = "", ro: bool = False
    ) -> None:
        """A guest device on a node; ``shown`` is what ``query-block`` calls its node."""
        row: dict[str, Any] = {"device": drive, "removable": not node}
        row |= {"qdev": qdev} if qdev else {}
        number = self.point("block-backend", drive or qdev)
        if node:
            row["inserted"] = {"node-name": shown or node, "ro": ro}
            self.edge(number, node, "root")
        self.block.append(row)

    def export(self, name: str, node: str) -> None:
        self.exports.append({"id": name, "node-name": node, "type": "nbd", "shutting-down": False})
        self.edge(self.point("block-backend", ""), node, "root")

    def job(self, name: str, kind: str, *nodes: str) -> None:
        self.jobs.append({"id": name, "type": kind, "status": "running"})
        number = self.point("block-job", name)
        for node in nodes:
            self.edge(number, node, "main node")

    @property
    def graph(self) -> dict[str, Any]:
        return {"nodes": self.points, "edges": self.edges}

    def reading(self) -> Reading:
        return Reading(
            block=self.block,
            nodes=self.nodes,
            graph=self.graph,
            stats=self.stats,
            jobs=self.jobs,
            exports=self.exports,
            directory=self.directory,
        )

    def build(self) -> Graph:
        return build(self.reading())
