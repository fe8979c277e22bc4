"""What only a QEMU's own monitor can change under a plan: the plan is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import snapkit
from tests.conftest import Process, StartQemu, create_image, wait_until
from tests.outside import drives, graph, overlays, state
from tests.recorder import Recorder
from tests.wire import changes


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


def test_a_node_name_that_is_taken_refuses_the_plan(
    qemu: Process, wire: Recorder, vm: snapkit.VirtualMachine
) -> None:
    plan = vm.plan(overlays(qemu.directory, 2))
    name = str(plan.to_frame().loc["drive0", "overlay_node"])
    qemu.ask("blockdev-add", driver="null-co", node_name=name, size=1024)
    refused(qemu, wire, plan, f"there is a node {name} now")
    assert vm.plan(overlays(qemu.directory, 2)).run().ok
