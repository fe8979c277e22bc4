"""Three devices, one bad target: refused before anything is sent that changes anything."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import snapkit
from snapkit.printable import printable
from tests.conftest import Process, create_image, forget_backing_format, qemu_img
from tests.outside import drives, graph, overlays, state
from tests.recorder import Recorder
from tests.wire import changes

NOBODY = 65534
Target = str | dict[str, str]


@dataclass
class House:
    """One QEMU with three disks for all tests here: none of them may change anything."""

    qemu: Process
    wire: Recorder
    directory: Path

    def connect(self) -> snapkit.VirtualMachine:
        return snapkit.connect(self.wire.uri, local=True)


def start(directory: Path, *arguments: str, prefix: list[str] | None = None) -> Process:
    command = [
        *(prefix or []),
        *("qemu-system-x86_64", "-machine", "pc", "-accel", "tcg", "-m", "16"),
        *("-display", "none", "-nodefaults", "-no-user-config", "-S"),
        *("-qmp", f"unix:{directory}/qmp.sock,server=on,wait=off"),
        *("-qmp", f"unix:{directory}/outside.sock,server=on,wait=off"),
        *arguments,
    ]
    return Process(command, directory, f"unix:{directory}/qmp.sock")


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    directory = Path(tempfile.mkdtemp(prefix="snapkit-test-"))
    base = create_image(directory / "base.qcow2", "1M")
    top = create_image(directory / "top.qcow2", backing=base, backing_format="qcow2")
    qemu = start(
        directory,
        *drives(directory, 2),
        *("-drive", f"if=none,id=drive2,file={top},format=qcow2"),
        *("-device", "virtio-blk-pci,drive=drive2"),
        *("-drive", "if=none,id=empty"),
        *("-device", "ide-cd,drive=empty"),
        *("-blockdev", f"driver=file,node-name=bare,filename={create_image(directory / 'bare')}"),
        *("-device", "virtio-blk-pci,drive=bare,id=raw0"),
    )
    wire = Recorder(qemu.uri, directory)
    yield House(qemu, wire, directory)
    wire.close()
    qemu.stop()
    shutil.rmtree(directory)


@pytest.fixture
def room(house: House) -> Iterator[Path]:
    """A directory of a test's own, and nothing but that may be different afterwards."""
    path = house.directory / "room"
    path.mkdir()
    yield path
    shutil.rmtree(path)


def refused(
    house: House, targets: dict[str, Target], device: str, check: str, **options: str
) -> snapkit.Plan:
    """Plan and run: the problem names the device, and nothing was sent or made."""
    before, sent = state(house.qemu), len(changes(house.wire))
    with house.connect() as vm:
        plan = vm.plan(targets, **options)
        with pytest.raises(snapkit.PlanError) as caught:
            plan.run()
    assert state(house.qemu) == before
    assert len(changes(house.wire)) == sent
    errors = [problem for problem in plan.problems if problem.severity == "error"]
    assert not plan.ok
    assert (device, check) in [(problem.device, problem.check) for problem in errors]
    assert caught.value.problems == plan.problems
    for problem in errors:
        assert problem.message
        assert problem.remedy
        assert str(problem) in str(caught.value)
        assert ".." not in str(problem).replace("/..", "")
    assert printable(device) in str(caught.value)
    return plan


def only(plan: snapkit.Plan, *devices: str) -> None:
    """The other devices have no problem."""
    assert {p.device for p in plan.problems if p.severity == "error"} == set(devices), plan.problems


