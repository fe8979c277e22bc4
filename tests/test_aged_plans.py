"""A plan is for the VM as it was: of another one, it is refused, and nothing is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import snapkit
from tests.conftest import Process, StartQemu, create_image, wait_until
from tests.outside import drives, graph, overlays, state
from tests.recorder import Recorder
from tests.wire import changes

engines = pytest.mark.parametrize("engine", ["prepared", "classic"])


@pytest.fixture
def qemu(directory: Path, start_qemu: StartQemu) -> Process:
    disc = create_image(directory / "disc.iso", "1M", format="raw")
    return start_qemu(
        *drives(directory, 2),
        *("-drive", f"if=none,id=cd0,media=cdrom,file={disc},format=raw"),
        *("-device", "ide-cd,drive=cd0"),
        *("-device", "nec-usb-xhci"),
        *("-drive", f"if=none,id=stick,file={create_image(directory / 'stick')},format=qcow2"),
        *("-device", "usb-storage,drive=stick,id=stick-device"),
    )


@pytest.fixture
def wire(qemu: Process, recorder: Callable[..., Recorder]) -> Recorder:
    return recorder(qemu.uri)


@pytest.fixture
def vm(wire: Recorder) -> Iterator[snapkit.VirtualMachine]:
    with snapkit.connect(wire.uri, local=True) as connected:
        yield connected


def refused(qemu: Process, wire: Recorder, plan: snapkit.Plan, words: str) -> None:
    assert plan.ok, plan.problems
    before = state(qemu)
    with pytest.raises(snapkit.PlanError, match=words):
        plan.run()
    assert changes(wire) == []
    assert state(qemu) == before


@engines
def test_a_vm_that_took_another_snapshot_refuses_the_plan(
    qemu: Process, wire: Recorder, vm: snapkit.VirtualMachine, engine: str
) -> None:
    plan = vm.plan(overlays(qemu.directory, 2), engine=engine)
    theirs = str(qemu.directory / "theirs.snap")
    qemu.ask("blockdev-snapshot-sync", device="drive1", snapshot_file=theirs)
    refused(qemu, wire, plan, f"has changed .* drive1 was on .*disk1.qcow2 and is on {theirs}")


def test_a_vm_whose_device_has_gone_refuses_the_plan(
    qemu: Process, wire: Recorder, vm: snapkit.VirtualMachine
) -> None:
    plan = vm.plan({**overlays(qemu.directory, 2), "stick": str(qemu.directory / "x.snap")})
    qemu.ask("device_del", id="stick-device")
    # Its drive goes a moment after the device.
    wait_until(
        lambda: not any(file.endswith("/stick") for _, file, _ in graph(qemu)["nodes"]),
        "the device goes",
    )
    refused(qemu, wire, plan, "has changed .*stick")


def test_a_vm_whose_medium_was_changed_refuses_the_plan(
    qemu: Process, wire: Recorder, vm: snapkit.VirtualMachine
) -> None:
    plan = vm.plan(overlays(qemu.directory, 2))
    other = create_image(qemu.directory / "other.iso", "1M", format="raw")
    qemu.ask("blockdev-change-medium", device="cd0", filename=other, format="raw")
    refused(qemu, wire, plan, f"has changed .* cd0 was on .*disc.iso and is on {other}")


def test_a_vm_whose_disk_was_resized_refuses_the_plan(
    qemu: Process, wire: Recorder, vm: snapkit.VirtualMachine
) -> None:
    plan = vm.plan(overlays(qemu.directory, 2))
    qemu.ask("block_resize", device="drive0", size=2 * 1024 * 1024)
    refused(qemu, wire, plan, "has changed .* drive0 has another size")


def test_a_file_that_has_appeared_refuses_the_plan(
    qemu: Process, wire: Recorder, vm: snapkit.VirtualMachine
) -> None:
    targets = overlays(qemu.directory, 2)
    plan = vm.plan(targets)
    Path(targets["drive1"]).write_text("precious")
    refused(qemu, wire, plan, f"drive1: {targets['drive1']} already exists")


def test_an_overlay_that_has_become_unfit_refuses_the_plan(
    qemu: Process, wire: Recorder, vm: snapkit.VirtualMachine
) -> None:
    overlay = str(qemu.directory / "x.snap")
    base = str(qemu.directory / "disk0.qcow2")
    create_image(overlay, backing=base, backing_format="qcow2")
    plan = vm.plan({"drive0": overlay}, mode="existing")
    create_image(overlay, "1M")
    refused(qemu, wire, plan, f"drive0: the header of {overlay} names no backing file")


def test_a_job_that_has_begun_refuses_the_plan(
    qemu: Process, wire: Recorder, vm: snapkit.VirtualMachine
) -> None:
    plan = vm.plan(overlays(qemu.directory, 2))
    copy = str(qemu.directory / "copy.log")
    options = {"target": copy, "sync": "full", "format": "raw"}
    qemu.ask("drive-mirror", device="drive1", job_id="busy", **options)
    with pytest.raises(snapkit.PlanError, match="drive1"):
        plan.run()
    assert changes(wire) == []
    assert list(qemu.directory.glob("*.snap")) == []


def test_a_node_name_that_is_taken_refuses_the_plan(
    qemu: Process, wire: Recorder, vm: snapkit.VirtualMachine
) -> None:
    plan = vm.plan(overlays(qemu.directory, 2))
    name = str(plan.to_frame().loc["drive0", "overlay_node"])
    qemu.ask("blockdev-add", driver="null-co", node_name=name, size=1024)
    refused(qemu, wire, plan, f"there is a node {name} now")
    assert vm.plan(overlays(qemu.directory, 2)).run().ok


def test_a_plan_made_again_runs(qemu: Process, vm: snapkit.VirtualMachine) -> None:
    qemu.ask("block_resize", device="drive0", size=2 * 1024 * 1024)
    outcome = vm.plan(overlays(qemu.directory, 2)).run()
    assert outcome.ok
    with pytest.raises(snapkit.PlanError):
        vm.plan(overlays(qemu.directory, 2)).run()
