"""The tables on real QEMUs and storage daemons, against what a client beside snapkit says."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import snapkit
from snapkit.loop import call
from tests.conftest import (
    MIB,
    Process,
    StartQemu,
    blockdev,
    create_image,
    wait_until,
)
from tests.recorder import Recorder

ANON = "/machine/peripheral-anon/device[{}]"


@contextmanager
def tables(machine: Process) -> Iterator[tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]]:
    with snapkit.connect(machine.uri) as vm:
        yield vm.devices(), vm.layers(), vm.stats()


def devices_of(machine: Process) -> pd.DataFrame:
    with snapkit.connect(machine.uri) as vm:
        return vm.devices()


def check_against_query_block(machine: Process, devices: pd.DataFrame) -> None:
    """Every row says what ``query-block`` says, asked by another client."""
    rows = machine.ask("query-block")
    assert len(rows) == len(devices[devices["qdev"].notna()]) or not rows
    for row in rows:
        found = devices[devices["qdev"] == row["qdev"]].iloc[0]
        assert found["removable"] == row["removable"]
        inserted = row.get("inserted")
        if inserted is None:
            assert pd.isna(found["file"])
            continue
        assert found["read_only"] == inserted["ro"]
        if found["node"] == inserted["node-name"]:
            image = inserted["image"]
            assert found["virtual_size"] == image["virtual-size"]
            assert found["actual_size"] == image["actual-size"]
            assert found["format"] == inserted["drv"]
            assert found["depth"] == inserted["backing_file_depth"]


@pytest.fixture
def zoo(start_qemu: StartQemu, directory: Path) -> Process:
    """A VM with a disk of every kind."""
    raw = create_image(directory / "drive.img", format="raw")
    floppy = create_image(directory / "floppy.img", "1440K", format="raw")
    disc = create_image(directory / "disc.iso", "4M", format="raw")
    image = {n: create_image(directory / f"{n}.qcow2") for n in ("vd", "anon", "sd", "hd", "lim")}
    plain = create_image(directory / "plain.img", "8M", format="raw")
    create_image(directory / "part.img", "8M", format="raw")
    create_image(directory / "alone.qcow2")
    return start_qemu(
        *("-drive", f"if=none,id=drive0,file={raw},format=raw,throttling.bps-total=1000000"),
        *("-device", "virtio-blk-pci,drive=drive0"),
        *(*blockdev("vd-node", image["vd"]), "-device", "virtio-blk-pci,drive=vd-node,id=vd0"),
        *(*blockdev("anon-node", image["anon"]), "-device", "virtio-blk-pci,drive=anon-node"),
        *("-device", "virtio-scsi-pci,id=scsi0"),
        *(*blockdev("sd-node", image["sd"]), "-device", "scsi-hd,drive=sd-node,id=sd0"),
        *(*blockdev("hd-node", image["hd"]), "-device", "ide-hd,drive=hd-node,id=hd0,bus=ide.0"),
        *("-device", "ide-cd,id=cd0,bus=ide.1,unit=0"),
        *("-drive", f"if=none,id=cd1,media=cdrom,file={disc},format=raw"),
        *("-device", "ide-cd,drive=cd1,id=cd1-dev,bus=ide.1,unit=1"),
        *("-device", "floppy,unit=0,id=fd0"),
        *("-drive", f"if=none,id=fd1,file={floppy},format=raw"),
        *("-device", "floppy,unit=1,drive=fd1"),
        *("-object", "throttle-group,id=tg,x-bps-total=1000000"),
        *blockdev("lim-node", image["lim"]),
        *("-blockdev", "driver=copy-on-read,node-name=lim-cor,file=lim-node"),
        *("-blockdev", "driver=throttle,node-name=lim-top,throttle-group=tg,file=lim-cor"),
        *("-device", "virtio-blk-pci,drive=lim-top,id=lim0"),
        *("-blockdev", f"driver=file,node-name=plain-node,filename={plain}"),
        *("-device", "virtio-blk-pci,drive=plain-node,id=plain0"),
        *blockdev("part-node", directory / "part.img", "raw", offset=str(MIB), size=str(2 * MIB)),
        *("-device", "virtio-blk-pci,drive=part-node,id=part0"),
        *blockdev("alone-node", directory / "alone.qcow2"),
    )


def test_a_disk_of_every_kind_has_its_row(zoo: Process, directory: Path) -> None:
    with tables(zoo) as (devices, layers, stats):
        check_against_query_block(zoo, devices)

    assert list(devices.index) == [
        *("drive0", "cd1", "fd1", "vd0", "peripheral-anon/device[1]", "sd0", "hd0", "cd0", "fd0"),
        *("lim0", "plain0", "part0", "alone-node"),
    ]
    assert list(stats.index) == list(devices.index)
    assert devices.loc["vd0", "node"] == "vd-node"
    assert devices.loc["vd0", "qdev"] == "/machine/peripheral/vd0/virtio-backend"
    assert devices.loc["vd0", "file"] == f"{directory}/vd.qcow2"
    assert devices.loc["sd0", "qdev"] == "sd0"
    assert devices.loc["drive0", "qdev"] == ANON.format(0) + "/virtio-backend"
    assert list(devices.index[devices["removable"]]) == ["cd1", "fd1", "cd0", "fd0"]
    assert list(devices.index[devices["snapshotable"]]) == [
        *("drive0", "fd1", "vd0", "peripheral-anon/device[1]", "sd0", "hd0", "lim0", "part0"),
    ]
    assert set(layers.index.get_level_values("device")) == set(devices.index) - {"cd0", "fd0"}


def test_what_cannot_be_snapshotted_says_why(zoo: Process) -> None:
    devices = devices_of(zoo)

    assert devices["why_not"][~devices["snapshotable"]].to_dict() == {
        "cd1": "it is read-only: nothing is written to it",
        "cd0": "it is empty: no medium is inserted",
        "fd0": "it is empty: no medium is inserted",
        "plain0": "its node plain-node is a protocol node (file) without a format above it",
        "alone-node": "neither a guest device nor an export uses this node",
    }


def test_below_a_filter_the_format_node_is_shown_with_its_file(
    zoo: Process, directory: Path
) -> None:
    row = devices_of(zoo).loc["lim0"]

    assert (row["node"], row["format"]) == ("lim-node", "qcow2")
    assert row["file"] == f"{directory}/lim.qcow2"


def test_a_part_of_a_raw_file_is_not_taken_for_the_file(zoo: Process, directory: Path) -> None:
    row = devices_of(zoo).loc["part0"]

    assert row["file"].startswith("json:")
    assert str(directory / "part.img") in row["file"]
    assert row["virtual_size"] == 2 * MIB


def test_relative_image_names_are_made_absolute_by_qemus_own_directory(
    start_qemu: StartQemu, directory: Path
) -> None:
    create_image(directory / "base.qcow2")
    create_image(directory / "top.qcow2", backing="base.qcow2", backing_format="qcow2")
    assert str(directory) != os.getcwd()

    machine = start_qemu(*("-drive", "if=none,id=drive0,file=top.qcow2"))
    with tables(machine) as (devices, layers, _):
        assert devices.loc["drive0", "file"] == f"{directory}/top.qcow2"
        assert devices.loc["drive0", "backing_file"] == f"{directory}/base.qcow2"
        assert layers.loc[("drive0", 0), "header_backing_file"] == "base.qcow2"


def test_a_chain_of_a_hundred_images_is_read_quickly_and_in_order(
    start_qemu: StartQemu, directory: Path, recorder: Callable[..., Recorder]
) -> None:
    files = [create_image(directory / "0.qcow2")]
    for number in range(1, 101):
        options = {"backing": files[-1], "backing_format": "qcow2"}
        files.append(create_image(directory / f"{number}.qcow2", **options))
    machine = start_qemu("-drive", f"if=none,id=drive0,file={files[-1]}")
    proxy = recorder(machine.uri)

    with snapkit.connect(proxy.uri, local=True) as vm:
        assert vm.devices().loc["drive0", "depth"] == 100
        assert list(vm.layers()["file"]) == files[::-1]
        assert list(vm.layers()["backing_file"])[:-1] == files[-2::-1]
    asked = [c for c in proxy.commands if c["execute"] == "query-named-block-nodes"]
    assert asked
    assert all(command["arguments"] == {"flat": True} for command in asked)


def test_nothing_that_changes_the_vm_is_sent_to_look_at_it(
    zoo: Process, recorder: Callable[..., Recorder]
) -> None:
    proxy = recorder(zoo.uri)

    with snapkit.connect(proxy.uri) as vm:
        vm.devices()
        vm.layers()
        vm.stats()
        vm.events()

    assert {n for n in proxy.names if not n.startswith(("query-", "x-debug-query-"))} == {
        "qmp_capabilities"
    }


ODD_NAMES = [
    "with spaces  .qcow2",
    "quotes'and\".qcow2",
    "<script>alert(1)<script>.qcow2",
    "line\nbreak.qcow2",
    "a:b.qcow2",
    "json:{}.qcow2",
    "comma,server=on.qcow2",
    "m\u00fcnchen \u65e5\u672c \U0001f4be.qcow2",
    "\x1b[31mred\x1b[0m.qcow2",
    "\u202egnp.qcow2",
    "%s{0}$HOME`id`.qcow2",
    "-rf.qcow2",
    "n" * 240 + ".qcow2",
]


@pytest.mark.parametrize("way", ["drive", "blockdev"])
def test_file_names_are_shown_as_they_are(start_qemu: StartQemu, directory: Path, way: str) -> None:
    files = [create_image(directory / name) for name in ODD_NAMES]
    arguments: list[str] = []
    for number, file in enumerate(files):
        name = file.replace(",", ",,")
        if way == "drive":
            arguments += ["-drive", f"if=none,id=d{number},format=qcow2,file={name}"]
        else:
            arguments += [*blockdev(f"d{number}", file)]
            arguments += ["-device", f"virtio-blk-pci,drive=d{number},id=d{number}"]
    machine = start_qemu(*arguments)

    with tables(machine) as (devices, layers, _):
        assert list(devices["file"]) == files
        assert list(layers["file"]) == files
        assert devices["snapshotable"].all()
        assert "<script>" not in devices.to_html()


def test_a_name_that_is_no_utf8_is_shown_with_replacements_and_the_place_still_known(
    start_qemu: StartQemu, directory: Path
) -> None:
    plain = create_image(directory / "plain.qcow2")
    odd = os.fsencode(directory) + b"/caf\xe9.qcow2"
    os.rename(os.fsencode(plain), odd)
    machine = start_qemu("-drive", f"if=none,id=drive0,file={os.fsdecode(odd)}")

    with snapkit.connect(machine.uri) as vm:
        assert vm.devices().loc["drive0", "file"] == f"{directory}/caf\ufffd.qcow2"
        assert vm.local


def test_exports_of_a_storage_daemon_and_nodes_without_one(
    start_daemon: StartQemu, directory: Path
) -> None:
    base = create_image(directory / "base.qcow2", "8M")
    top = create_image(directory / "top.qcow2", backing=base, backing_format="qcow2")
    daemon = start_daemon(
        *blockdev("n0", top),
        *("--export", "type=nbd,id=e0,node-name=n0,name=d0,writable=on"),
        *blockdev("n1", create_image(directory / "alone.qcow2")),
    )

    with tables(daemon) as (devices, layers, stats):
        assert list(devices.index) == ["e0", "n1"]
        row = devices.loc["e0"]
        assert (row["node"], row["file"], row["depth"]) == ("n0", top, 1)
        assert (row["virtual_size"], row["backing_file"]) == (8 * MIB, base)
        assert row["snapshotable"]
        assert pd.isna(row["qdev"])
        assert row[["rd_bytes", "wr_bytes", "rd_ops", "wr_ops"]].isna().all()
        assert "nor an export" in devices.loc["n1", "why_not"]
        assert list(layers.index) == [("e0", 0), ("e0", 1), ("n1", 0)]
        assert list(stats.index) == ["e0", "n1"]


def test_a_disk_that_is_exported_too_is_snapshotted_by_one_of_its_two_names(
    seed_qemu: Process, directory: Path
) -> None:
    node = seed_qemu.ask("query-block")[1]["inserted"]["node-name"]
    with seed_qemu.qmp() as other:
        address = {"type": "unix", "data": {"path": f"{directory}/nbd.sock"}}
        other.execute("nbd-server-start", addr=address)
        other.execute("block-export-add", type="nbd", id="out", node_name=node)

    devices = devices_of(seed_qemu)

    assert list(devices.index) == ["drive0", "drive1", "out"]
    assert devices.loc["drive1", "snapshotable"]
    assert "the same disk as drive1" in str(devices.loc["out", "why_not"])


def test_two_hundred_exports_are_two_hundred_rows(start_daemon: StartQemu, directory: Path) -> None:
    arguments: list[str] = []
    for number in range(200):
        with (directory / f"{number}.raw").open("wb") as file:
            file.truncate(MIB)
        arguments += blockdev(f"n{number}", directory / f"{number}.raw", "raw")
        arguments += ["--export", f"type=nbd,id=e{number},node-name=n{number},name=d{number}"]
    daemon = start_daemon(*arguments)

    with tables(daemon) as (devices, layers, _):
        assert sorted(devices.index) == sorted(f"e{number}" for number in range(200))
        assert devices["snapshotable"].all()
        assert len(layers) == 200
        assert all(devices["node"] == "n" + devices.index.str[1:])


def test_two_hundred_disks_of_a_guest_are_two_hundred_rows(
    start_qemu: StartQemu, directory: Path
) -> None:
    arguments = ["-device", "virtio-scsi-pci,id=scsi0"]
    for number in range(200):
        with (directory / f"{number}.raw").open("wb") as file:
            file.truncate(MIB)
        arguments += blockdev(f"n{number}", directory / f"{number}.raw", "raw")
        arguments += ["-device", f"scsi-hd,bus=scsi0.0,lun={number},drive=n{number},id=sd{number}"]
    machine = start_qemu(*arguments)

    with tables(machine) as (devices, _, stats):
        assert sorted(devices.index) == sorted(f"sd{number}" for number in range(200))
        assert devices["snapshotable"].all()
        assert (stats["rd_ops"] >= 0).all()
        check_against_query_block(machine, devices)


def test_a_drive_id_that_is_another_disks_qdev_id_stays_on_its_own_node(
    start_qemu: StartQemu, directory: Path
) -> None:
    one, two = create_image(directory / "1.qcow2"), create_image(directory / "2.qcow2")
    machine = start_qemu(
        *("-device", "virtio-scsi-pci,id=scsi0"),
        *("-drive", f"if=none,id=disk,file={one}", "-device", "scsi-hd,drive=disk,id=first"),
        *(*blockdev("second", two), "-device", "scsi-hd,drive=second,id=disk"),
    )

    devices = devices_of(machine)

    assert devices["file"].to_dict() == {"disk": one, "second": two}
    assert devices["qdev"].to_dict() == {"disk": "first", "second": "disk"}


def test_counters_are_those_that_qemu_keeps(seed_qemu: Process) -> None:
    with seed_qemu.qmp() as other:
        other.execute("human-monitor-command", command_line='qemu-io drive1 "write 0 64k"')
        other.execute("human-monitor-command", command_line='qemu-io drive1 "read 0 4k"')
        told = {row["device"]: row["stats"] for row in other.execute("query-blockstats")}
    with tables(seed_qemu) as (devices, _, stats):
        for name in ("drive0", "drive1"):
            assert stats.loc[name, "wr_bytes"] == told[name]["wr_bytes"]
            assert stats.loc[name, "rd_ops"] == told[name]["rd_operations"]
            assert stats.loc[name, "wr_total_ns"] == told[name]["wr_total_time_ns"]
            assert devices.loc[name, "wr_bytes"] == told[name]["wr_bytes"]
        assert stats.columns[:4].to_list() == ["rd_bytes", "wr_bytes", "rd_ops", "wr_ops"]


def test_each_reading_is_of_one_instant_while_another_client_makes_and_deletes_nodes(
    seed_qemu: Process, directory: Path
) -> None:
    file = create_image(directory / "passing.qcow2")
    ended = threading.Event()
    rounds = 0

    def churn() -> None:
        nonlocal rounds
        with seed_qemu.qmp() as other:
            while not ended.is_set():
                options: dict[str, Any] = {"driver": "file", "filename": file}
                other.execute("blockdev-add", driver="qcow2", node_name="passing", file=options)
                other.execute("blockdev-del", node_name="passing")
                rounds += 1

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        with snapkit.connect(seed_qemu.uri) as vm:
            prints = set()
            for _ in range(40):
                graph = call(vm.observe())
                prints.add(graph.fingerprint)
                assert set(graph.devices) - {"passing"} == {"drive0", "drive1"}
                children = {c for node in graph.nodes.values() for c in node.children.values()}
                assert children <= graph.nodes.keys()
                assert ("passing" in graph.nodes) == ("passing" in graph.devices)
            wait_until(lambda: rounds > 5, "the other client gets its turns")
    finally:
        ended.set()
        thread.join()
    assert len(prints) == 1
