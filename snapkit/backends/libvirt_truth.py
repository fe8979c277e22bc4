"""Whether libvirt knows on which images QEMU is, asked of QEMU itself.

A daemon that ends within a snapshot may not have written down what QEMU did: started again,
it takes the disks to be on their old images. Only then QEMU is asked, through libvirt
(``virDomainQemuMonitorCommand``), with a query that changes nothing.
"""

from __future__ import annotations

import json
import re
from typing import Any

from snapkit.backends.base import Refused
from snapkit.backends.libvirt_link import load_qemu
from snapkit.model import Graph

__all__ = ["ask", "contradictions"]

_NODE = re.compile(r"libvirt-(\d+)-(?:format|storage)")
_QUERY = json.dumps({"execute": "query-block"})


def ask(domain: Any) -> Any:
    """QEMU's own ``query-block``. Blocks, needs a connection that may write. Raises Refused."""
    answer = json.loads(load_qemu().qemuMonitorCommand(domain, _QUERY, 0))
    if "return" not in answer:
        msg = "QEMU did not say on which images its disks are"
        raise Refused(msg)
    return answer["return"]


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
