from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from snapkit import tables
from snapkit.backends.base import Event
from snapkit.model import Device, Graph, Layer

DEVICE_COLUMNS = [
    *("node", "qdev", "format", "file", "virtual_size", "actual_size", "backing_file", "depth"),
    *("read_only", "removable", "snapshotable", "why_not"),
    *("rd_bytes", "wr_bytes", "rd_ops", "wr_ops"),
]
LAYER_COLUMNS = [
    *("node", "format", "file", "virtual_size", "actual_size", "backing_file"),
    "header_backing_file",
]
TEXT = pd.Series(["text"]).dtype
HUGE = 2**62 + 1
"""More than a float can tell apart from its neighbours."""


def layer(node: str, backing: str | None = None, size: int = HUGE) -> Layer:
    return Layer(node, "qcow2", f"/imgs/{node}", size, None, backing, backing)


def graph_of(*devices: Device) -> Graph:
    return Graph({device.name: device for device in devices}, {})


DISK = Device(
    name="drive0",
    qdev="/machine/peripheral-anon/device[0]",
    drive="drive0",
    root="n1",
    node="n1",
    layers=(layer("n1", "/imgs/n0"), layer("n0")),
    stats={"rd_bytes": HUGE, "wr_bytes": 0, "rd_ops": 7, "wr_ops": 0, "flush_ops": 3},
)
EMPTY = Device(name="cd0", qdev="cd0", removable=True, why_not="it is empty")
PROTOCOL = Device(name="plain", root="p0", layers=(layer("p0"),), why_not="a protocol node")


def kinds(frame: pd.DataFrame) -> dict[str, str]:
    return {str(name): str(dtype) for name, dtype in frame.dtypes.items()}


def test_devices_has_the_columns_of_the_contract_and_a_row_a_device() -> None:
    frame = tables.devices(graph_of(DISK, EMPTY))

    assert list(frame.columns) == DEVICE_COLUMNS
    assert frame.index.name == "device"
    assert list(frame.index) == ["drive0", "cd0"]
    assert frame.astype(object).replace({np.nan: None}).loc["drive0"].to_dict() == {
        "node": "n1",
        "qdev": "/machine/peripheral-anon/device[0]",
        "format": "qcow2",
        "file": "/imgs/n1",
        "virtual_size": HUGE,
        "actual_size": None,
        "backing_file": "/imgs/n0",
        "depth": 1,
        "read_only": False,
        "removable": False,
        "snapshotable": True,
        "why_not": "",
        "rd_bytes": HUGE,
        "wr_bytes": 0,
        "rd_ops": 7,
        "wr_ops": 0,
    }


def test_what_an_empty_drive_has_not_is_missing_and_its_depth_is_none() -> None:
    row = tables.devices(graph_of(DISK, EMPTY)).loc["cd0"]

    assert row[["node", "format", "file", "virtual_size", "backing_file", "rd_ops"]].isna().all()
    assert (row["depth"], row["removable"], row["snapshotable"]) == (0, True, False)
    assert row["why_not"] == "it is empty"


def test_a_disk_on_a_protocol_node_shows_that_node() -> None:
    assert tables.devices(graph_of(PROTOCOL)).loc["plain", "node"] == "p0"


@pytest.mark.parametrize("devices", [(), (EMPTY,), (DISK,), (DISK, EMPTY)])
def test_every_column_has_its_type_whatever_there_is_to_show(devices: tuple[Device, ...]) -> None:
    frame = tables.devices(graph_of(*devices))

    numbers = dict.fromkeys(("virtual_size", "actual_size", *DEVICE_COLUMNS[-4:]), "Int64")
    flags = dict.fromkeys(("read_only", "removable", "snapshotable"), "bool")
    texts = dict.fromkeys(DEVICE_COLUMNS, str(TEXT))
    assert kinds(frame) == texts | numbers | flags | {"depth": "int64"}
    assert frame.index.dtype == TEXT

    frame = tables.layers(graph_of(*devices))
    texts = dict.fromkeys(LAYER_COLUMNS, str(TEXT))
    assert kinds(frame) == texts | dict.fromkeys(("virtual_size", "actual_size"), "Int64")
    assert [str(frame.index.get_level_values(n).dtype) for n in (0, 1)] == [str(TEXT), "int64"]

    assert set(kinds(tables.stats(graph_of(*devices))).values()) == {"Int64"}


def test_layers_is_a_row_a_layer_the_active_one_first() -> None:
    frame = tables.layers(graph_of(DISK, EMPTY))

    assert list(frame.columns) == LAYER_COLUMNS
    assert frame.index.names == ["device", "layer"]
    assert list(frame.index) == [("drive0", 0), ("drive0", 1)]
    assert frame.loc[("drive0", 0), "backing_file"] == "/imgs/n0"
    assert frame.loc[("drive0", 1), "virtual_size"] == HUGE
    assert frame["backing_file"].isna()[("drive0", 1)]


def test_stats_has_every_counter_that_any_device_has() -> None:
    frame = tables.stats(graph_of(DISK, EMPTY))

    assert list(frame.columns) == ["rd_bytes", "wr_bytes", "rd_ops", "wr_ops", "flush_ops"]
    assert frame.loc["drive0", "rd_bytes"] == HUGE
    assert frame.loc["drive0", "flush_ops"] == 3
    assert frame.loc["cd0"].isna().all()


def test_names_from_elsewhere_are_shown_as_they_are() -> None:
    odd = "/imgs/<script>alert('x')</script> \"\n\x1b[31m\ufffd\u202e.img"
    device = Device(
        name=odd, node=odd, root=odd, layers=(Layer(odd, "raw", odd, 1, 1, None, None),)
    )

    frame = tables.devices(graph_of(device))

    assert frame.loc[odd, "file"] == odd
    assert frame.to_html().count("<script>") == 0
    assert json.loads(str(frame.to_json()))["file"] == {odd: odd}


def test_events_is_a_row_an_event_oldest_first() -> None:
    when = datetime(2024, 2, 29, 23, 59, 59, 999999, tzinfo=UTC)
    frame = tables.events(
        [
            Event(when, "BLOCK_JOB_READY", {"device": "drive0", "len": 2**62}),
            Event(when, "JOB_STATUS_CHANGE", {"id": "job0", "status": "created"}),
            Event(when, "STOP", {}),
        ]
    )

    assert list(frame.columns) == ["time", "event", "device", "data"]
    assert list(frame["event"]) == ["BLOCK_JOB_READY", "JOB_STATUS_CHANGE", "STOP"]
    assert list(frame["device"])[:2] == ["drive0", "job0"]
    assert frame["device"].isna()[2]
    assert frame["time"][0] == pd.Timestamp(when)
    assert frame["data"][0] == {"device": "drive0", "len": 2**62}


def test_a_table_without_events_has_the_same_columns_and_times() -> None:
    frame = tables.events([])

    assert list(frame.columns) == ["time", "event", "device", "data"]
    assert str(frame["time"].dtype) == "datetime64[us, UTC]"
