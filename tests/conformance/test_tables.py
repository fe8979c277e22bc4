"""The tables, beside what somebody else sees of the machine."""

from __future__ import annotations

import threading

import pandas as pd

import snapkit
from snapkit.loop import call
from tests.conformance.conftest import of_guests
from tests.conformance.machines import Machine
from tests.conftest import MIB, chain_of, wait_until

DEVICE_COLUMNS = (
    "node qdev format file virtual_size actual_size backing_file depth read_only removable "
    "snapshotable why_not rd_bytes wr_bytes rd_ops wr_ops"
).split()
LAYER_COLUMNS = (
    "node format file virtual_size actual_size backing_file header_backing_file"
).split()
TEXT = str(pd.Series(["text"]).dtype)


def kinds(frame: pd.DataFrame) -> dict[str, str]:
    return {str(name): str(dtype) for name, dtype in frame.dtypes.items()}


def test_a_row_a_disk_with_what_is_known_of_it(
    machine: Machine, vm: snapkit.VirtualMachine
) -> None:
    devices = vm.devices()
    assert list(devices.columns) == DEVICE_COLUMNS
    assert devices.index.name == "device"
    assert sorted(devices.index) == machine.names
    assert devices["file"].to_dict() == machine.active() == machine.first()
    for name, image in machine.images.items():
        row = devices.loc[name]
        assert (row["format"], row["virtual_size"]) == (image.format, image.size)
        assert row["actual_size"] == chain_of(image.file)[0]["actual-size"]
        assert row["depth"] == len(image.chain) - 1
        if image.below:
            assert row["backing_file"] == image.below.file
        else:
            assert pd.isna(row["backing_file"])
    nodes = {row["node-name"] for row in machine.ask("query-named-block-nodes", flat=True)}
    assert set(devices["node"]) <= nodes
    assert devices["snapshotable"].all()
    assert not devices["read_only"].any()
    assert not devices["removable"].any()
    assert set(devices["why_not"]) == {""}


def test_a_layer_a_row_with_the_header_of_the_image(
    machine: Machine, vm: snapkit.VirtualMachine
) -> None:
    targets = machine.targets()
    assert vm.snapshot(targets).ok
    layers = vm.layers()
    assert list(layers.columns) == LAYER_COLUMNS
    assert layers.index.names == ["device", "layer"]
    for name, chain in machine.chains().items():
        rows = layers.loc[name]
        assert list(rows.index) == list(range(len(chain)))
        assert list(rows["file"]) == chain
        assert list(rows["backing_file"].dropna()) == chain[1:]
        offline = chain_of(targets[name])
        assert list(rows["format"]) == [layer["format"] for layer in offline]
        assert list(rows["header_backing_file"].dropna()) == chain[1:]
        assert list(rows["virtual_size"]) == [layer["virtual-size"] for layer in offline]
    assert layers["node"].is_unique


def test_every_column_has_its_type(machine: Machine, vm: snapkit.VirtualMachine) -> None:
    sizes = dict.fromkeys(("virtual_size", "actual_size"), "Int64")
    numbers = sizes | dict.fromkeys(DEVICE_COLUMNS[-4:], "Int64")
    flags = dict.fromkeys(("read_only", "removable", "snapshotable"), "bool")
    texts = dict.fromkeys(DEVICE_COLUMNS, TEXT)
    assert kinds(vm.devices()) == texts | numbers | flags | {"depth": "int64"}
    assert kinds(vm.layers()) == dict.fromkeys(LAYER_COLUMNS, TEXT) | sizes
    assert list(vm.stats().columns)[:4] == DEVICE_COLUMNS[-4:]
    assert set(kinds(vm.stats()).values()) == {"Int64"}
    assert list(vm.stats().index) == list(vm.devices().index)
    assert str(vm.events()["time"].dtype) == "datetime64[us, UTC]"
    assert list(vm.events().columns) == ["time", "event", "device", "data"]


def test_a_relative_backing_file_is_shown_as_its_file_and_as_the_header_has_it(
    blank: Machine,
) -> None:
    base = blank.image("base")
    top = blank.image("top", below=base)
    blank.relate(top)
    blank.boot(top)
    with blank.connect() as vm:
        (name,) = blank.names
        assert vm.devices().loc[name, "backing_file"] == base.file
        assert vm.layers().loc[(name, 0), "header_backing_file"] == "base"
        assert vm.snapshot(blank.targets()).ok
    assert blank.chains() == {name: [blank.targets()[name], top.file, base.file]}


def test_another_s_snapshot_is_in_the_next_table(
    machine: Machine, vm: snapkit.VirtualMachine
) -> None:
    name, theirs = machine.names[1], machine.file("theirs.snap")
    machine.take(name, theirs)
    devices = vm.devices()
    assert devices["file"].to_dict() == {**machine.first(), name: theirs}
    assert devices.loc[name, "backing_file"] == machine.images[name].file


@of_guests
def test_another_size_is_in_the_next_table(machine: Machine, vm: snapkit.VirtualMachine) -> None:
    machine.resize(machine.names[0], 8 * MIB)
    assert vm.devices().loc[machine.names[0], "virtual_size"] == 8 * MIB


def test_a_disk_with_a_job_says_why_it_cannot_be_snapshotted(
    machine: Machine, vm: snapkit.VirtualMachine
) -> None:
    first, second, _ = machine.names
    machine.begin_job(first)
    devices = vm.devices()
    assert "job" in str(devices.loc[first, "why_not"])
    assert devices["snapshotable"].to_dict()[first] is False
    assert devices.loc[second, "why_not"] == ""
    plan = vm.plan(machine.targets(1))
    assert "job" in {problem.check for problem in plan.problems}
    machine.end_job(first)
    wait_until(lambda: vm.plan(machine.names).ok, "the job ends for snapkit too")


def test_each_reading_is_of_one_instant_while_somebody_else_takes_snapshots(
    machine: Machine, vm: snapkit.VirtualMachine
) -> None:
    name = machine.names[1]
    ended = threading.Event()
    taken = [machine.images[name].file]
    depths: set[int] = set()

    def churn() -> None:
        while not ended.is_set():
            taken.append(machine.file(f"theirs{len(taken)}.snap"))
            machine.take(name, taken[-1])

    def several_seen() -> bool:
        graph = call(vm.observe())
        layers = graph.devices[name].layers
        assert [layer.file for layer in layers] == taken[: len(layers)][::-1]
        assert {layer.node for layer in layers} <= graph.nodes.keys()
        depths.add(len(layers))
        return len(depths) >= 4

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        wait_until(several_seen, "the other one takes snapshots")
    finally:
        ended.set()
        thread.join()
    assert list(vm.layers().loc[name]["file"]) == taken[::-1]


def test_the_overlay_goes_below_a_filter_and_above_the_format(blank: Machine) -> None:
    blank.boot(blank.image("disk"), copy_on_read=True)
    (name,) = blank.names
    with blank.connect() as vm:
        assert vm.devices().loc[name, "snapshotable"]
        for number in (1, 2):
            outcome = vm.snapshot({name: blank.file(f"over{number}.snap")})
            assert outcome.ok, outcome.findings
        assert vm.devices().loc[name, "file"] == blank.file("over2.snap")
    chain = [blank.file("over2.snap"), blank.file("over1.snap"), blank.images[name].file]
    assert blank.chains() == {name: chain}
    drivers = {row["drv"] for row in blank.ask("query-named-block-nodes", flat=True)}
    assert "copy-on-read" in drivers
