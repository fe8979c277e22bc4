"""Panels without a VM: states made of plain values, as the page gets them."""

from __future__ import annotations

from typing import Any

from snapkit.model import Device, Graph, Layer
from snapkit.widgets.base import Panel
from snapkit.widgets.draft import Row
from snapkit.widgets.session import Session

HOSTILE = (
    '<img src=x onerror="window.hacked = true">',
    "<script>window.hacked = true</script>",
    '"\' onfocus=window.hacked=true autofocus x="',
    "turned\u202eround\u2066gnp.exe",
    "two\nlines\tand\0nothing",
    "n" * 4000,
    "\ud800 is half a character".encode(errors="replace").decode(),
)


def device(name: str, **fields: Any) -> Device:
    """A device with one image."""
    file = fields.pop("file", f"/imgs/{name}.qcow2")
    layer = Layer(f"#{name}", "qcow2", file, 64 << 20, 200 << 10, None, None)
    return Device(**{"name": name, "node": f"#{name}", "layers": (layer,)} | fields)


def session(*devices: Device) -> Session:
    """A session that has read these devices, with their targets filled in."""
    made = Session()
    made.graph = Graph({d.name: d for d in devices}, {})
    made.draft.rows = {
        d.name: Row(d.name, file=f"{d.file}.snap1") for d in devices if d.snapshotable
    }
    return made


def state(panel: Panel) -> dict[str, Any]:
    """The traits of a panel as the page gets them, without its module and style."""
    names = [name for name in panel.trait_names(sync=True) if not name.startswith("_")]
    return {n: getattr(panel, n) for n in names if n not in {"layout", "tabbable", "tooltip"}}
