"""What libvirt does not know of its QEMU, asked of QEMU itself.

A daemon that ends within a snapshot may not have written down what QEMU did: started again,
it takes the disks to be on their old images, and knows nothing of the overlays that it had
opened. Only then QEMU is asked, through libvirt (``virDomainQemuMonitorCommand``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any

from snapkit.backends.base import Refused
from snapkit.backends.libvirt_link import load_qemu
from snapkit.model import Graph

__all__ = ["ask", "close", "contradictions", "strays"]

_NODE = re.compile(r"libvirt-(\d+)-(?:format|storage)")


def ask(domain: Any) -> Any:
    """QEMU's own ``query-block``. Blocks, needs a connection that may write. Raises Refused."""
    answer = _tell(domain, "query-block")
    if "return" not in answer:
        msg = "QEMU did not say on which images its disks are"
        raise Refused(msg)
    return answer["return"]


def close(domain: Any, files: Collection[str]) -> None:
    """Have QEMU close these files of ours where nothing uses them. Blocks.

    Needs a connection that may write. QEMU refuses to close what is in use.
    """
    nodes = _tell(domain, "query-named-block-nodes", flat=True).get("return", [])
    for name in strays(nodes, files):
        _tell(domain, "blockdev-del", **{"node-name": name})


def strays(nodes: Any, files: Collection[str]) -> list[str]:
    """The nodes of libvirt's that are to be closed for these files, in that order. Pure.

    Of an image without a backing file QEMU does not tell the file, so what is opened on a
    file goes by its number.
    """
    found = [row["node-name"] for row in nodes if row.get("file") in files]
    numbers = [_number(name) for name in found if name.endswith("-storage") and _NODE.match(name)]
    return [f"libvirt-{number}-{part}" for number in numbers for part in ("format", "storage")]


def _tell(domain: Any, command: str, **arguments: object) -> Any:
    message = json.dumps({"execute": command, "arguments": arguments})
    return json.loads(load_qemu().qemuMonitorCommand(domain, message, 0))


def contradictions(graph: Graph, answer: Any) -> list[str]:
    """The disks that QEMU has on other images than libvirt says, in words. Pure.

    Nodes that libvirt has not named say nothing.
    """
    by_alias = {device.qdev: device for device in graph.devices.values() if device.qdev}
    found = []
    for row in answer:
        inserted, qdev = row.get("inserted") or {}, row.get("qdev", "")
        device = next((d for alias, d in by_alias.items() if alias in qdev.split("/")), None)
        theirs = inserted.get("node-name", "")
        if device is None or not theirs or not _NODE.fullmatch(device.node):
            continue
        if _number(theirs) != _number(device.node):
            found.append(
                f"QEMU has {device.name} on {inserted.get('file')}, and libvirt takes it to be "
                f"on {device.file}"
            )
    return found


def _number(node: str) -> str:
    """The number that libvirt gave to a node; the name itself where libvirt did not make it."""
    named = _NODE.fullmatch(node)
    return named[1] if named else node
