"""What only QEMU can say of a failure, when its files are elsewhere or its disk is full."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import snapkit
from tests.conftest import Process, StartQemu, create_image, qemu_img
from tests.outside import drives, graph, overlays, state

ENGINES = ("prepared", "classic")
engines = pytest.mark.parametrize("engine", ENGINES)


@pytest.fixture
def qemu(directory: Path, start_qemu: StartQemu) -> Process:
    return start_qemu(*drives(directory, 3))


class At:
    """A progress function that does something once, when a phase begins."""

    def __init__(self, phase: str, action: Callable[[], Any]) -> None:
        self.phase, self.action = phase, action
        self.seen: list[str] = []

    def __call__(self, phase: str) -> None:
        self.seen.append(str(phase))
        if phase == self.phase:
            self.action()


def fails(
    qemu: Process,
    targets: dict[str, str],
    device: str,
    progress: At | None = None,
    *,
    local: bool | None = None,
    **options: str,
) -> snapkit.SnapshotError:
    """Run into a failure; the graph is as it was, and the error names the device."""
    before = graph(qemu)
    with snapkit.connect(qemu.uri, local=local) as vm:
        plan = vm.plan(targets, **options)
        assert plan.ok, plan.problems
        with pytest.raises(snapkit.SnapshotError) as caught:
            plan.run(progress)
    after = graph(qemu)
    assert after == before
    said = str(caught.value)
    assert said.startswith(f"The snapshot failed. {device}: ")
    assert ".." not in said
    outcome = caught.value.outcome
    assert outcome is not None
    assert not outcome.switched
    assert not outcome.ok
    assert [phase for phase, _ in outcome.phases][-1] == "undo"
    return caught.value


def everything_undone(error: snapkit.SnapshotError) -> None:
    assert "Everything was undone: no device was switched, and no file of this run is left." in str(
        error
    )
    assert error.outcome is not None
    assert error.outcome.findings == ()


def test_a_node_name_that_is_taken_after_the_check_is_left_to_who_has_it(qemu: Process) -> None:
    before = graph(qemu)
    with snapkit.connect(qemu.uri) as vm:
        plan = vm.plan(overlays(qemu.directory, 3))
        name = str(plan.to_frame().loc["drive1", "overlay_node"])

        def take() -> None:
            qemu.ask("blockdev-add", driver="null-co", node_name=name, size=1024)

        with pytest.raises(snapkit.SnapshotError, match=f"drive1: .*{name}") as caught:
            plan.run(At("prepare", take))
    everything_undone(caught.value)
    assert name in [node for node, _, _ in graph(qemu)["nodes"]]
    qemu.ask("blockdev-del", node_name=name)
    assert graph(qemu) == before
    assert list(qemu.directory.glob("*.snap")) == []


@engines
def test_a_qemu_that_may_not_write_somewhere_says_for_which_device(
    qemu: Process, engine: str
) -> None:
    """Nobody could look beforehand: QEMU's files are said to be elsewhere."""
    if os.geteuid() == 0:
        # Not even root may create a file there.
        place = Path(f"/proc/{os.getpid()}")
    else:
        place = qemu.directory / "closed"
        place.mkdir(mode=0o555)
    targets = {**overlays(qemu.directory, 2), "drive2": str(place / "x.snap")}
    error = fails(qemu, targets, "drive2", local=False, engine=engine)
    assert str(place) in str(error)
    for device in ("drive0", "drive1"):
        # These QEMU has made, and only who can reach them can remove them.
        assert os.path.exists(targets[device])
        assert f"{targets[device]} was made and cannot be removed from here" in str(error)
    assert f"{targets['drive2']} was made" not in str(error)


@engines
def test_elsewhere_too_nothing_that_is_there_is_overwritten(qemu: Process, engine: str) -> None:
    image = create_image(qemu.directory / "switched-off.qcow2", "1M")
    os.utime(image, (1, 1))
    targets = {**overlays(qemu.directory, 2), "drive2": image}
    before = state(qemu)
    with snapkit.connect(qemu.uri, local=False) as vm:
        plan = vm.plan(targets, engine=engine)
        assert [(p.check, p.severity) for p in plan.problems] == [("visible", "warning")] * 3
        with pytest.raises(snapkit.PlanError, match=f"drive2: {image} already exists"):
            plan.run()
    assert state(qemu) == before
    assert os.stat(image).st_mtime == 1