BAD_NAMES = {
    "a directory that is not there": ("{room}/nowhere/x.snap", "directory"),
    "below a file": ("{house}/disk0.qcow2/x.snap", "directory"),
    "relative": ("x.snap", "path"),
    "a protocol": ("nbd://localhost/x", "path"),
    "json": ('json:{{"driver": "null-co"}}', "path"),
    "empty": ("", "path"),
    "blank": ("  ", "path"),
    "NUL": ("{room}/x\0.snap", "path"),
    "not UTF-8": ("{room}/x\udcff.snap", "path"),
    "long": ("{room}/" + "x" * 1024, "path"),
    "a long part": ("{room}/" + "x" * 256, "path"),
    "ends in a slash": ("{room}/", "path"),
    "a directory": ("{room}", "exists"),
    "a dot": ("{room}/.", "exists"),
    "a device": ("/dev/null", "exists"),
    "its own image": ("{house}/top.qcow2", "in use"),
    "its own backing file": ("{house}/base.qcow2", "in use"),
    "another disk's image": ("{house}/disk0.qcow2", "in use"),
    "another disk's image by another name": ("{house}/room/../disk0.qcow2", "in use"),
}


@pytest.mark.parametrize("why", BAD_NAMES)
def test_a_bad_file_name_is_refused(house: House, room: Path, why: str) -> None:
    name, check = BAD_NAMES[why]
    name = name.format(room=room, house=house.directory)
    plan = refused(house, {**overlays(room, 2), "drive2": name}, "drive2", check)
    only(plan, "drive2")


@pytest.mark.parametrize("engine", ["prepared", "classic"])
@pytest.mark.parametrize("link", ["", "symbolic", "hard", "dangling"])
def test_what_is_there_is_never_overwritten(
    house: House, room: Path, link: str, engine: str
) -> None:
    image = create_image(room / "switched-off.qcow2", "1M")
    name = {"": image}.get(link, str(room / "link"))
    if link == "symbolic":
        os.symlink(image, name)
    elif link == "hard":
        os.link(image, name)
    elif link == "dangling":
        os.symlink("nowhere", name)
    targets: dict[str, Target] = {**overlays(room, 2), "drive2": name}
    plan = refused(house, targets, "drive2", "exists", engine=engine)
    only(plan, "drive2")


@pytest.mark.parametrize("spelling", ["{d}/./x", "{d}/link/x", "{d}/link/../room/x", "{d}//x"])
def test_one_file_for_two_devices_is_refused_however_it_is_spelt(
    house: House, room: Path, spelling: str
) -> None:
    os.symlink(room, room / "link")
    name = spelling.format(d=room)
    plan = refused(
        house,
        {**overlays(room, 1), "drive1": str(room / "x"), "drive2": name},
        "drive2",
        "distinct",
    )
    only(plan, "drive1", "drive2")


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_one_existing_overlay_for_two_devices_is_refused(
    house: House, room: Path, link: Callable[[str, str], None]
) -> None:
    base = str(house.directory / "disk1.qcow2")
    image = create_image(room / "x", backing=base, backing_format="qcow2")
    link(image, str(room / "y"))
    targets: dict[str, Target] = {
        **overlays(room, 1),
        "drive1": {"file": image, "mode": "existing"},
        "drive2": {"file": str(room / "y"), "mode": "existing"},
    }
    refused(house, targets, "drive2", "distinct")


@pytest.mark.parametrize("field", ["format", "mode"])
@pytest.mark.parametrize("value", ["raw", "vmdk", "", "QCOW2", "absolute_paths"])
def test_a_format_or_mode_that_there_is_not_is_refused(
    house: House, room: Path, field: str, value: str
) -> None:
    bad = {"file": str(room / "x"), field: value}
    refused(house, {**overlays(room, 2), "drive2": bad}, "drive2", field)


@pytest.mark.parametrize("name", ["drvie2", "", "/machine/nothing", "drive2\0", "<script>"])
def test_an_unknown_device_is_refused(house: House, room: Path, name: str) -> None:
    plan = refused(house, {**overlays(room, 2), name: str(room / "x")}, name, "known")
    only(plan, name)


def test_a_misspelt_device_is_told_what_may_have_been_meant(house: House, room: Path) -> None:
    plan = refused(house, {"drvie2": str(room / "x")}, "drvie2", "known")
    assert plan.problems[0].remedy == "Did you mean drive2?"


