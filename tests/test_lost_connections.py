"""The connection goes in mid-run: what is said afterwards is what is so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import snapkit
from snapkit import undo
from tests.conftest import Process, StartQemu, contents, create_image
from tests.outside import drives, graph, overlays, state
from tests.recorder import end_of
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


def on_overlays(qemu: Process, targets: dict[str, str]) -> bool:
    return {name: file for name, (file, _) in graph(qemu)["devices"].items()} == targets


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


@engines
def test_a_switch_that_never_reached_qemu_is_undone(
    qemu: Process, wire: Wire, vm: snapkit.VirtualMachine, engine: str
) -> None:
    before = state(qemu)
    wire.hang_up_at("transaction")
    with pytest.raises(snapkit.SnapshotError, match=UNDONE) as caught:
        vm.snapshot(overlays(qemu.directory, 3), engine=engine)
    assert state(qemu) == before
    assert caught.value.outcome is not None
    assert caught.value.outcome.switch_seconds is None


@engines
def test_a_switch_whose_reply_was_lost_is_found_to_be_done(
    qemu: Process, wire: Wire, vm: snapkit.VirtualMachine, engine: str
) -> None:
    targets = overlays(qemu.directory, 3)
    wire.hang_up_at("transaction", carried_out=lambda: on_overlays(qemu, targets))
    outcome = vm.snapshot(targets, engine=engine)
    assert outcome.ok
    assert outcome.switch_seconds is None
    (note,) = outcome.findings
    assert "the connection was lost during the switch" in note
    assert on_overlays(qemu, targets)


@engines
def test_cut_after_the_switch_the_run_is_verified_over_a_new_connection(
    qemu: Process, wire: Wire, vm: snapkit.VirtualMachine, engine: str
) -> None:
    targets = overlays(qemu.directory, 3)

    def progress(phase: str) -> None:
        if phase == "verify":
            wire.hang_up_at("query-named-block-nodes")

    outcome = vm.plan(targets, engine=engine).run(progress)
    assert outcome.ok
    assert wire.connections == 2
    assert on_overlays(qemu, targets)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be reached again is given up quickly."""
    monkeypatch.setattr(undo, "RECONNECT_SECONDS", 0.2)


@engines
@pytest.mark.parametrize("done", [True, False])
def test_where_nobody_can_look_the_outcome_is_unknown_and_nothing_is_removed(
    qemu: Process,
    wire: Wire,
    vm: snapkit.VirtualMachine,
    impatient: None,
    engine: str,
    done: bool,
) -> None:
    targets = overlays(qemu.directory, 3)
    carried_out: Callable[[], object] = lambda: on_overlays(qemu, targets)  # noqa: E731
    wire.hang_up_at("transaction", carried_out=carried_out if done else None)

    def progress(phase: str) -> None:
        if phase == "switch":
            end_of(wire._server)

    with pytest.raises(snapkit.OutcomeUnknown) as caught:
        vm.plan(targets, engine=engine).run(progress)
    assert caught.value.exit_code == 3
    assert "All disks have moved to their overlays, or none has." in str(caught.value)
    assert on_overlays(qemu, targets) == done
    for overlay in targets.values():
        assert Path(overlay).exists()
        assert overlay in str(caught.value)


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


@engines
def test_another_qemu_at_the_same_place_is_not_taken_for_the_first(
    qemu: Process, start_qemu: StartQemu, engine: str
) -> None:
    """A supervisor has started the VM again before we were back."""
    targets = overlays(qemu.directory, 3)

    def progress(now: str) -> None:
        if now == "switch":
            qemu.stop()
            for socket in qemu.directory.glob("*.sock"):
                socket.unlink()
            start_qemu(*drives(qemu.directory, 3))

    before = contents(qemu.directory)
    with (
        snapkit.connect(qemu.uri) as vm,
        pytest.raises(
            snapkit.SnapshotError, match="its disks are the images that it had"
        ) as caught,
    ):
        vm.plan(targets, engine=engine).run(progress)
    # Of the first one it is known that it has ended, and nothing was written to its overlays.
    assert caught.value.outcome is None
    assert contents(qemu.directory) == before


def test_a_closed_vm_runs_nothing(qemu: Process) -> None:
    create_image(qemu.directory / "x", "1M")
    with snapkit.connect(qemu.uri) as vm:
        plan = vm.plan(overlays(qemu.directory, 1))
    before = state(qemu)
    with pytest.raises(snapkit.ConnectError, match="closed"):
        plan.run()
    assert state(qemu) == before