@engines
def test_elsewhere_too_a_missing_directory_is_refused(qemu: Process, engine: str) -> None:
    targets = {**overlays(qemu.directory, 2), "drive2": f"{qemu.directory}/no/x.snap"}
    before = state(qemu)
    with (
        snapkit.connect(qemu.uri, local=False) as vm,
        pytest.raises(snapkit.PlanError, match=r"drive2: the directory .*/no does not exist"),
    ):
        vm.snapshot(targets, engine=engine)
    assert state(qemu) == before


@engines
@pytest.mark.parametrize("why", ["smaller", "no backing file", "another", "no image", "missing"])
def test_elsewhere_too_an_overlay_that_does_not_fit_is_refused(
    qemu: Process, engine: str, why: str
) -> None:
    overlay, base = qemu.directory / "x", qemu.directory / "disk2.qcow2"
    if why == "smaller":
        qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", base, "-F", "qcow2", overlay, "512K")
    elif why == "no backing file":
        create_image(overlay, "1M")
    elif why == "another":
        base = qemu.directory / "disk1.qcow2"
        create_image(overlay, backing=str(base), backing_format="qcow2")
    elif why == "no image":
        overlay.write_text("nothing")
    before = state(qemu)
    targets = {**overlays(qemu.directory, 2), "drive2": {"file": str(overlay), "mode": "existing"}}
    with (
        snapkit.connect(qemu.uri, local=False) as vm,
        pytest.raises(snapkit.PlanError, match=f"drive2: .*{overlay}"),
    ):
        vm.snapshot(targets, engine=engine)
    assert state(qemu) == before


@pytest.mark.parametrize("kind", ["pipe", "directory"])
def test_elsewhere_a_thing_that_is_no_file_neither_hangs_qemu_nor_passes(
    qemu: Process, kind: str
) -> None:
    place = qemu.directory / "x"
    os.mkfifo(place) if kind == "pipe" else place.mkdir()
    with (
        snapkit.connect(qemu.uri, local=False) as vm,
        pytest.raises(snapkit.PlanError, match=f"drive0: {place} "),
    ):
        vm.snapshot({"drive0": str(place)})


@engines
def test_elsewhere_a_good_snapshot_is_taken_and_says_what_was_not_seen(
    qemu: Process, engine: str
) -> None:
    targets = overlays(qemu.directory, 3)
    with snapkit.connect(qemu.uri, local=False) as vm:
        outcome = vm.snapshot(targets, engine=engine)
    assert outcome.ok
    assert graph(qemu)["devices"].keys() == targets.keys()
    assert {file for file, _ in graph(qemu)["devices"].values()} == set(targets.values())
    assert all("was not opened offline" in text for text in outcome.findings)


FULL = 'mount -t tmpfs -o size={size} tmpfs {place} && exec "$@"'


@pytest.fixture
def small_store(directory: Path, start_qemu: StartQemu) -> Callable[[str], Process]:
    """A QEMU that sees a small file system at ``small``, in a mount namespace of its own."""
    (directory / "small").mkdir()

    def start(size: str) -> Process:
        script = FULL.format(size=size, place=directory / "small")
        prefix = ["unshare", "-r", "-m", "sh", "-c", script, "sh"]
        return start_qemu(*drives(directory, 3), prefix=prefix)

    return start


@engines
def test_a_full_disk_is_named_and_nothing_is_switched(
    small_store: Callable[[str], Process], engine: str
) -> None:
    qemu = small_store("64k")
    small = qemu.directory / "small"
    targets = {**overlays(qemu.directory, 2), "drive2": str(small / "x.snap")}
    where = "drive2" if engine == "prepared" else "one of drive0, drive1, drive2"
    error = fails(qemu, targets, where, local=False, engine=engine)
    assert "No space left on device" in str(error)
    seen_by_qemu = os.listdir(f"/proc/{qemu.pid}/root{small}")
    said = f"{targets['drive2']} was made" in str(error)
    assert said == (seen_by_qemu == ["x.snap"])


@engines
def test_a_directory_that_qemu_sees_differently_is_not_touched(
    small_store: Callable[[str], Process], engine: str
) -> None:
    qemu = small_store("1M")
    small = qemu.directory / "small"
    targets = {**overlays(qemu.directory, 2), "drive2": str(small / "x.snap")}
    before = state(qemu)
    with snapkit.connect(qemu.uri, local=True) as vm:
        plan = vm.plan(targets, engine=engine)
        assert [(p.device, p.check) for p in plan.problems] == [("drive2", "visible")]
        with pytest.raises(snapkit.PlanError, match=f"sees another directory at {small}"):
            plan.run()
    assert state(qemu) == before
    assert os.listdir(f"/proc/{qemu.pid}/root{small}") == []