@pytest.mark.parametrize(("name", "check"), [("empty", "empty"), ("raw0", "protocol")])
def test_what_must_not_be_snapshotted_is_refused_with_its_reason(
    house: House, room: Path, name: str, check: str
) -> None:
    plan = refused(house, {**overlays(room, 2), name: str(room / "x")}, name, check)
    with house.connect() as vm:
        why = vm.devices().loc[name, "why_not"]
    assert why
    assert str(why) in next(p.message for p in plan.problems if p.check == check)


def test_a_node_below_a_device_is_refused_and_the_device_is_named(house: House, room: Path) -> None:
    nodes = [name for name, file, _ in graph(house.qemu)["nodes"] if file.endswith("disk0.qcow2")]
    with house.connect() as vm:
        nodes.remove(str(vm.devices().loc["drive0", "node"]))
    (below,) = nodes
    plan = refused(house, {below: str(room / "x")}, below, "known")
    assert plan.problems[0].remedy == "Name the device drive0"


def test_a_device_that_is_named_twice_is_refused(house: House, room: Path) -> None:
    with house.connect() as vm:
        node = str(vm.devices().loc["drive2", "node"])
    targets: dict[str, Target] = {"drive2": str(room / "x"), node: str(room / "y")}
    refused(house, targets, "drive2", "once")


def test_nothing_to_snapshot_is_refused(house: House) -> None:
    refused(house, {}, "", "targets")


def other_image(room: Path, why: str, base: str) -> None:
    """An overlay for the disk ``base`` of 1 MiB that does not fit, for one reason."""
    overlay, below = room / "x", ["-u", "-b", base, "-F"]
    create: list[str | Path] = ["create", "-q", "-f", "qcow2"]
    if why == "smaller":
        qemu_img(*create, *below, "qcow2", overlay, "512K")
    elif why == "larger":
        qemu_img(*create, *below, "qcow2", overlay, "2M")
    elif why == "another backing file":
        create_image(overlay, backing=create_image(room / "b", "1M"), backing_format="qcow2")
    elif why == "no backing file":
        create_image(overlay, "1M")
    elif why == "another format":
        create_image(overlay, format="qed", backing=base, backing_format="qcow2")
    elif why == "another backing format":
        qemu_img(*create, *below, "raw", overlay, "1M")
    elif why == "no image":
        overlay.write_text("nothing")
    elif why == "a directory":
        overlay.mkdir()


UNFIT = {
    "smaller": "overlay",
    "larger": "overlay",
    "another backing file": "overlay",
    "no backing file": "overlay",
    "another format": "overlay",
    "another backing format": "overlay",
    "no image": "overlay",
    "missing": "exists",
    "a directory": "exists",
}


@pytest.mark.parametrize("engine", ["prepared", "classic"])
@pytest.mark.parametrize("why", UNFIT)
def test_an_existing_overlay_that_does_not_fit_is_refused(
    house: House, room: Path, why: str, engine: str
) -> None:
    other_image(room, why, str(house.directory / "top.qcow2"))
    bad = {"file": str(room / "x"), "mode": "existing"}
    plan = refused(house, {**overlays(room, 2), "drive2": bad}, "drive2", UNFIT[why], engine=engine)
    only(plan, "drive2")


def test_an_existing_overlay_over_raw_must_say_so(start_in: Callable[..., Process]) -> None:
    qemu = start_in("raw")
    base = qemu.directory / "disk.img"
    overlay = create_image(qemu.directory / "x", backing=str(base), backing_format="raw")
    forget_backing_format(overlay)
    with snapkit.connect(qemu.uri) as vm:
        plan = vm.plan({"drive0": overlay}, mode="existing")
    assert [(p.check, p.severity) for p in plan.problems] == [("overlay", "error")]


@pytest.fixture
def start_in(directory: Path) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def go(format_: str = "qcow2", prefix: list[str] | None = None) -> Process:
        image = directory / "disk.img"
        if not image.exists():
            create_image(image, "1M", format=format_)
        drive = f"if=none,id=drive0,file={image},format={format_}"
        started.append(
            start(
                directory, "-drive", drive, "-device", "virtio-blk-pci,drive=drive0", prefix=prefix
            )
        )
        return started[-1]

    yield go
    for process in started:
        process.stop()


