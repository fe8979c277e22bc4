"""The model as pandas tables. The columns are a contract; see the design."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from snapkit.model import Device, Graph, Outcome, Problem

if TYPE_CHECKING:
    from snapkit.backends.base import Event, Snapshot
    from snapkit.journaling import Entry
    from snapkit.recovery import Recovered

__all__ = [
    "checks",
    "devices",
    "events",
    "journal",
    "layers",
    "outcome",
    "plan",
    "recovered",
    "snapshots",
    "stats",
]

_COUNTERS = ("rd_bytes", "wr_bytes", "rd_ops", "wr_ops")
_DEVICE_COLUMNS = (
    "node qdev format file virtual_size actual_size backing_file depth read_only removable "
    "snapshotable why_not rd_bytes wr_bytes rd_ops wr_ops"
).split()
# pandas 3 has a type for text, pandas 2 has objects.
_TEXT = pd.Series(["text"]).dtype
_TYPES: dict[str, Any] = {
    **dict.fromkeys(("virtual_size", "actual_size", *_COUNTERS), "Int64"),
    **dict.fromkeys(("read_only", "removable", "snapshotable"), "bool"),
    "depth": "int64",
}
_LAYER_COLUMNS = (
    "node format file virtual_size actual_size backing_file header_backing_file".split()
)
_PLAN_COLUMNS = "node file_before snapshot_file format mode overlay_node ok problems".split()
_OUTCOME_COLUMNS = "file_before file_after depth_before depth_after ok".split()

_JOURNAL_COLUMNS = "started ended uri domain vm devices engine state files message".split()
_SNAPSHOT_COLUMNS = "parent created state current disks description agrees why_not".split()
_RECOVERED_COLUMNS = "uri domain vm state found done".split()


def devices(graph: Graph) -> pd.DataFrame:
    """A row a device. Sizes are bytes; what does not apply is missing."""
    rows = [_device_row(device) for device in graph.devices.values()]
    return pd.DataFrame(
        {name: _column(name, rows) for name in _DEVICE_COLUMNS}, index=_names(graph.devices)
    )


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
    index = pd.MultiIndex.from_arrays(
        [_names(name for name, _ in keys), pd.Index([n for _, n in keys], dtype="int64")],
        names=["device", "layer"],
    )
    return pd.DataFrame({name: _column(name, rows) for name in _LAYER_COLUMNS}, index=index)


def stats(graph: Graph) -> pd.DataFrame:
    """A row a device: every counter that QEMU keeps, since the VM started.

    ``*_bytes`` are bytes, ``*_ns`` nanoseconds, the rest counts. The source is
    ``query-blockstats``; an export of a storage daemon has no counters.
    """
    names = list(dict.fromkeys(key for d in graph.devices.values() for key in d.stats))
    columns = [*_COUNTERS, *(name for name in names if name not in _COUNTERS)]
    rows = [device.stats for device in graph.devices.values()]
    return pd.DataFrame(
        {name: _column(name, rows, "Int64") for name in columns}, index=_names(graph.devices)
    )


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


def snapshots(remembered: Sequence[Snapshot]) -> pd.DataFrame:
    """A row a snapshot; ``disks`` as ``vda=/path vdb=/path``, times are UTC."""
    rows = [
        {
            "parent": one.parent,
            "created": one.created,
            "state": one.state,
            "current": one.current,
            "disks": " ".join(f"{device}={file}" for device, file in one.disks),
            "description": one.description,
            "agrees": one.agrees,
            "why_not": one.why_not,
        }
        for one in remembered
    ]
    frame = _frame([one.name for one in remembered], "snapshot", rows, _SNAPSHOT_COLUMNS)
    types = {"created": "datetime64[us, UTC]", "current": "bool", "agrees": "bool"}
    return frame.astype(types)


def plan(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> pd.DataFrame:
    """A row a target: what will happen, and what stands in the way."""
    return _frame([name for name, _ in rows], "device", [row for _, row in rows], _PLAN_COLUMNS)


def checks(
    targets: Sequence[str], names: Sequence[str], cells: Mapping[tuple[str, str], str]
) -> pd.DataFrame:
    """Devices by checks: ``ok``, ``-`` (does not apply), or the problem in words."""
    rows = [{name: cells.get((target, name), "-") for name in names} for target in targets]
    return _frame(list(targets), "device", rows, list(names))


def journal(entries: Iterable[Entry]) -> pd.DataFrame:
    """A row a run, oldest first. Times are UTC."""
    entries = list(entries)
    rows = [_entry_row(entry) for entry in entries]
    frame = _frame([entry.number for entry in entries], "number", rows, _JOURNAL_COLUMNS)
    return frame.astype(dict.fromkeys(("started", "ended"), "datetime64[us, UTC]"))


def _entry_row(entry: Entry) -> dict[str, Any]:
    start = entry.start
    return {
        "started": entry.started,
        "ended": entry.ended,
        "uri": start.uri,
        "domain": start.domain,
        "vm": start.vm,
        "devices": ", ".join(overlay.device for overlay in start.overlays),
        "engine": start.engine,
        "state": entry.state,
        "files": ", ".join(overlay.file for overlay in start.overlays),
        "message": entry.message,
    }


def recovered(found: Sequence[Recovered]) -> pd.DataFrame:
    """A row a run that was looked at: what was found, and what was done."""
    rows = [{name: getattr(one, name) for name in _RECOVERED_COLUMNS} for one in found]
    return _frame([one.number for one in found], "number", rows, _RECOVERED_COLUMNS)


def problems(found: Sequence[Problem]) -> pd.DataFrame:
    """A row a problem."""
    columns = ["device", "check", "severity", "message", "remedy"]
    rows = [{name: getattr(problem, name) for name in columns} for problem in found]
    return pd.DataFrame(rows, columns=columns)


def outcome(found: Outcome) -> pd.DataFrame:
    """A row a device: the active image and the depth, before and after."""
    rows = [{name: getattr(device, name) for name in _OUTCOME_COLUMNS} for device in found.devices]
    return _frame([d.device for d in found.devices], "device", rows, _OUTCOME_COLUMNS)


def _frame(
    index: Sequence[str] | Sequence[int],
    name: str,
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
) -> pd.DataFrame:
    """A table with fixed columns, also when there is no row."""
    kind = "int64" if name == "number" else "str"
    labels = pd.Index(list(index), name=name, dtype=kind)
    return pd.DataFrame([dict(row) for row in rows], index=labels, columns=pd.Index(columns))


def _names(names: Iterable[str]) -> pd.Index[Any]:
    return pd.Index(list(names), name="device", dtype="str")


def _column(name: str, rows: Sequence[Mapping[str, Any]], kind: Any = None) -> Any:
    """One column, of its type also where all or some of it is missing.

    Made value by value: on its way through a float a large number would lose its last digits.
    """
    values: Any = [row.get(name) for row in rows]
    return pd.array(values, dtype=kind or _TYPES.get(name, _TEXT))
