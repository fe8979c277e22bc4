"""Files that somebody else moves, replaces or removes while snapkit is at work."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import snapkit
from snapkit import undo
from snapkit.backends import claims, processes
from snapkit.backends.base import MadeFile
from snapkit.backends.qmp import QmpBackend
from tests.conftest import Process, StartQemu, create_image, digest, wait_until
from tests.outside import drives, graph, overlays, state

engines = pytest.mark.parametrize("engine", ["prepared", "classic"])


@pytest.fixture
def qemu(directory: Path, start_qemu: StartQemu) -> Process:
    process = start_qemu(*drives(directory, 3))
    # It listens before it has opened its images, and answers afterwards.
    process.ask("query-status")
    return process


@engines
def test_a_file_that_is_renamed_onto_a_claimed_name_is_left_as_it_is(
    qemu: Process, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    theirs = qemu.directory / "theirs"
    theirs.write_text("precious")
    targets = overlays(qemu.directory, 3)
    place, before = Path(targets["drive1"]), graph(qemu)
    take = claims.Claim.take

    def take_too_early(claim: claims.Claim) -> MadeFile:
        made = take(claim)
        if made.path == str(place):
            theirs.rename(place)
        return made

    monkeypatch.setattr(claims.Claim, "take", take_too_early)
    with snapkit.connect(qemu.uri) as vm, pytest.raises(snapkit.SnapshotError) as caught:
        vm.snapshot(targets, engine=engine)
    assert f"drive1: {place} is no longer the file that was made for this run" in str(caught.value)
    assert "and was left alone" in str(caught.value)
    assert place.read_text() == "precious"
    assert list(qemu.directory.glob("*.snap")) == [place]
    assert graph(qemu) == before


def test_an_overlay_that_is_replaced_before_the_switch_stops_it(qemu: Process) -> None:
    targets = overlays(qemu.directory, 3)
    place, before = Path(targets["drive2"]), graph(qemu)

    def replace(phase: str) -> None:
        if phase == "switch":
            place.unlink()
            place.write_text("precious")

    with (
        snapkit.connect(qemu.uri) as vm,
        pytest.raises(snapkit.SnapshotError, match=f"drive2: {place} is no longer the file"),
    ):
        vm.snapshot(targets, progress=replace)
    assert place.read_text() == "precious"
    assert graph(qemu) == before


@engines
def test_an_overlay_that_is_replaced_after_the_switch_is_told(qemu: Process, engine: str) -> None:
    targets = overlays(qemu.directory, 2)
    place = Path(targets["drive1"])

    def replace(phase: str) -> None:
        if phase == "verify":
            place.rename(qemu.directory / "moved")

    with snapkit.connect(qemu.uri) as vm, pytest.raises(snapkit.SnapshotError) as caught:
        vm.snapshot(targets, engine=engine, progress=replace)
    assert caught.value.outcome is not None
    assert caught.value.outcome.switched
    assert f"drive1: {place} is gone" in str(caught.value)


@engines
@pytest.mark.parametrize("what", ["replaced", "gone"])
def test_an_image_that_is_no_longer_what_qemu_has_open_is_refused(
    qemu: Process, what: str, engine: str
) -> None:
    image = qemu.directory / "disk1.qcow2"
    image.rename(qemu.directory / "moved.qcow2")
    if what == "replaced":
        create_image(image, "1M")
    before = state(qemu)
    with snapkit.connect(qemu.uri) as vm:
        plan = vm.plan(overlays(qemu.directory, 3), engine=engine)
        (problem,) = plan.problems
        assert (problem.device, problem.check, problem.severity) == ("drive1", "image", "error")
        assert str(image) in problem.message
        with pytest.raises(snapkit.PlanError, match=f"drive1: {image} is "):
            plan.run()
    assert state(qemu) == before


def test_a_lower_layer_that_was_replaced_is_refused_too(qemu: Process) -> None:
    with snapkit.connect(qemu.uri) as vm:
        vm.snapshot({"drive0": str(qemu.directory / "one.snap")})
        image = qemu.directory / "disk0.qcow2"
        image.rename(qemu.directory / "moved.qcow2")
        create_image(image, "1M")
        problems = vm.plan({"drive0": str(qemu.directory / "two.snap")}).problems
    (problem,) = (each for each in problems if each.severity == "error")
    assert problem.check == "image"
    assert str(image) in problem.message


def test_where_nobody_could_look_the_device_is_known_by_the_image_that_qemu_misses(
    seed_qemu: Process,
) -> None:
    seed_qemu.ask("query-status")
    image = seed_qemu.directory / "win2003.img"
    image.rename(seed_qemu.directory / "moved.img")
    with (
        snapkit.connect(seed_qemu.uri, local=False) as vm,
        pytest.raises(snapkit.SnapshotError, match=f"drive0: .*'{image}'"),
    ):
        vm.snapshot(overlays(seed_qemu.directory, 2), engine="classic")


def test_a_chain_that_changed_below_the_overlay_is_told(qemu: Process) -> None:
    with snapkit.connect(qemu.uri) as vm:
        vm.snapshot(overlays(qemu.directory, 2))
        top = str(qemu.directory / "top.snap")

        def flatten(phase: str) -> None:
            if phase == "verify":
                with qemu.qmp() as other:
                    other.execute("block-stream", device="drive1", job_id="j")
                    wait_until(lambda: not other.execute("query-block-jobs"), "it is flattened")

        with pytest.raises(snapkit.SnapshotError) as caught:
            vm.snapshot({"drive1": top}, progress=flatten)
    said = str(caught.value)
    assert f"drive1: the chain below {top} is another one now: nothing" in said


def test_an_image_that_goes_during_the_run_is_told_afterwards(qemu: Process) -> None:
    image = qemu.directory / "disk0.qcow2"

    def move(phase: str) -> None:
        if phase == "verify":
            image.rename(qemu.directory / "moved.qcow2")

    with snapkit.connect(qemu.uri) as vm, pytest.raises(snapkit.SnapshotError) as caught:
        vm.snapshot(overlays(qemu.directory, 1), progress=move)
    assert f"drive0: {image} is gone" in str(caught.value)


def test_an_existing_overlay_that_is_swapped_for_one_over_another_disk_is_refused(
    qemu: Process,
) -> None:
    overlay, other = qemu.directory / "x.snap", qemu.directory / "disk2.qcow2"
    own = str(qemu.directory / "disk1.qcow2")
    create_image(overlay, backing=own, backing_format="qcow2")
    before = graph(qemu)

    def swap(phase: str) -> None:
        if phase == "prepare":
            overlay.unlink()
            create_image(overlay, backing=str(other), backing_format="qcow2")

    with (
        snapkit.connect(qemu.uri) as vm,
        pytest.raises(snapkit.SnapshotError, match=f"drive1: .* names {other}"),
    ):
        vm.snapshot({"drive1": str(overlay)}, mode="existing", progress=swap)
    assert graph(qemu) == before


def test_an_existing_overlay_may_name_the_disk_through_a_link(qemu: Process) -> None:
    link, overlay = qemu.directory / "link.qcow2", qemu.directory / "x.snap"
    link.symlink_to(qemu.directory / "disk1.qcow2")
    create_image(overlay, backing=str(link), backing_format="qcow2")
    with snapkit.connect(qemu.uri) as vm:
        assert vm.snapshot({"drive1": str(overlay)}, mode="existing").ok


@engines
@pytest.mark.parametrize(("image", "overlay"), [(0o600, 0o600), (0o666, 0o644), (0o640, 0o640)])
def test_an_overlay_is_no_more_open_than_its_image(
    qemu: Process, image: int, overlay: int, engine: str
) -> None:
    (qemu.directory / "disk0.qcow2").chmod(image)
    targets = overlays(qemu.directory, 1)
    with snapkit.connect(qemu.uri) as vm:
        vm.snapshot(targets, engine=engine)
    umask = os.umask(0)
    os.umask(umask)
    assert Path(targets["drive0"]).stat().st_mode & 0o777 == overlay & ~umask


class Stuck:
    """A progress function that stops QEMU when the files are prepared."""

    def __init__(self, qemu: Process) -> None:
        self.qemu = qemu

    def __call__(self, phase: str) -> None:
        if phase == "prepare":
            os.kill(self.qemu.pid, signal.SIGSTOP)
        elif phase == "undo":
            threading.Timer(1, self.go_on).start()

    def go_on(self) -> None:
        os.kill(self.qemu.pid, signal.SIGCONT)


def test_what_a_stuck_qemu_was_sent_is_undone_when_it_goes_on(
    qemu: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QmpBackend, "read_seconds", 0.5)
    before = state(qemu)
    with snapkit.connect(qemu.uri) as vm, pytest.raises(snapkit.SnapshotError) as caught:
        vm.snapshot(overlays(qemu.directory, 3), progress=Stuck(qemu))
    assert "Everything was undone" in str(caught.value)
    assert state(qemu) == before


def test_what_a_qemu_that_stays_stuck_may_have_left_is_named(
    qemu: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QmpBackend, "read_seconds", 0.5)
    monkeypatch.setattr(undo, "STUCK_SECONDS", 0.5)
    stuck: Callable[[str], None] = Stuck(qemu)
    targets = overlays(qemu.directory, 1)
    with snapkit.connect(qemu.uri) as vm, pytest.raises(snapkit.SnapshotError) as caught:
        vm.snapshot(targets, progress=lambda phase: stuck(phase) if phase == "prepare" else None)
    said = str(caught.value)
    assert "Everything was undone" not in said
    assert f"may have left the file {targets['drive0']}, " in said
    assert "the job create-drive0-snap1-file" in said
    assert "?." not in said
    assert ".." not in said
    os.kill(qemu.pid, signal.SIGCONT)
    wait_until(lambda: graph(qemu), "QEMU answers again")


def test_a_qemu_that_has_ended_is_not_waited_for(
    qemu: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(undo, "RECONNECT_SECONDS", 3600.0)
    targets = overlays(qemu.directory, 2)
    images = {image: digest(image) for image in qemu.directory.glob("*.qcow2")}

    def end(phase: str) -> None:
        if phase == "prepare":
            qemu.stop()

    with snapkit.connect(qemu.uri) as vm, pytest.raises(snapkit.SnapshotError) as caught:
        vm.snapshot(targets, progress=end)
    assert "another directory" not in str(caught.value)
    assert list(qemu.directory.glob("*.snap")) == []
    assert {image: digest(image) for image in images} == images


def test_a_process_that_is_gone_or_only_waits_to_be_forgotten_has_ended() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        assert not processes.has_ended(child.pid)
        child.kill()
        wait_until(lambda: processes.has_ended(child.pid), "it waits to be forgotten")
        child.wait()
        assert processes.has_ended(child.pid)
