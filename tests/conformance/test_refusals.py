"""Three devices, one bad target: refused before anything is sent that changes anything."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import snapkit
from snapkit.printable import printable
from tests.conformance.machines import Held, Machine, Tap
from tests.conftest import create_image, forget_backing_format, qemu_img

Target = str | dict[str, str]


@pytest.fixture(scope="module")
def tap(standing: Machine) -> Tap:
    return standing.tap()


@pytest.fixture
def room(standing: Machine) -> Iterator[Path]:
    """A directory of a test's own, and nothing but that may be different afterwards."""
    path = standing.folder("room")
    yield path
    shutil.rmtree(path)


@pytest.fixture
def refused(standing: Machine, tap: Tap) -> Callable[..., snapkit.Plan]:
    """Plan and run: the problem names the device, and nothing was sent or made."""

    def refuse(targets: dict[str, Target], device: str, check: str, **options: str) -> snapkit.Plan:
        before, sent = standing.state(), len(standing.sent(tap))
        with standing.connect(tap) as vm:
            plan = vm.plan(targets, **options)
            with pytest.raises(snapkit.PlanError) as caught:
                plan.run()
        assert standing.state() == before
        assert len(standing.sent(tap)) == sent
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
        assert snapkit.journal().empty
        return plan

    return refuse


Refused = Callable[..., snapkit.Plan]


def only(plan: snapkit.Plan, *devices: str) -> None:
    """The other devices have no problem."""
    assert {p.device for p in plan.problems if p.severity == "error"} == set(devices), plan.problems


BAD_NAMES = {
    "a directory that is not there": ("{room}/nowhere/x.snap", "directory"),
    "below a file": ("{house}/data/x.snap", "directory"),
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
    "its own image": ("{house}/top", "in use"),
    "its own backing file": ("{house}/base", "in use"),
    "another disk's image": ("{house}/data", "in use"),
    "another disk's image by another name": ("{house}/room/../data", "in use"),
}


@pytest.mark.parametrize("why", BAD_NAMES)
def test_a_bad_file_name_is_refused(
    standing: Machine, room: Path, refused: Refused, why: str
) -> None:
    name, check = BAD_NAMES[why]
    name = name.format(room=room, house=standing.directory)
    last = standing.names[2]
    plan = refused({**standing.targets(2, room), last: name}, last, check)
    only(plan, last)


@pytest.mark.parametrize("there", ["file", "empty", "symbolic", "hard", "dangling", "pipe"])
def test_what_is_there_is_never_overwritten(
    standing: Machine, room: Path, refused: Refused, there: str
) -> None:
    image = create_image(room / "switched-off.qcow2", "1M")
    name = str(room / "x")
    if there == "file":
        name = image
    elif there == "empty":
        Path(name).touch()
    elif there == "symbolic":
        os.symlink(image, name)
    elif there == "hard":
        os.link(image, name)
    elif there == "dangling":
        os.symlink("nowhere", name)
    else:
        os.mkfifo(name)
    last = standing.names[2]
    for engine in standing.engines():
        targets = {**standing.targets(2, room), last: name}
        only(refused(targets, last, "exists", engine=engine), last)


@pytest.mark.parametrize("spelling", ["{d}/./x", "{d}/link/x", "{d}/link/../room/x", "{d}//x"])
def test_one_file_for_two_devices_is_refused_however_it_is_spelt(
    standing: Machine, room: Path, refused: Refused, spelling: str
) -> None:
    os.symlink(room, room / "link")
    _, second, third = standing.names
    name = spelling.format(d=room)
    targets = {**standing.targets(1, room), second: str(room / "x"), third: name}
    only(refused(targets, third, "distinct"), second, third)


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_one_existing_overlay_for_two_devices_is_refused(
    standing: Machine, room: Path, refused: Refused, link: Callable[[str, str], None]
) -> None:
    _, second, third = standing.names
    image = standing.overlay("room/x", second)
    link(image, str(room / "y"))
    refused({second: image, third: str(room / "y")}, third, "distinct", mode="existing")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("format", value) for value in ("raw", "vmdk", "", "QCOW2")),
        *(("mode", value) for value in ("", "absolute_paths")),
    ],
)
def test_a_format_or_mode_that_there_is_not_is_refused(
    standing: Machine, room: Path, refused: Refused, field: str, value: str
) -> None:
    last = standing.names[2]
    bad = {"file": str(room / "x"), field: value}
    refused({**standing.targets(2, room), last: bad}, last, field)


@pytest.mark.parametrize("name", ["drvie2", "", "/machine/nothing", "{}\0", "<script>"])
def test_an_unknown_device_is_refused(
    standing: Machine, room: Path, refused: Refused, name: str
) -> None:
    name = name.format(standing.names[2])
    plan = refused({**standing.targets(2, room), name: str(room / "x")}, name, "known")
    only(plan, name)


def test_a_misspelt_device_is_told_what_may_have_been_meant(
    standing: Machine, room: Path, refused: Refused
) -> None:
    last = standing.names[2]
    plan = refused({f"{last}x": str(room / "x")}, f"{last}x", "known")
    assert last in plan.problems[0].remedy
    assert plan.problems[0].remedy.startswith("Did you mean ")


