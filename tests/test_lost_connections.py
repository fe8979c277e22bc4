"""A monitor's wire is cut at a command: what is said afterwards is what is so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import snapkit
from snapkit import undo
from tests.conftest import Process, StartQemu
from tests.outside import drives, graph, overlays, state
from tests.wire import Wire

engines = pytest.mark.parametrize("engine", ["prepared", "classic"])
UNDONE = "Everything was undone: no device was switched, and no file of this run is left."


@pytest.fixture
def qemu(directory: Path, start_qemu: StartQemu) -> Process:
    return start_qemu(*drives(directory, 3))


@pytest.fixture
def wire(qemu: Process) -> Iterator[Wire]:
    tapped = Wire(qemu.uri, qemu.directory)
    yield tapped
    tapped.close()


@pytest.fixture
def vm(wire: Wire) -> Iterator[snapkit.VirtualMachine]:
    with snapkit.connect(wire.uri, local=True) as connected:
        yield connected


@pytest.mark.parametrize("number", [1, 3, 4, 6])
@pytest.mark.parametrize("command", ["blockdev-create", "job-dismiss", "blockdev-add"])
def test_cut_while_preparing_the_run_is_undone_over_a_new_connection(
    qemu: Process, wire: Wire, vm: snapkit.VirtualMachine, command: str, number: int
) -> None:
    before = state(qemu)
    plan = vm.plan(overlays(qemu.directory, 3))
    wire.hang_up_at(command, number)
    with pytest.raises(snapkit.SnapshotError, match=UNDONE):
        plan.run()
    assert state(qemu) == before
    assert wire.connections == 2
    assert vm.plan(overlays(qemu.directory, 3)).run().ok


@pytest.mark.parametrize("number", [1, 3, 4, 6])
def test_a_node_whose_reply_was_lost_is_removed_too(
    qemu: Process, wire: Wire, vm: snapkit.VirtualMachine, number: int
) -> None:
    before = state(qemu)
    plan = vm.plan(overlays(qemu.directory, 3))
    added = [c.arguments["node-name"] for c in plan.script.commands if c.execute == "blockdev-add"]

    def carried_out() -> bool:
        return added[number - 1] in [name for name, _, _ in graph(qemu)["nodes"]]

    wire.hang_up_at("blockdev-add", number, carried_out=carried_out)
    with pytest.raises(snapkit.SnapshotError, match=UNDONE):
        plan.run()
    assert state(qemu) == before


@pytest.mark.parametrize("number", [1, 3])
def test_a_job_whose_reply_was_lost_is_dismissed_too(
    qemu: Process, wire: Wire, vm: snapkit.VirtualMachine, number: int
) -> None:
    before = state(qemu)

    def carried_out() -> bool:
        jobs = qemu.ask("query-jobs")
        return len(jobs) == number and all(job["status"] == "concluded" for job in jobs)

    wire.hang_up_at("blockdev-create", number, carried_out=carried_out)
    with pytest.raises(snapkit.SnapshotError, match=UNDONE):
        vm.snapshot(overlays(qemu.directory, 3))
    assert state(qemu) == before


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be reached again is given up quickly."""
    monkeypatch.setattr(undo, "RECONNECT_SECONDS", 0.2)


@engines
@pytest.mark.parametrize("phase", ["prepare", "switch"])
def test_a_qemu_that_dies_leaves_no_claim_that_it_was_done(
    qemu: Process, vm: snapkit.VirtualMachine, impatient: None, engine: str, phase: str
) -> None:
    def progress(now: str) -> None:
        if now == phase:
            qemu.stop()

    with pytest.raises((snapkit.SnapshotError, snapkit.OutcomeUnknown)) as caught:
        vm.plan(overlays(qemu.directory, 3), engine=engine).run(progress)
    unknown = isinstance(caught.value, snapkit.OutcomeUnknown)
    assert unknown == (phase == "switch")
    # Through the wire nobody knows that QEMU has died: it may have the files open.
    assert "snapkit.recover()" in str(caught.value)
    assert len(list(qemu.directory.glob("*.snap"))) == 3


@engines
def test_a_qemu_that_dies_after_the_switch_is_said_to_have_switched(
    qemu: Process, vm: snapkit.VirtualMachine, impatient: None, engine: str
) -> None:
    def progress(now: str) -> None:
        if now == "verify":
            qemu.stop()

    with pytest.raises(snapkit.OutcomeUnknown, match="The switch was done"):
        vm.plan(overlays(qemu.directory, 3), engine=engine).run(progress)
    assert len(list(qemu.directory.glob("*.snap"))) == 3
