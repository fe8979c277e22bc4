"""A run from beginning to end: its phases, its outcome, and how it is stopped."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import snapkit
from snapkit.engine import PHASES, Phase, Run
from tests.conftest import Process, StartQemu, create_image, qemu_img, wait_until
from tests.outside import drives, graph, overlays, state
from tests.recorder import Recorder

engines = pytest.mark.parametrize("engine", ["prepared", "classic"])
WELL = ["journal", "observe", "check", "prepare", "flush", "switch", "verify"]


@pytest.fixture
def qemu(directory: Path, start_qemu: StartQemu) -> Process:
    return start_qemu(*drives(directory, 3))


@pytest.fixture
def vm(qemu: Process) -> Iterator[snapkit.VirtualMachine]:
    with snapkit.connect(qemu.uri) as connected:
        yield connected


def files(qemu: Process) -> dict[str, str]:
    devices: dict[str, tuple[str, str]] = graph(qemu)["devices"]
    return {name: file for name, (file, _) in devices.items()}


@engines
def test_a_run_tells_its_phases_and_what_became_of_every_device(
    qemu: Process, vm: snapkit.VirtualMachine, engine: str
) -> None:
    told: list[str] = []
    targets = overlays(qemu.directory, 2)
    outcome = vm.plan(targets, engine=engine).run(told.append)
    assert told == WELL
    assert [name for name, _ in outcome.phases] == WELL
    assert outcome.ok
    assert outcome.switched
    assert outcome.findings == ()
    assert 0 < (outcome.switch_seconds or 0) <= outcome.seconds
    frame = outcome.to_frame()
    assert frame.index.name == "device"
    assert list(frame.columns) == "file_before file_after depth_before depth_after ok".split()
    assert frame.loc["drive1"].to_dict() == {
        "file_before": f"{qemu.directory}/disk1.qcow2",
        "file_after": targets["drive1"],
        "depth_before": 0,
        "depth_after": 1,
        "ok": True,
    }
    assert files(qemu) == {**targets, "drive2": f"{qemu.directory}/disk2.qcow2"}


def test_a_phase_says_in_words_what_is_done() -> None:
    assert all(Phase(name).text == PHASES[name] for name in (*WELL, "undo"))


@engines
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_progress_function_that_fails_stops_nothing_and_is_reported(
    qemu: Process,
    vm: snapkit.VirtualMachine,
    caplog: pytest.LogCaptureFixture,
    engine: str,
    error: type[BaseException],
) -> None:
    def progress(phase: str) -> None:
        raise error(phase)

    targets = overlays(qemu.directory, 3)
    with caplog.at_level(logging.ERROR):
        outcome = vm.plan(targets, engine=engine).run(progress)
    assert outcome.ok
    assert files(qemu) == targets
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == WELL


def test_a_progress_function_that_asks_the_vm_is_told_that_it_cannot(
    qemu: Process, vm: snapkit.VirtualMachine, caplog: pytest.LogCaptureFixture
) -> None:
    def progress(phase: str) -> None:
        vm.devices()

    outcome = vm.plan(overlays(qemu.directory, 1)).run(progress)
    assert outcome.ok
    assert "would wait for itself" in caplog.text


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


@engines
@pytest.mark.parametrize("phase", ["prepare", "switch"])
def test_a_run_that_is_cancelled_before_the_switch_is_undone(
    qemu: Process, vm: snapkit.VirtualMachine, engine: str, phase: str
) -> None:
    before = state(qemu)
    run = Stop(phase, Run.cancel).start(vm.plan(overlays(qemu.directory, 3), engine=engine))
    with pytest.raises(snapkit.SnapshotError) as caught:
        run.result()
    assert str(caught.value) == (
        "The run was cancelled before the switch. Everything was undone: "
        "no device was switched, and no file of this run is left."
    )
    assert state(qemu) == before


def test_a_run_that_is_cancelled_before_it_began_sends_nothing(
    qemu: Process, vm: snapkit.VirtualMachine
) -> None:
    before = state(qemu)
    run = Stop("observe", Run.cancel).start(vm.plan(overlays(qemu.directory, 3)))
    with pytest.raises(snapkit.PlanError, match=r"cancelled before it began. Nothing was sent."):
        run.result()
    assert state(qemu) == before


def test_a_run_that_is_cancelled_after_the_switch_is_finished(
    qemu: Process, vm: snapkit.VirtualMachine
) -> None:
    targets = overlays(qemu.directory, 3)
    assert Stop("verify", Run.cancel).start(vm.plan(targets)).result().ok
    assert files(qemu) == targets


def test_the_future_of_a_run_cannot_be_cancelled_under_it(
    qemu: Process, vm: snapkit.VirtualMachine
) -> None:
    targets = overlays(qemu.directory, 3)
    run = vm.plan(targets).start()
    assert not run.future.cancel()
    assert run.result().ok
    assert files(qemu) == targets


def interrupt(_: Run) -> None:
    os.kill(os.getpid(), signal.SIGINT)


@engines
def test_interrupted_before_the_switch_a_run_is_undone_first(
    qemu: Process, vm: snapkit.VirtualMachine, engine: str
) -> None:
    before = state(qemu)
    run = Stop("prepare", interrupt).start(vm.plan(overlays(qemu.directory, 3), engine=engine))
    with pytest.raises(KeyboardInterrupt):
        run.result()
    assert isinstance(run.future.exception(), snapkit.SnapshotError)
    assert state(qemu) == before


def test_interrupted_after_the_switch_a_run_is_finished_first(
    qemu: Process, vm: snapkit.VirtualMachine
) -> None:
    targets = overlays(qemu.directory, 3)
    run = Stop("verify", interrupt).start(vm.plan(targets))
    with pytest.raises(KeyboardInterrupt):
        run.result()
    assert run.future.result().ok
    assert files(qemu) == targets


@engines
def test_of_two_runs_for_the_same_devices_one_is_done_and_the_other_leaves_nothing(
    qemu: Process, vm: snapkit.VirtualMachine, engine: str
) -> None:
    ours, theirs = qemu.directory / "ours", qemu.directory / "theirs"
    ours.mkdir()
    theirs.mkdir()
    plans = [vm.plan(overlays(place, 3), engine=engine) for place in (ours, theirs)]
    errors = [run.future.exception() for run in [plan.start() for plan in plans]]
    (lost,) = [error for error in errors if error]
    assert isinstance(lost, snapkit.SnapshotError | snapkit.PlanError)
    place = (ours, theirs)[errors.index(None)]
    assert files(qemu) == overlays(place, 3)
    assert len(list(qemu.directory.rglob("*.snap"))) == 3
    assert graph(qemu)["jobs"] == []


@engines
def test_what_happened_to_another_device_meanwhile_is_told(
    qemu: Process, vm: snapkit.VirtualMachine, engine: str
) -> None:
    theirs = str(qemu.directory / "theirs.snap")

    def progress(phase: str) -> None:
        if phase == "verify":
            qemu.ask("blockdev-snapshot-sync", device="drive2", snapshot_file=theirs)

    targets = overlays(qemu.directory, 2)
    with pytest.raises(snapkit.SnapshotError, match="nothing was undone") as caught:
        vm.plan(targets, engine=engine).run(progress)
    assert f"drive2 was on {qemu.directory}/disk2.qcow2 and is on {theirs}" in str(caught.value)
    outcome = caught.value.outcome
    assert outcome is not None
    assert outcome.switched
    assert not outcome.ok
    assert files(qemu) == {**targets, "drive2": theirs}


def test_a_header_that_went_wrong_meanwhile_is_told(
    qemu: Process, vm: snapkit.VirtualMachine
) -> None:
    base, other = str(qemu.directory / "disk0.qcow2"), str(qemu.directory / "disk1.qcow2")
    overlay = create_image(qemu.directory / "x", backing=base, backing_format="qcow2")

    def progress(phase: str) -> None:
        if phase == "switch":
            qemu_img("rebase", "-q", "-u", "-b", other, "-F", "qcow2", overlay)

    with pytest.raises(snapkit.SnapshotError, match=f"names {other}") as caught:
        vm.plan({"drive0": overlay}, mode="existing", engine="classic").run(progress)
    assert caught.value.outcome is not None
    assert caught.value.outcome.switched


@engines
def test_without_qemu_img_the_live_header_is_compared_and_that_is_said(
    directory: Path, start_qemu: StartQemu, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    """A header that only qemu-img can read is one further down, of an unusual format."""
    targets = {"odd": f"{directory}/odd.snap"}
    odd = create_image(directory / "odd.vdi", "1M", format="vdi")
    qemu = start_qemu(*("-drive", f"if=none,id=odd,file={odd},format=vdi"))
    monkeypatch.setenv("PATH", str(directory))
    with snapkit.connect(qemu.uri) as vm:
        outcome = vm.plan(targets, engine=engine).run()
    assert outcome.ok
    (note,) = outcome.findings
    assert note == f"{targets['odd']} was not opened offline: qemu-img is not installed"


@engines
def test_without_qemu_img_qemu_is_asked_about_an_existing_overlay(
    qemu: Process, vm: snapkit.VirtualMachine, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    good = overlays(qemu.directory, 1)
    create_image(good["drive0"], backing=f"{qemu.directory}/disk0.qcow2", backing_format="qcow2")
    bad = create_image(qemu.directory / "bad", "2M")
    monkeypatch.setenv("PATH", str(qemu.directory))
    before = graph(qemu)
    plan = vm.plan({"drive0": bad}, mode="existing", engine=engine)
    assert [(p.check, p.severity) for p in plan.problems] == [
        ("overlay", "warning"),
        ("left out", "warning"),
        ("left out", "warning"),
    ]
    with pytest.raises(snapkit.PlanError, match="larger than the disk") as caught:
        plan.run()
    assert "names no backing file" in str(caught.value)
    assert graph(qemu) == before
    assert vm.plan(good, mode="existing", engine=engine).run().ok
    assert files(qemu)["drive0"] == good["drive0"]


def test_a_run_that_was_started_goes_on_beside_its_caller(
    qemu: Process, vm: snapkit.VirtualMachine
) -> None:
    targets = overlays(qemu.directory, 3)
    done = threading.Event()
    run = vm.plan(targets).start()
    run.future.add_done_callback(lambda _: done.set())
    assert done.wait(20)
    assert run.result().ok
    assert files(qemu) == targets


START_AND_END = """
import sys, snapkit
vm = snapkit.connect(sys.argv[1])
vm.plan({"drive0": sys.argv[2], "drive1": sys.argv[3]}).start()
"""


def test_a_process_that_ends_finishes_the_run_that_it_has_started(qemu: Process) -> None:
    targets = overlays(qemu.directory, 2)
    command = [sys.executable, "-c", START_AND_END, qemu.uri, *targets.values()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert files(qemu) == {**targets, "drive2": f"{qemu.directory}/disk2.qcow2"}
    assert graph(qemu)["jobs"] == []


def test_nobody_reads_the_graph_while_qemu_creates_an_image(
    directory: Path, start_qemu: StartQemu, recorder: Callable[..., Recorder]
) -> None:
    """QEMU crashes when it has to describe the half-open image of a creation job."""
    qemu = start_qemu(*drives(directory, 8))
    wire = recorder(qemu.uri)
    stop = threading.Event()
    with snapkit.connect(wire.uri, local=True) as vm:
        plan = vm.plan(overlays(directory, 8))

        def look() -> None:
            while not stop.is_set():
                vm.devices()

        watchers = [threading.Thread(target=look) for _ in range(3)]
        for watcher in watchers:
            watcher.start()
        outcome = plan.run()
        stop.set()
        for watcher in watchers:
            watcher.join()
    assert outcome.ok
    sent = " ".join(wire.names)
    groups = [match.group().split() for match in re.finditer(r"(blockdev-create )+\S+", sent)]
    assert groups == [["blockdev-create"] * 8 + ["query-jobs"]] * 2
    assert wire.names.count("query-named-block-nodes") > 5


def test_another_client_s_creation_job_is_waited_for(
    directory: Path, start_qemu: StartQemu
) -> None:
    image = create_image(directory / "slow.img", "1M", format="raw")
    qemu = start_qemu(
        *("-object", "throttle-group,id=tg,x-iops-total=20"),
        *("-blockdev", f"driver=file,node-name=slow-file,filename={image}"),
        *("-blockdev", "driver=throttle,throttle-group=tg,node-name=slow,file=slow-file"),
        *drives(directory, 1),
    )
    with snapkit.connect(qemu.uri) as vm:
        options = {"driver": "qcow2", "file": "slow", "size": 1024 * 1024}
        qemu.ask("blockdev-create", job_id="theirs", options=options)
        assert "drive0" in vm.devices().index
        (job,) = qemu.ask("query-jobs")
        assert job["status"] == "concluded"
        assert "error" not in job
