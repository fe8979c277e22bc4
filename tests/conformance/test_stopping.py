"""A run that is cancelled or interrupted: undone before the switch, finished after it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import pytest

import snapkit
from snapkit.engine import Run
from tests.conformance.conftest import every_engine
from tests.conformance.machines import Machine
from tests.conftest import wait_until

UNDONE = (
    "The run was cancelled before the switch. Everything was undone: "
    "no device was switched, and no file of this run is left."
)


class Stop:
    """Stops a run when a phase begins, and goes on when the run knows it."""

    def __init__(self, phase: str, how: Callable[[Run], object]) -> None:
        self.phase, self.how = phase, how
        self.run: Run
        self.started = threading.Event()

    def __call__(self, phase: str) -> None:
        if phase == self.phase:
            assert self.started.wait(20)
            self.how(self.run)
            wait_until(lambda: self.run.cancelled, "the run knows that it shall stop")

    def start(self, plan: snapkit.Plan) -> Run:
        self.run = plan.start(self)
        self.started.set()
        return self.run


def interrupt(_: Run) -> None:
    os.kill(os.getpid(), signal.SIGINT)


@every_engine
@pytest.mark.parametrize("phase", ["prepare", "switch"])
def test_cancelled_before_the_switch_a_run_is_undone(
    machine: Machine, vm: snapkit.VirtualMachine, phase: str, engine: str
) -> None:
    before = machine.state()
    run = Stop(phase, Run.cancel).start(vm.plan(machine.targets(), engine=engine))
    with pytest.raises(snapkit.SnapshotError) as caught:
        run.result()
    assert str(caught.value) == UNDONE
    assert caught.value.outcome is not None
    assert not caught.value.outcome.switched
    assert machine.state() == before
    assert list(snapkit.journal()["state"]) == ["not switched"]
    assert vm.snapshot(machine.targets()).ok


def test_cancelled_before_it_began_a_run_sends_nothing(machine: Machine) -> None:
    before, tap = machine.state(), machine.tap()
    with machine.connect(tap) as vm:
        run = Stop("observe", Run.cancel).start(vm.plan(machine.targets()))
        with pytest.raises(
            snapkit.PlanError, match=r"cancelled before it began\. Nothing was sent\."
        ):
            run.result()
    assert machine.sent(tap) == []
    assert machine.state() == before


def test_cancelled_after_the_switch_a_run_is_finished(
    machine: Machine, vm: snapkit.VirtualMachine
) -> None:
    assert Stop("verify", Run.cancel).start(vm.plan(machine.targets())).result().ok
    assert machine.active() == machine.targets()


@every_engine
def test_interrupted_before_the_switch_a_run_is_undone_first(
    machine: Machine, vm: snapkit.VirtualMachine, engine: str
) -> None:
    before = machine.state()
    run = Stop("prepare", interrupt).start(vm.plan(machine.targets(), engine=engine))
    with pytest.raises(KeyboardInterrupt):
        run.result()
    assert isinstance(run.future.exception(), snapkit.SnapshotError)
    assert machine.state() == before


def test_interrupted_after_the_switch_a_run_is_finished_first(
    machine: Machine, vm: snapkit.VirtualMachine
) -> None:
    run = Stop("verify", interrupt).start(vm.plan(machine.targets()))
    with pytest.raises(KeyboardInterrupt):
        run.result()
    assert run.future.result().ok
    assert machine.active() == machine.targets()
