"""What a run has to heed of QEMU's jobs and of qemu-img; the rest is in conformance."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import snapkit
from snapkit.engine import PHASES, Phase
from tests.conftest import Process, StartQemu, create_image, qemu_img
from tests.outside import drives, graph, overlays
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


def test_a_phase_says_in_words_what_is_done() -> None:
    assert all(Phase(name).text == PHASES[name] for name in (*WELL, "undo"))


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
