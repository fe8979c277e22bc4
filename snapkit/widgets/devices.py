"""The Devices panel: the VM's disks as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import traitlets as t

from snapkit.model import Device
from snapkit.widgets.base import Handler, Panel, esm, style
from snapkit.widgets.hub import Topic
from snapkit.widgets.static import Static
from snapkit.widgets.words import count, exact, possible, size, visible

__all__ = ["Devices"]


class Devices(Panel):
    """Every device: its image, format, size and depth, and whether it can be snapshotted."""

    title = "Devices"
    topics: ClassVar[frozenset[Topic]] = frozenset({"connection", "devices"})
    _esm = esm("devices.js")
    _css = style()

    rows: t.List[Any] = t.List().tag(sync=True)
    note = t.Unicode("").tag(sync=True)

    def _devices(self) -> tuple[Device, ...]:
        graph = self.session.graph
        return tuple(graph.devices.values()) if graph else ()

    def state(self) -> Mapping[str, Any]:
        """A row a device, and how many there are."""
        return {"rows": [_row(device) for device in self._devices()], "note": self._note()}

    def _note(self) -> str:
        session = self.session
        if session.vm is None:
            return "Not connected."
        if session.graph is None:
            return "The devices have not been read yet."
        found = count(len(session.graph.devices), "device")
        return f"{found}." if session.connected else f"{found}, as last seen."

    def handlers(self) -> Mapping[str, Handler]:
        """The button."""
        return {"refresh": lambda _: self.refresh()}

    def refresh(self) -> None:
        """Read the devices again."""
        self.session.load(self.fail)

    def static(self) -> Static:
        """The table without what grows while the VM runs."""
        columns = ("Device", "File", "Format", "Size", "Depth", "Snapshot possible")
        names = ("device", "file", "format", "size", "depth", "possible")
        rows = tuple(tuple(_row(d)[name] for name in names) for d in self._devices())
        return Static(self.title, (self._note(),), columns, rows)


def _row(device: Device) -> dict[str, str]:
    active = device.active
    return {
        "device": device.name,
        "label": visible(device.name),
        "file": visible(device.file),
        "format": active.format if active else "",
        "size": size(active.virtual_size) if active else "",
        "bytes": exact(active.virtual_size) if active else "",
        "depth": str(device.depth),
        "possible": possible(device),
    }
