"""Disks below filters: the overlay goes on the right node, and the filter stays above it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import snapkit
from tests.conftest import Process, StartQemu, chain_of, create_image
from tests.outside import graph

engines = pytest.mark.parametrize("engine", ["prepared", "classic"])


def start(directory: Path, start_qemu: StartQemu, *filters: dict[str, str]) -> Process:
    """A virtio-blk disk ``vd0`` on a qcow2 node ``fmt``, below these filters."""
    image = create_image(directory / "disk.qcow2", "1M")
    node = "fmt"
    file = {"driver": "file", "filename": image}
    arguments = ["-blockdev", json.dumps({"driver": "qcow2", "node-name": node, "file": file})]
    for number, options in enumerate(filters):
        arguments += ["-blockdev", json.dumps(options | {"node-name": f"f{number}", "file": node})]
        node = f"f{number}"
    return start_qemu(
        *("-object", "throttle-group,id=tg,x-iops-total=77"),
        *arguments,
        *("-device", f"virtio-blk-pci,id=vd0,drive={node}"),
    )


THROTTLE = {"driver": "throttle", "throttle-group": "tg"}
FILTERS = {
    "throttle": [THROTTLE],
    "copy-on-read": [{"driver": "copy-on-read"}],
    "both": [{"driver": "copy-on-read"}, THROTTLE],
    "none": [],
}


@engines
@pytest.mark.parametrize("name", FILTERS)
def test_the_overlay_goes_below_the_filters_and_above_the_format(
    directory: Path, start_qemu: StartQemu, name: str, engine: str
) -> None:
    qemu = start(directory, start_qemu, *FILTERS[name])
    root = [row["inserted"]["node-name"] for row in qemu.ask("query-block")]
    overlay = str(directory / "over.snap")
    with snapkit.connect(qemu.uri) as vm:
        devices = vm.devices()
        assert devices.loc["vd0", "node"] == "fmt"
        assert devices.loc["vd0", "snapshotable"]
        outcome = vm.snapshot({"vd0": overlay}, engine=engine)
        assert outcome.ok, outcome.findings
        assert vm.devices().loc["vd0", "file"] == overlay
        again = vm.snapshot({"vd0": str(directory / "over2.snap")}, engine=engine)
        assert again.ok, again.findings
    filters = FILTERS[name]
    if filters:
        assert [row["inserted"]["node-name"] for row in qemu.ask("query-block")] == root
    assert below(qemu, root[0], len(filters)) == f"{directory}/over2.snap"
    assert len(chain_of(directory / "over2.snap")) == 3


def below(qemu: Process, root: str, filters: int) -> str:
    """The file of the node that many edges below the top one."""
    told = qemu.ask("x-debug-query-block-graph")
    names = {row["id"]: row["name"] for row in told["nodes"]}
    edges = {(names[e["parent"]], e["name"]): names[e["child"]] for e in told["edges"]}
    node = root if filters else next(c for (p, e), c in edges.items() if e == "root")
    for _ in range(filters):
        node = edges[node, "file"]
    files: dict[str, str] = {name: file for name, file, _ in graph(qemu)["nodes"]}
    return files[node]


@engines
def test_a_throttled_disk_stays_throttled(
    directory: Path, start_qemu: StartQemu, engine: str
) -> None:
    qemu = start(directory, start_qemu, THROTTLE)
    with snapkit.connect(qemu.uri) as vm:
        assert vm.snapshot({"vd0": str(directory / "over.snap")}, engine=engine).ok
    (row,) = qemu.ask("query-block")
    assert row["inserted"]["drv"] == "throttle"
    limits = qemu.ask("qom-get", path="/objects/tg", property="limits")
    assert limits["iops-total"] == 77
    # Every request of the guest goes through the filter, whose group has this limit.
    assert below(qemu, row["inserted"]["node-name"], 1) == f"{directory}/over.snap"


@engines
def test_a_drive_with_throttling_of_its_own_keeps_it(
    directory: Path, start_qemu: StartQemu, engine: str
) -> None:
    image = create_image(directory / "disk.qcow2", "1M")
    qemu = start_qemu(
        *("-drive", f"if=none,id=drive0,file={image},format=qcow2,throttling.iops-total=77"),
        *("-device", "virtio-blk-pci,drive=drive0"),
    )
    with snapkit.connect(qemu.uri) as vm:
        assert vm.snapshot({"drive0": str(directory / "over.snap")}, engine=engine).ok
    (row,) = qemu.ask("query-block")
    assert row["inserted"]["iops"] == 77
    assert row["inserted"]["file"] == str(directory / "over.snap")


@engines
def test_an_export_of_a_storage_daemon_is_snapshotted_and_followed(
    directory: Path, start_daemon: StartQemu, engine: str
) -> None:
    image = create_image(directory / "disk.qcow2", "1M")
    node = f"driver=qcow2,node-name=n0,file.driver=file,file.filename={image}"
    daemon = start_daemon(
        *("--blockdev", node),
        *("--export", "type=nbd,id=e0,node-name=n0,name=d0,writable=on"),
    )
    overlay = str(directory / "over.snap")
    with snapkit.connect(daemon.uri) as vm:
        outcome = vm.snapshot({"e0": overlay}, engine=engine)
    assert outcome.ok, outcome.findings
    (export,) = daemon.ask("query-block-exports")
    nodes = daemon.ask("query-named-block-nodes", flat=True)
    assert {n["node-name"]: n["file"] for n in nodes}[export["node-name"]] == overlay
