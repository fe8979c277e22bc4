"""A plan is for the machine as it was: of another one it is refused, and nothing is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import snapkit
from tests.conformance.conftest import every_engine, of_guests
from tests.conformance.machines import Machine, Tap
from tests.conftest import MIB, create_image


@pytest.fixture
def tap(machine: Machine) -> Tap:
    return machine.tap()


@pytest.fixture
def vm(machine: Machine, tap: Tap) -> Iterator[snapkit.VirtualMachine]:
    with machine.connect(tap) as connected:
        yield connected


@pytest.fixture
def refused(machine: Machine, tap: Tap) -> Callable[[snapkit.Plan, str], None]:
    def refuse(plan: snapkit.Plan, words: str) -> None:
        before = machine.state()
        with pytest.raises(snapkit.PlanError, match=words):
            plan.run()
        assert machine.sent(tap) == []
        assert machine.state() == before
        assert list(snapkit.journal()["state"]) == ["not switched"]
        assert snapkit.recover().empty

    return refuse


Refused = Callable[[snapkit.Plan, str], None]


@every_engine
def test_a_machine_that_took_another_snapshot_refuses_the_plan(
    machine: Machine, vm: snapkit.VirtualMachine, refused: Refused, engine: str
) -> None:
    plan = vm.plan(machine.targets(2), engine=engine)
    second, theirs = machine.names[1], machine.file("theirs.snap")
    machine.take(second, theirs)
    refused(plan, f"has changed .* {second} was on {machine.first()[second]} and is on {theirs}")
    assert vm.plan(machine.targets(2), engine=engine).run().ok


def test_another_disk_s_change_refuses_the_plan_too(
    machine: Machine, vm: snapkit.VirtualMachine, refused: Refused
) -> None:
    plan = vm.plan(machine.targets(1))
    machine.take(machine.names[2], machine.file("theirs.snap"))
    refused(plan, f"has changed .* {machine.names[2]} was on")


@of_guests
def test_a_machine_whose_disk_was_resized_refuses_the_plan(
    machine: Machine, vm: snapkit.VirtualMachine, refused: Refused
) -> None:
    plan = vm.plan(machine.targets(2))
    machine.resize(machine.names[0], 8 * MIB)
    refused(plan, f"has changed .* {machine.names[0]} has another size")


def test_a_file_that_has_appeared_refuses_the_plan(
    machine: Machine, vm: snapkit.VirtualMachine, refused: Refused
) -> None:
    targets = machine.targets()
    plan = vm.plan(targets)
    second = machine.names[1]
    Path(targets[second]).write_text("precious")
    refused(plan, f"{second}: {targets[second]} already exists")


def test_a_directory_that_has_gone_refuses_the_plan(
    machine: Machine, vm: snapkit.VirtualMachine, refused: Refused
) -> None:
    place = machine.folder("place")
    plan = vm.plan(machine.targets(where=place))
    place.rmdir()
    refused(plan, f"the directory {place} does not exist")


def test_an_overlay_that_has_become_unfit_refuses_the_plan(
    machine: Machine, vm: snapkit.VirtualMachine, refused: Refused
) -> None:
    first = machine.names[0]
    overlay = machine.overlay("x", first)
    plan = vm.plan({first: overlay}, mode="existing")
    assert plan.ok, plan.problems
    create_image(overlay, "4M")
    refused(plan, f"{first}: the header of {overlay} names no backing file")


def test_a_job_that_has_begun_refuses_the_plan(
    machine: Machine, vm: snapkit.VirtualMachine, refused: Refused
) -> None:
    plan = vm.plan(machine.targets())
    machine.begin_job(machine.names[1])
    refused(plan, machine.names[1])


def test_a_machine_that_was_started_anew_is_another_one(
    machine: Machine, vm: snapkit.VirtualMachine
) -> None:
    plan = vm.plan(machine.targets())
    machine.restart()
    before = machine.state()
    with pytest.raises(snapkit.ConnectError):
        plan.run()
    assert not vm.connected
    assert machine.state() == before
    with machine.connect() as again:
        assert again.snapshot(machine.targets()).ok


def test_a_plan_runs_once_and_then_is_refused(machine: Machine, vm: snapkit.VirtualMachine) -> None:
    plan = vm.plan(machine.targets())
    assert plan.run().ok
    before = machine.state()
    with pytest.raises(snapkit.PlanError, match=r"has changed|already exists"):
        plan.run()
    assert machine.state() == before
