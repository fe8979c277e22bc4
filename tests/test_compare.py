"""Two readings side by side, by writing them down."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from snapkit import compare
from snapkit.model import Device, Graph, Layer, Node
from snapkit.script import Overlay

OVERLAY = Overlay("drive0", "/over/x", "qcow2", True, 1024, "base", "/imgs/a", "qcow2", "top")


def layer(node: str, file: str, size: int = 1024) -> Layer:
    return Layer(node, "qcow2", file, size, None, None, None)


BASE, OTHER = layer("base", "/imgs/a"), layer("other", "/imgs/b")


def device(name: str, *layers: Layer, **options: Any) -> Device:
    node = layers[0].node if layers else ""
    return Device(name, root=node, node=node, layers=layers, **options)


def graph(*devices: Device, **header: str | None) -> Graph:
    top = Node("top", "qcow2", "/over/x", **header)  # type: ignore[arg-type]
    return Graph({device.name: device for device in devices}, {"top": top})


BEFORE = graph(device("drive0", BASE), device("drive1", OTHER))
SWITCHED = device("drive0", layer("top", "/over/x"), BASE)


def test_a_device_on_its_overlay_with_its_old_chain_below_is_switched() -> None:
    after = graph(SWITCHED, device("drive1", OTHER))
    assert compare.is_on(after, OVERLAY)
    found = compare.switched(BEFORE, after, OVERLAY)
    assert (found.file_before, found.file_after) == ("/imgs/a", "/over/x")
    assert (found.depth_before, found.depth_after, found.ok) == (0, 1, True)


@pytest.mark.parametrize(
    "now",
    [
        device("drive0", BASE),
        device("drive0", layer("top", "/over/x")),
        device("drive0", layer("top", "/over/x"), OTHER),
        device("drive0", layer("top", "/over/x"), layer("between", "/over/y"), BASE),
        device("drive0", layer("top", "/over/y"), BASE),
        device("another", BASE),
    ],
)
def test_anything_else_is_not_ok(now: Device) -> None:
    assert not compare.switched(BEFORE, graph(now), OVERLAY).ok


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (None, "drive1 is gone"),
        (device("drive1", layer("n", "/x"), OTHER), "drive1 was on /imgs/b and is on /x"),
        (device("drive1"), "drive1 was on /imgs/b and is on nothing"),
        (device("drive1", OTHER, BASE), "drive1 has another chain below /imgs/b"),
        (device("drive1", layer("other", "/imgs/b", 2048)), "drive1 has another size"),
        (device("drive1", OTHER, read_only=True), "drive1 has another node, access mode"),
        (device("drive1", OTHER, qdev="/machine/x"), "drive1 has another node, access mode"),
    ],
)
def test_what_became_of_another_device_is_a_sentence(now: Device | None, words: str) -> None:
    after = graph(device("drive0", BASE), *([now] if now else []))
    assert compare.changes(BEFORE, after)["drive1"].startswith(words)
    assert after.fingerprint != BEFORE.fingerprint


def test_a_device_that_is_new_is_told_and_a_node_that_nobody_uses_is_not() -> None:
    more = (*BEFORE.devices.values(), device("new", layer("n", "/x")))
    assert compare.changes(BEFORE, graph(*more)) == {"new": "new is new"}
    idle = (*BEFORE.devices.values(), device("idle", layer("n", "/x"), attached=False))
    assert compare.changes(BEFORE, graph(*idle)) == {}
    assert compare.changes(graph(*idle), BEFORE) == {}
    assert graph(*idle).fingerprint == BEFORE.fingerprint


def test_counters_are_no_change() -> None:
    busy = graph(device("drive0", BASE, stats={"rd_ops": 7}), device("drive1", OTHER))
    assert compare.changes(BEFORE, busy) == {}
    assert busy.fingerprint == BEFORE.fingerprint


@pytest.mark.parametrize(
    ("file", "format_", "words"),
    [
        ("/imgs/a", "qcow2", ""),
        ("../imgs/a", "qcow2", ""),
        ("/imgs/a", None, ""),
        ("/imgs/a", "raw", "names /imgs/a (raw) as its backing file, not /imgs/a (qcow2)"),
        ("/imgs/c", "qcow2", "names /imgs/c (qcow2)"),
        (None, None, "names nothing as its backing file"),
    ],
)
def test_a_live_header_is_compared(file: str | None, format_: str | None, words: str) -> None:
    after = graph(SWITCHED, header_backing_file=file, header_backing_format=format_)
    found = compare.header(after, OVERLAY)
    assert (words in found) if words else (found == "")


def test_a_live_header_over_raw_has_to_say_raw() -> None:
    after = graph(SWITCHED, header_backing_file="/imgs/a", header_backing_format=None)
    assert "not /imgs/a (raw)" in compare.header(after, replace(OVERLAY, backing_format="raw"))
