"""What checks cannot see and the machine refuses: undone, and the device named."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import snapkit
from tests.conformance.conftest import every_engine
from tests.conformance.machines import Held, Machine
from tests.conformance.runs import UNDONE, at
from tests.conftest import create_image, digest


def fails(
    machine: Machine,
    targets: dict[str, str],
    device: str,
    progress: Callable[[str], None],
    **options: str,
) -> str:
    """Run into a failure that is undone; the error names the device."""
    chains = machine.chains()
    with machine.connect() as vm:
        plan = vm.plan(targets, **options)
        assert plan.ok, plan.problems
        with pytest.raises(snapkit.SnapshotError) as caught:
            plan.run(progress)
    assert machine.chains() == chains
    said = str(caught.value)
    assert said.startswith(f"The snapshot failed. {device}: ")
    assert said.endswith(UNDONE)
    assert ".." not in said
    outcome = caught.value.outcome
    assert outcome is not None
    assert (outcome.switched, outcome.ok, outcome.findings) == (False, False, ())
    assert [phase for phase, _ in outcome.phases][-1] == "undo"
    row = snapkit.journal().iloc[-1]
    assert (row["state"], row["message"]) == ("not switched", said)
    assert snapkit.recover().empty
    return said


@every_engine
def test_a_file_that_appears_after_the_check_is_left_as_it_is(
    machine: Machine, engine: str
) -> None:
    before, targets = machine.state(), machine.targets()
    second = machine.names[1]
    theirs = Path(targets[second])
    appears = at("prepare", lambda: theirs.write_text("precious"))
    assert "already exists" in fails(machine, targets, second, appears, engine=engine)
    assert theirs.read_text() == "precious"
    theirs.unlink()
    assert machine.state() == before


@every_engine
def test_a_link_that_appears_after_the_check_is_not_followed(machine: Machine, engine: str) -> None:
    image = create_image(machine.directory / "switched-off.qcow2", "1M")
    before, targets = digest(image), machine.targets()
    second = machine.names[1]
    appears = at("prepare", lambda: os.symlink(image, targets[second]))
    fails(machine, targets, second, appears, engine=engine)
    assert digest(image) == before
    assert os.path.islink(targets[second])


@every_engine
def test_a_directory_that_goes_after_the_check_is_named(machine: Machine, engine: str) -> None:
    last, place = machine.names[2], machine.folder("place")
    before = machine.state()
    targets = {**machine.targets(2), last: str(place / "x.snap")}
    said = fails(machine, targets, last, at("prepare", place.rmdir), engine=engine)
    assert "No such file or directory" in said
    machine.folder("place")
    assert machine.state() == before


@every_engine
def test_a_claimed_file_that_was_replaced_is_left_and_named(machine: Machine, engine: str) -> None:
    targets = machine.targets()
    second = machine.names[1]
    chains = machine.chains()

    def replace() -> None:
        os.unlink(targets[second])
        os.mkdir(targets[second])

    with (
        machine.connect() as vm,
        pytest.raises(
            snapkit.SnapshotError, match=rf"{second}: .*is no longer the file.*was left alone"
        ),
    ):
        vm.plan(targets, engine=engine).run(at("switch", replace))
    assert machine.chains() == chains
    assert [os.path.exists(file) for file in targets.values()] == [False, True, False]
    assert os.path.isdir(targets[second])


@every_engine
def test_an_existing_overlay_that_somebody_locks_after_the_check_is_left_as_it_is(
    machine: Machine, engine: str
) -> None:
    targets = {name: machine.overlay(f"over-{name}", name) for name in machine.names}
    before = machine.state()
    second = machine.names[1]
    with Held(machine.directory, targets[second]) as held, machine.connect() as vm:
        plan = vm.plan(targets, mode="existing", engine=engine)
        with pytest.raises(
            snapkit.SnapshotError, match=rf"failed\. .*{second}.*: .*lock"
        ) as caught:
            plan.run(at("prepare", held.take))
    assert re.search("no device was switched|switched no device", str(caught.value))
    after = machine.state()
    assert {**after, "nodes": []} == {**before, "nodes": []}
    left = [file for name, file, _ in after["nodes"] if name not in {n[0] for n in before["nodes"]}]
    assert (left != []) == ("open in QEMU" in str(caught.value))
    assert all(file in str(caught.value) for file in left)
    assert list(snapkit.recover()["state"]) in ([], ["not switched"])


@every_engine
def test_a_job_that_begins_after_the_check_stops_the_switch(machine: Machine, engine: str) -> None:
    before = machine.state()
    second = machine.names[1]
    begin = at("switch", lambda: machine.begin_job(second))
    with machine.connect() as vm, pytest.raises(snapkit.SnapshotError) as caught:
        vm.plan(machine.targets(), engine=engine).run(begin)
    assert f"The snapshot failed. {second}: " in str(caught.value)
    assert re.search("no device was switched|switched no device", str(caught.value))
    machine.end_job(second)
    assert caught.value.outcome is not None
    assert not caught.value.outcome.switched
    assert machine.state() == before


@every_engine
def test_somebody_else_s_snapshot_within_a_run_is_not_stacked_upon(
    machine: Machine, engine: str
) -> None:
    second, theirs = machine.names[1], machine.file("theirs")
    chains = machine.chains()
    take = at("prepare", lambda: machine.take(second, theirs))
    with (
        machine.connect() as vm,
        pytest.raises(snapkit.SnapshotError, match=rf"failed\. {second}: .*{second} was on"),
    ):
        vm.plan(machine.targets(), engine=engine).run(take)
    assert machine.chains() == {**chains, second: [theirs, *chains[second]]}
    assert not [file for file in machine.targets().values() if os.path.exists(file)]


def test_after_a_failure_the_same_plan_runs(machine: Machine, vm: snapkit.VirtualMachine) -> None:
    targets = machine.targets()
    plan = vm.plan(targets)
    theirs = Path(targets[machine.names[1]])
    with pytest.raises(snapkit.SnapshotError):
        plan.run(at("prepare", theirs.touch))
    theirs.unlink()
    assert plan.run().ok
    assert machine.active() == targets
