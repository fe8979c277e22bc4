"""Refusals of what only a QEMU's own command line can set up; the others are in conformance."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import snapkit
from tests.conftest import Process, StartQemu, create_image
from tests.outside import drives, graph, overlays, state
from tests.recorder import Recorder
from tests.wire import changes


@pytest.fixture
def qemu(directory: Path, start_qemu: StartQemu) -> Process:
    return start_qemu(
        *drives(directory, 2),
        *("-drive", "if=none,id=empty"),
        *("-device", "ide-cd,drive=empty"),
        *("-blockdev", f"driver=file,node-name=bare,filename={create_image(directory / 'bare')}"),
        *("-device", "virtio-blk-pci,drive=bare,id=raw0"),
    )


@pytest.fixture
def wire(qemu: Process) -> Iterator[Recorder]:
    recorder = Recorder(qemu.uri, qemu.directory)
    yield recorder
    recorder.close()


@pytest.mark.parametrize(("name", "check"), [("empty", "empty"), ("raw0", "protocol")])
def test_what_must_not_be_snapshotted_is_refused_with_its_reason(
    qemu: Process, wire: Recorder, name: str, check: str
) -> None:
    before = state(qemu)
    with snapkit.connect(wire.uri, local=True) as vm:
        plan = vm.plan({**overlays(qemu.directory, 2), name: f"{qemu.directory}/x"})
        why = vm.devices().loc[name, "why_not"]
        with pytest.raises(snapkit.PlanError):
            plan.run()
    (problem,) = (problem for problem in plan.problems if problem.severity == "error")
    assert (problem.device, problem.check) == (name, check)
    assert why
    assert str(why) in problem.message
    assert changes(wire) == []
    assert state(qemu) == before


def test_a_node_below_a_device_is_refused_and_the_device_is_named(qemu: Process) -> None:
    nodes = [name for name, file, _ in graph(qemu)["nodes"] if file.endswith("disk0.qcow2")]
    with snapkit.connect(qemu.uri) as vm:
        nodes.remove(str(vm.devices().loc["drive0", "node"]))
        (below,) = nodes
        problem = vm.plan({below: f"{qemu.directory}/x"}).problems[0]
    assert (problem.device, problem.check) == (below, "known")
    assert problem.remedy == "Name the device drive0"


LOOK = """
import sys, snapkit
with snapkit.connect(sys.argv[1], local=True) as vm:
    problems = vm.plan({"drive0": sys.argv[2]}).problems
    print(*(problem for problem in problems if problem.severity == "error"))
"""


def test_a_read_only_file_system_is_refused(qemu: Process) -> None:
    # In a mount namespace of its own, which needs no root.
    mounted = 'mount -t tmpfs -o ro tmpfs /mnt && exec "$@"'
    inside = ["unshare", "-r", "-m", "sh", "-c", mounted, "sh"]
    command = [*inside, sys.executable, "-c", LOOK, qemu.uri, "/mnt/x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "drive0: /mnt is on a read-only file system" in done.stdout
