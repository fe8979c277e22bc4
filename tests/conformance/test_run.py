"""A run from beginning to end: its phases, its outcome, and what it does to the disks."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import threading
from pathlib import Path

import pytest

import snapkit
from tests.conformance.conftest import every_engine
from tests.conformance.machines import Machine
from tests.conftest import MIB, chain_of, digest, qemu_img
from tests.journals import python

WELL = ["journal", "observe", "check", "prepare", "flush", "switch", "verify"]


@every_engine
def test_a_run_tells_its_phases_and_what_became_of_every_device(
    machine: Machine, vm: snapkit.VirtualMachine, engine: str
) -> None:
    told: list[str] = []
    targets = machine.targets(2)
    outcome = vm.plan(targets, engine=engine).run(told.append)
    assert told == WELL
    assert [name for name, _ in outcome.phases] == WELL
    assert (outcome.ok, outcome.switched, outcome.findings) == (True, True, ())
    assert 0 < (outcome.switch_seconds or 0) <= outcome.seconds
    assert str(outcome) == "2 disks switched at one instant"
    frame = outcome.to_frame()
    assert frame.index.name == "device"
    assert list(frame.columns) == "file_before file_after depth_before depth_after ok".split()
    second = machine.names[1]
    assert frame.loc[second].to_dict() == {
        "file_before": machine.images[second].file,
        "file_after": targets[second],
        "depth_before": 0,
        "depth_after": 1,
        "ok": True,
    }
    assert machine.active() == {**machine.first(), **targets}
    assert "<table" in outcome._repr_html_()


@every_engine
def test_snapshot_plans_and_runs(machine: Machine, vm: snapkit.VirtualMachine, engine: str) -> None:
    told: list[str] = []
    targets = {name: Path(file) for name, file in machine.targets(1).items()}
    outcome = vm.snapshot(targets, format="qed", engine=engine, progress=told.append)
    assert outcome.ok
    assert told == WELL
    assert str(outcome) == "1 disk switched at one instant"
    with pytest.raises(snapkit.PlanError, match="already exists"):
        vm.snapshot({machine.names[1]: machine.targets()[machine.names[0]]}, engine=engine)


@pytest.mark.parametrize("mode", ["absolute-paths", "existing"])
def test_what_was_previewed_is_what_is_sent(machine: Machine, mode: str) -> None:
    tap, targets = machine.tap(), machine.targets()
    if mode == "existing":
        targets = {name: machine.overlay(f"over-{name}", name) for name in machine.names}
    with machine.connect(tap) as vm:
        plan = vm.plan(targets, mode=mode)
        written = machine.written(plan)
        assert machine.sent(tap) == []
        assert plan.run().ok
    assert machine.sent(tap) == written
    assert machine.active() == targets


def test_what_every_form_shows_does_the_same_by_hand(machine: Machine) -> None:
    with machine.connect() as vm:
        forms = vm.plan(machine.targets()).forms
    for depth, form in enumerate(forms, 1):
        targets = machine.targets(where=machine.folder(f"for-{form}"))
        with machine.connect() as vm:
            text = vm.plan(targets).preview(form)
        machine.by_hand(form, text)
        assert machine.active() == targets
        for name, chain in machine.chains().items():
            assert len(chain) == len(machine.images[name].chain) + depth
    assert machine.ask("query-jobs") == []


@pytest.mark.parametrize("format_", ["qcow2", "qed"])
def test_overlays_of_both_formats_stand_on_their_bases_and_hold_the_same(
    machine: Machine, format_: str
) -> None:
    bases = {name: digest(image.file) for name, image in machine.images.items()}
    copies = {
        name: shutil.copyfile(image.file, machine.file(f"copy-{name}"))
        for name, image in machine.images.items()
    }
    targets = machine.targets()
    with machine.connect() as vm:
        outcome = vm.snapshot(targets, format=format_)
        assert outcome.ok, outcome.findings
        assert set(vm.devices()["format"]) == {format_}
    machine.end()
    for name, image in machine.images.items():
        chain = chain_of(targets[name])
        assert [layer["filename"] for layer in chain] == [targets[name], *image.chain]
        assert [layer["format"] for layer in chain[:2]] == [format_, image.format]
        assert chain[0]["backing-filename"] == image.file
        assert digest(image.file) == bases[name]
        same = qemu_img("compare", "-f", format_, "-F", image.format, targets[name], copies[name])
        assert "identical" in same


def test_of_eight_disks_only_the_one_that_was_asked_for_is_touched(blank: Machine) -> None:
    blank.boot_small(8)
    before = blank.state()
    chosen = blank.names[3]
    targets = {chosen: blank.file("only.snap")}
    with blank.connect() as vm:
        outcome = vm.snapshot(targets)
        depths = vm.devices()["depth"].to_dict()
    assert outcome.ok, outcome.findings
    assert depths == {**dict.fromkeys(blank.names, 0), chosen: 1}
    after = blank.state()
    assert after["chains"] == {
        **before["chains"],
        chosen: [targets[chosen], *before["chains"][chosen]],
    }
    assert {name: after["files"][name] for name in before["files"]} == before["files"]
    assert after["files"].keys() - before["files"].keys() == set(targets.values())
    assert after["names"].keys() - before["names"].keys() == set(targets.values())
    assert after["jobs"] == []


def test_one_run_after_another_makes_a_chain(machine: Machine, vm: snapkit.VirtualMachine) -> None:
    for number in range(1, 4):
        outcome = vm.snapshot(machine.names)
        assert outcome.ok, outcome.findings
        frame = outcome.to_frame()
        assert (frame["depth_after"] == frame["depth_before"] + 1).all()
        assert frame.loc[machine.names[0], "depth_after"] == number
    files = machine.chains()[machine.names[0]]
    stem = machine.file("system")
    assert files == [*(f"{stem}.snap{n}.qcow2" for n in (3, 2, 1)), f"{stem}.img"]
    assert vm.runs == 3
    assert list(snapkit.journal()["state"]) == ["switched"] * 3


def test_overlays_that_were_made_beforehand_are_used_as_they_are(
    machine: Machine, vm: snapkit.VirtualMachine
) -> None:
    targets = {name: machine.overlay(f"over-{name}", name) for name in machine.names}
    before = {file: os.stat(file).st_ino for file in targets.values()}
    outcome = vm.snapshot(targets, mode="existing")
    assert outcome.ok, outcome.findings
    assert machine.active() == targets
    assert {file: os.stat(file).st_ino for file in targets.values()} == before


def test_an_overlay_has_the_size_of_its_disk_and_belongs_to_who_writes_to_it(
    blank: Machine,
) -> None:
    blank.lower()
    blank.boot(blank.image("odd", "raw", 3 * MIB + 512), blank.image("even", size=2 * MIB))
    targets = blank.targets()
    with blank.connect() as vm:
        assert vm.snapshot(targets).ok
    user = os.stat(f"/proc/{blank.pid}").st_uid
    for name, image in blank.images.items():
        assert chain_of(targets[name])[0]["virtual-size"] == image.size
        status = os.stat(targets[name])
        assert status.st_uid == user
        assert status.st_mode & 0o022 == 0


@every_engine
def test_a_progress_function_that_fails_stops_nothing_and_is_reported(
    machine: Machine, vm: snapkit.VirtualMachine, caplog: pytest.LogCaptureFixture, engine: str
) -> None:
    errors = itertools.cycle([ValueError, KeyboardInterrupt, SystemExit])

    def progress(phase: str) -> None:
        raise next(errors)(phase)

    with caplog.at_level(logging.ERROR):
        assert vm.plan(machine.targets(), engine=engine).run(progress).ok
    assert machine.active() == machine.targets()
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == WELL


def test_a_progress_function_that_asks_the_vm_is_told_that_it_cannot(
    machine: Machine, vm: snapkit.VirtualMachine, caplog: pytest.LogCaptureFixture
) -> None:
    def progress(phase: str) -> None:
        vm.devices()

    assert vm.plan(machine.targets()).run(progress).ok
    assert "would wait for itself" in caplog.text


def test_a_run_that_was_started_goes_on_beside_its_caller(
    machine: Machine, vm: snapkit.VirtualMachine
) -> None:
    done = threading.Event()
    run = vm.plan(machine.targets()).start()
    run.future.add_done_callback(lambda _: done.set())
    assert not run.future.cancel()
    assert done.wait(20)
    assert run.result().ok
    assert machine.active() == machine.targets()


@every_engine
def test_of_two_runs_at_once_one_is_done_and_the_other_leaves_nothing(
    machine: Machine, vm: snapkit.VirtualMachine, engine: str
) -> None:
    places = [machine.folder("ours"), machine.folder("theirs")]
    plans = [vm.plan(machine.targets(where=place), engine=engine) for place in places]
    errors = [run.future.exception() for run in [plan.start() for plan in plans]]
    (lost,) = [error for error in errors if error]
    assert isinstance(lost, snapkit.SnapshotError | snapkit.PlanError)
    done = errors.index(None)
    assert machine.active() == machine.targets(where=places[done])
    assert os.listdir(places[1 - done]) == []
    assert machine.ask("query-jobs") == []


@every_engine
def test_what_happened_to_another_device_meanwhile_is_told(
    machine: Machine, vm: snapkit.VirtualMachine, engine: str
) -> None:
    last, theirs = machine.names[2], machine.file("theirs.snap")

    def progress(phase: str) -> None:
        if phase == "verify":
            machine.take(last, theirs)

    targets = machine.targets(2)
    with pytest.raises(snapkit.SnapshotError, match="nothing was undone") as caught:
        vm.plan(targets, engine=engine).run(progress)
    assert f"{last} was on {machine.first()[last]} and is on {theirs}" in str(caught.value)
    outcome = caught.value.outcome
    assert outcome is not None
    assert (outcome.switched, outcome.ok) == (True, False)
    assert machine.active() == {**targets, last: theirs}


def test_the_tables_can_be_read_while_a_run_goes_on(
    machine: Machine, vm: snapkit.VirtualMachine
) -> None:
    failed: list[BaseException] = []
    stop = threading.Event()

    def look() -> None:
        try:
            while not stop.is_set():
                # What the run has only prepared is on no device yet.
                files = vm.devices()["file"].reindex(machine.names).to_dict()
                assert files in (machine.first(), machine.targets())
        except BaseException as err:  # noqa: BLE001  the test's own thread tells it
            failed.append(err)

    watchers = [threading.Thread(target=look) for _ in range(2)]
    plan = vm.plan(machine.targets())
    for watcher in watchers:
        watcher.start()
    outcome = plan.run()
    stop.set()
    for watcher in watchers:
        watcher.join()
    assert outcome.ok, outcome.findings
    assert failed == []


START_AND_END = """
import sys, snapkit
uri, domain, first, second, *files = sys.argv[1:]
vm = snapkit.connect(uri, domain or None)
vm.plan(dict(zip((first, second), files))).start()
"""


def test_a_process_that_ends_finishes_the_run_that_it_has_started(machine: Machine) -> None:
    targets = machine.targets(2)
    process = python(START_AND_END, machine.uri, machine.domain or "", *targets, *targets.values())
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "")
    assert machine.active() == {**machine.first(), **targets}
    assert machine.ask("query-jobs") == []
