"""The connection or the machine goes in mid-run: what is said afterwards is what is so."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

import snapkit
from snapkit import loop, undo
from tests.conformance.conftest import every_engine
from tests.conformance.machines import Machine, Tap
from tests.conformance.runs import UNDONE, at


@pytest.fixture
def tap(machine: Machine) -> Tap:
    return machine.tap()


@pytest.fixture
def vm(machine: Machine, tap: Tap) -> Iterator[snapkit.VirtualMachine]:
    with machine.connect(tap) as connected:
        yield connected


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be reached again is given up quickly."""
    monkeypatch.setattr(undo, "RECONNECT_SECONDS", 0.2)


def state() -> str:
    return str(snapkit.journal()["state"].iloc[-1])


@every_engine
@pytest.mark.parametrize("phase", ["prepare", "switch"])
def test_a_request_that_never_arrived_is_undone_over_a_new_connection(
    machine: Machine, tap: Tap, vm: snapkit.VirtualMachine, phase: str, engine: str
) -> None:
    before = machine.state()
    with pytest.raises(snapkit.SnapshotError, match=UNDONE) as caught:
        vm.plan(machine.targets(), engine=engine).run(at(phase, tap.hang_up))
    assert caught.value.outcome is not None
    assert caught.value.outcome.switch_seconds is None
    assert machine.state() == before
    assert state() == "not switched"
    assert vm.connected
    assert vm.snapshot(machine.targets(), engine=engine).ok


@every_engine
def test_a_switch_whose_reply_was_lost_is_found_to_be_done(
    machine: Machine, tap: Tap, vm: snapkit.VirtualMachine, engine: str
) -> None:
    targets = machine.targets()
    lose = at("switch", lambda: tap.lose_reply(lambda: machine.active() == targets))
    outcome = vm.plan(targets, engine=engine).run(lose)
    assert outcome.ok
    assert outcome.switch_seconds is None
    (note,) = outcome.findings
    assert "the connection was lost during the switch" in note
    assert machine.active() == targets
    assert state() == "switched"


@every_engine
def test_cut_after_the_switch_the_run_is_verified_over_a_new_connection(
    machine: Machine, tap: Tap, vm: snapkit.VirtualMachine, engine: str
) -> None:
    outcome = vm.plan(machine.targets(), engine=engine).run(at("verify", tap.hang_up))
    assert outcome.ok, outcome.findings
    assert machine.active() == machine.targets()


@every_engine
@pytest.mark.parametrize("done", [True, False])
def test_where_nobody_can_look_the_outcome_is_unknown_and_nothing_is_removed(
    machine: Machine,
    tap: Tap,
    vm: snapkit.VirtualMachine,
    impatient: None,
    engine: str,
    done: bool,
) -> None:
    targets = machine.targets()

    def vanish() -> None:
        tap.refuse()
        if done:
            tap.lose_reply(lambda: machine.active() == targets)
        else:
            tap.hang_up()

    with pytest.raises(snapkit.OutcomeUnknown) as caught:
        vm.plan(targets, engine=engine).run(at("switch", vanish))
    said = str(caught.value)
    assert "All disks have moved to their overlays, or none has." in said
    assert "Nothing was removed" in said
    assert "snapkit.recover()" in said
    assert caught.value.exit_code == 3
    assert machine.active() == (targets if done else machine.first())
    if engine == "prepared" or done:
        assert all(os.path.exists(overlay) for overlay in targets.values())
    assert all(overlay in said for overlay in targets.values())
    assert state() == "unknown"


def test_a_connection_that_goes_before_the_run_ends_it_with_nothing_sent(
    machine: Machine, tap: Tap, vm: snapkit.VirtualMachine
) -> None:
    before = machine.state()
    plan = vm.plan(machine.targets())
    tap.hang_up()
    with pytest.raises(snapkit.ConnectError):
        plan.run()
    assert machine.state() == before
    assert machine.sent(tap) == []
    assert state() == "not switched"
    assert snapkit.recover().empty


def test_a_connection_that_is_closed_within_the_run_leaves_all_or_nothing(
    machine: Machine,
) -> None:
    targets = machine.targets()
    with machine.connect() as vm:
        run = vm.plan(targets).start(at("switch", lambda: loop.submit(vm.aclose())))
        failed = run.future.exception()
    assert machine.active() == (machine.first() if failed else targets)
    assert UNDONE in str(failed or UNDONE)
    assert [os.path.exists(file) for file in targets.values()] == [failed is None] * 3


@pytest.mark.parametrize("phase", ["prepare", "flush", "switch"])
def test_a_machine_that_ends_before_its_switch_leaves_nothing(
    machine: Machine, impatient: None, phase: str
) -> None:
    targets = machine.targets()
    with (
        machine.connect() as vm,
        pytest.raises(
            snapkit.SnapshotError, match=r"Everything was undone|the overlays were removed"
        ),
    ):
        vm.plan(targets).run(at(phase, machine.end))
    assert not [file for file in targets.values() if os.path.exists(file)]
    assert state() == "not switched"


def test_a_machine_that_ends_after_its_switch_is_told_with_its_disks(
    machine: Machine, impatient: None
) -> None:
    targets = machine.targets()
    with (
        machine.connect() as vm,
        pytest.raises(snapkit.SnapshotError, match="start it again from these") as caught,
    ):
        vm.plan(targets).run(at("verify", machine.end))
    assert caught.value.outcome is not None
    assert caught.value.outcome.switched
    assert all(os.path.exists(file) for file in targets.values())
    assert all(file in str(caught.value) for file in targets.values())
    assert state() == "switched"


def test_a_machine_that_is_started_anew_within_the_run_is_not_taken_for_the_first(
    machine: Machine,
) -> None:
    before = machine.state()
    with machine.connect() as vm, pytest.raises(snapkit.SnapshotError, match="removed"):
        vm.plan(machine.targets()).run(at("switch", machine.restart))
    after = machine.state()
    assert after["files"] == before["files"]
    assert after["chains"] == before["chains"]
    assert state() == "not switched"