def test_a_device_that_is_named_twice_is_refused(
    standing: Machine, room: Path, refused: Refused
) -> None:
    last = standing.names[2]
    with standing.connect() as vm:
        node = str(vm.devices().loc[last, "node"])
    refused({last: str(room / "x"), node: str(room / "y")}, last, "once")


def test_nothing_to_snapshot_is_refused(refused: Refused) -> None:
    refused({}, "", "targets")


def other_image(room: Path, why: str, base: str) -> None:
    """An overlay for the disk ``base`` of 2 MiB that does not fit, for one reason."""
    overlay, below = room / "x", ["-u", "-b", base, "-F"]
    create: list[str | Path] = ["create", "-q", "-f", "qcow2"]
    if why == "smaller":
        qemu_img(*create, *below, "qcow2", overlay, "512K")
    elif why == "larger":
        qemu_img(*create, *below, "qcow2", overlay, "4M")
    elif why == "another backing file":
        create_image(overlay, backing=create_image(room / "b", "2M"), backing_format="qcow2")
    elif why == "no backing file":
        create_image(overlay, "2M")
    elif why == "another format":
        create_image(overlay, format="qed", backing=base, backing_format="qcow2")
    elif why == "another backing format":
        qemu_img(*create, *below, "raw", overlay, "2M")
    elif why == "no image":
        overlay.write_text("nothing")
    elif why == "an empty file":
        overlay.touch()
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
    "an empty file": "overlay",
    "missing": "exists",
    "a directory": "exists",
}


@pytest.mark.parametrize("why", UNFIT)
def test_an_existing_overlay_that_does_not_fit_is_refused(
    standing: Machine, room: Path, refused: Refused, why: str
) -> None:
    good = {name: standing.overlay(f"room/{name}", name) for name in standing.names[:2]}
    last = standing.names[2]
    other_image(room, why, standing.images[last].file)
    targets = {**good, last: str(room / "x")}
    for engine in standing.engines():
        only(refused(targets, last, UNFIT[why], mode="existing", engine=engine), last)


def test_an_existing_overlay_over_raw_must_say_so(
    standing: Machine, room: Path, refused: Refused
) -> None:
    first = standing.names[0]
    overlay = standing.overlay("room/x", first)
    forget_backing_format(overlay)
    only(refused({first: overlay}, first, "overlay", mode="existing"), first)


def test_an_existing_overlay_that_another_process_has_open_is_refused(
    standing: Machine, room: Path, refused: Refused
) -> None:
    first = standing.names[0]
    overlay = standing.overlay("room/x", first)
    with Held(room, overlay) as held:
        held.take()
        plan = refused({first: overlay}, first, "locked", mode="existing")
    assert f"fuser -v {overlay}" in plan.problems[0].remedy
    with standing.connect() as vm:
        assert vm.plan({first: overlay}, mode="existing").ok


def test_every_problem_of_every_device_is_told_at_once(
    standing: Machine, room: Path, refused: Refused
) -> None:
    first, second, _ = standing.names
    targets: dict[str, Target] = {
        first: "relative",
        second: {"file": str(room / "no" / "x"), "format": "raw"},
        "nope": str(room / "y"),
    }
    plan = refused(targets, second, "directory", quiesce="require")
    found = {(p.device, p.check) for p in plan.problems if p.severity == "error"}
    assert found == {
        (first, "path"),
        (second, "format"),
        (second, "directory"),
        ("nope", "known"),
        *((name, "quiesce") for name in targets),
    }


def test_a_directory_that_the_machine_may_not_write_to_is_refused(blank: Machine) -> None:
    blank.lower()
    blank.boot_small(3)
    closed = blank.folder("closed")
    closed.chmod(0o555)
    last = blank.names[2]
    before = blank.state()
    with blank.connect() as vm:
        plan = vm.plan({**blank.targets(2), last: str(closed / "x")})
        with pytest.raises(snapkit.PlanError, match=f"{last}: .*create files in {closed}"):
            plan.run()
    assert [(p.device, p.check) for p in plan.problems] == [(last, "permission")]
    assert blank.state() == before


def test_an_existing_overlay_that_the_machine_may_not_write_to_is_refused(blank: Machine) -> None:
    blank.lower()
    blank.boot_small(2)
    targets = {name: blank.overlay(f"over-{name}", name) for name in blank.names}
    last = blank.names[1]
    os.chmod(targets[last], 0o444)
    before = blank.state()
    with blank.connect() as vm:
        plan = vm.plan(targets, mode="existing")
        with pytest.raises(snapkit.PlanError, match=f"{last}: .*write to {targets[last]}"):
            plan.run()
    assert [(p.device, p.check) for p in plan.problems] == [(last, "permission")]
    assert blank.state() == before


def test_a_place_that_only_the_machine_s_user_may_write_to_is_taken(blank: Machine) -> None:
    blank.lower()
    blank.boot_small(1)
    place = blank.folder("own")
    place.chmod(0o700)
    with blank.connect() as vm:
        outcome = vm.snapshot(blank.targets(where=place))
    assert outcome.ok, outcome.findings