def test_every_problem_of_every_device_is_told_at_once(house: House, room: Path) -> None:
    targets: dict[str, Target] = {
        "drive0": "relative",
        "drive1": {"file": str(room / "no" / "x"), "format": "raw"},
        "nope": str(room / "y"),
    }
    plan = refused(house, targets, "drive1", "directory", quiesce="require")
    found = {(p.device, p.check) for p in plan.problems if p.severity == "error"}
    assert found == {
        ("drive0", "path"),
        ("drive1", "format"),
        ("drive1", "directory"),
        ("nope", "known"),
        *((name, "quiesce") for name in targets),
    }


def test_a_read_only_connection_refuses_a_good_plan(house: House, room: Path) -> None:
    sent = len(changes(house.wire))
    with snapkit.connect(house.wire.uri, local=True, readonly=True) as vm:
        plan = vm.plan(overlays(room, 2))
        assert plan.ok
        with pytest.raises(snapkit.PlanError, match="read-only"):
            plan.run()
    assert list(room.iterdir()) == []
    assert len(changes(house.wire)) == sent


@pytest.fixture
def weak(start_in: Callable[..., Process], directory: Path) -> Process:
    """A QEMU that permissions hold back: as root one of another user's, else our own."""
    if os.geteuid() != 0:
        return start_in()
    create_image(directory / "disk.img", "1M")
    os.chown(directory / "disk.img", NOBODY, NOBODY)
    os.chown(directory, NOBODY, NOBODY)
    who = f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"
    return start_in(prefix=["setpriv", *who])


def refused_here(qemu: Process, targets: dict[str, Target], check: str, **options: str) -> str:
    before = state(qemu)
    with snapkit.connect(qemu.uri) as vm:
        plan = vm.plan(targets, **options)
        with pytest.raises(snapkit.PlanError) as caught:
            plan.run()
    assert [p.check for p in plan.problems] == [check]
    assert state(qemu) == before
    return str(caught.value)


def test_a_directory_that_qemu_may_not_write_to_is_refused(weak: Process) -> None:
    closed = weak.directory / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    said = refused_here(weak, {"drive0": str(closed / "x")}, "permission")
    assert "drive0" in said
    assert f"may not create files in {closed}" in said


def test_an_existing_overlay_that_qemu_may_not_write_to_is_refused(weak: Process) -> None:
    base = str(weak.directory / "disk.img")
    overlay = create_image(weak.directory / "x", backing=base, backing_format="qcow2")
    os.chmod(overlay, 0o444)
    said = refused_here(weak, {"drive0": overlay}, "permission", mode="existing")
    assert f"may not write to {overlay}" in said


def test_a_place_that_only_qemu_s_user_may_write_to_is_taken(weak: Process) -> None:
    open_to_qemu = weak.directory / "open"
    open_to_qemu.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(open_to_qemu, NOBODY, NOBODY)
    with snapkit.connect(weak.uri) as vm:
        outcome = vm.snapshot({"drive0": str(open_to_qemu / "x")})
    assert outcome.ok, outcome.findings


LOOK = """
import sys, snapkit
with snapkit.connect(sys.argv[1], local=True) as vm:
    (problem,) = vm.plan({"drive0": sys.argv[2]}).problems
    print(problem)
"""


def test_a_read_only_file_system_is_refused(start_in: Callable[..., Process]) -> None:
    qemu = start_in()
    # In a mount namespace of its own, which needs no root.
    mounted = 'mount -t tmpfs -o ro tmpfs /mnt && exec "$@"'
    inside = ["unshare", "-r", "-m", "sh", "-c", mounted, "sh"]
    command = [*inside, sys.executable, "-c", LOOK, qemu.uri, "/mnt/x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "drive0: /mnt is on a read-only file system" in done.stdout
