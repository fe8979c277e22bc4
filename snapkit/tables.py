"""The model as pandas tables. The columns are a contract; see the design."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from snapkit.model import Device, Graph, Outcome, Problem

if TYPE_CHECKING:
    from snapkit.backends.base import Event

__all__ = ["checks", "devices", "events", "layers", "outcome", "plan", "stats"]

_COUNTERS = ("rd_bytes", "wr_bytes", "rd_ops", "wr_ops")
_SIZES = ("virtual_size", "actual_size", *_COUNTERS)
_DEVICE_COLUMNS = (
    "node qdev format file virtual_size actual_size backing_file depth read_only removable "
    "snapshotable why_not rd_bytes wr_bytes rd_ops wr_ops"
).split()
_LAYER_COLUMNS = (
    "node format file virtual_size actual_size backing_file header_backing_file".split()
)
_PLAN_COLUMNS = (
    "node file_before snapshot_file format mode overlay_node ok problems".split()
)
_OUTCOME_COLUMNS = "file_before file_after depth_before depth_after ok".split()


def devices(graph: Graph) -> pd.DataFrame:
    """A row a device. Sizes are bytes; what does not apply is missing."""
    frame = _frame(
        [device.name for device in graph.devices.values()],
        "device",
        [_device_row(device) for device in graph.devices.values()],
        _DEVICE_COLUMNS,
    )
    return _integers(frame, _SIZES)


def _device_row(device: Device) -> dict[str, Any]:
    active = device.active
    row: dict[str, Any] = {
        "node": device.node or device.root or None,
        "qdev": device.qdev or None,
        "depth": device.depth,
        "read_only": device.read_only,
        "removable": device.removable,
        "snapshotable": device.snapshotable,
        "why_not": device.why_not,
    }
    if active is not None:
        row |= {
            "format": active.format,
            "file": active.file,
            "virtual_size": active.virtual_size,
            "actual_size": active.actual_size,
            "backing_file": active.backing_file,
        }
    return row | {name: device.stats.get(name) for name in _COUNTERS}


def layers(graph: Graph) -> pd.DataFrame:
    """A row a layer of every chain; layer 0 is the active image."""
    keys = [(d.name, n) for d in graph.devices.values() for n in range(len(d.layers))]
    rows = [
        {name: getattr(layer, name) for name in _LAYER_COLUMNS}
        for device in graph.devices.values()
        for layer in device.layers
    ]
    index = pd.MultiIndex.from_tuples(keys, names=["device", "layer"])
    frame = pd.DataFrame(rows, index=index, columns=pd.Index(_LAYER_COLUMNS))
    return _integers(frame, ("virtual_size", "actual_size"))


def stats(graph: Graph) -> pd.DataFrame:
    """A row a device: every counter that QEMU keeps, since the VM started.

    ``*_bytes`` are bytes, ``*_ns`` nanoseconds, the rest counts. The source is
    ``query-blockstats``; an export of a storage daemon has no counters.
    """
    names = list(dict.fromkeys(key for d in graph.devices.values() for key in d.stats))
    columns = [*_COUNTERS, *(name for name in names if name not in _COUNTERS)]
    frame = _frame(
        [device.name for device in graph.devices.values()],
        "device",
        [dict(device.stats) for device in graph.devices.values()],
        columns,
    )
    return _integers(frame, columns)


def events(reported: Iterable[Event]) -> pd.DataFrame:
    """A row an event, oldest first: ``time`` (UTC), ``event``, ``device``, ``data``."""
    rows = [
        {
            "time": event.time,
            "event": event.name,
            "device": event.data.get("device") or event.data.get("id") or None,
            "data": dict(event.data),
        }
        for event in reported
    ]
    frame = pd.DataFrame(rows, columns=["time", "event", "device", "data"])
    return frame.astype({"time": "datetime64[us, UTC]"})


def plan(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> pd.DataFrame:
    """A row a target: what will happen, and what stands in the way."""
    return _frame([name for name, _ in rows], "device", [row for _, row in rows], _PLAN_COLUMNS)


def checks(
    targets: Sequence[str], names: Sequence[str], cells: Mapping[tuple[str, str], str]
) -> pd.DataFrame:
    """Devices by checks: ``ok``, ``-`` (does not apply), or the problem in words."""
    rows = [{name: cells.get((target, name), "-") for name in names} for target in targets]
    return _frame(list(targets), "device", rows, list(names))


def problems(found: Sequence[Problem]) -> pd.DataFrame:
    """A row a problem."""
    columns = ["device", "check", "severity", "message", "remedy"]
    rows = [{name: getattr(problem, name) for name in columns} for problem in found]
    return pd.DataFrame(rows, columns=columns)


def outcome(found: Outcome) -> pd.DataFrame:
    """A row a device: the active image and the depth, before and after."""
    rows = [
        {name: getattr(device, name) for name in _OUTCOME_COLUMNS} for device in found.devices
    ]
    return _frame([d.device for d in found.devices], "device", rows, _OUTCOME_COLUMNS)


def _frame(
    index: Sequence[str], name: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]
) -> pd.DataFrame:
    """A table with fixed columns, also when there is no row."""
    labels = pd.Index(list(index), name=name, dtype="str")
    return pd.DataFrame([dict(row) for row in rows], index=labels, columns=pd.Index(columns))


def _integers(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Whole numbers that may be missing: no byte count ever becomes a float."""
    return frame.astype(dict.fromkeys(columns, "Int64"))
