"""The facts behind the checks, on real QEMUs: what is warned of is so."""

from __future__ import annotations

import os
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import snapkit
from tests.conftest import (
    Process,
    StartQemu,
    blockdev,
    chain_of,
    create_image,
    forget_backing_format,
    qemu_img,
)
from tests.outside import drives, overlays

MIB = 1024 * 1024


def found(plan: snapkit.Plan, *, left_out: bool = False) -> dict[str, str]:
    """The problems as ``{check: severity}``."""
    return {p.check: p.severity for p in plan.problems if left_out or p.check != "left out"}


def disk(name: str, file: str, *, format: str = "qcow2") -> tuple[str, ...]:
    drive = f"if=none,id={name},file={file},format={format}"
    return "-drive", drive, "-device", f"virtio-blk-pci,drive={name},id=dev-{name}"


def device_of(node: str) -> tuple[str, ...]:
    return "-device", f"virtio-blk-pci,drive={node},id=vd0"


def test_what_this_qemu_has_open_is_in_use_and_not_locked_by_another(
    start_qemu: StartQemu, directory: Path
) -> None:
    qemu_img(
        *("create", "-q", "-f", "qcow2", "-o", f"data_file={directory}/data"),
        *(directory / "a.qcow2", "1M"),
    )
    log = directory / "serial.txt"
    qemu = start_qemu(*disk("drive0", f"{directory}/a.qcow2"), "-serial", f"file:{log}")
    with snapkit.connect(qemu.uri) as vm:
        for file, words in ((f"{directory}/data", "is the file of the node"), (log, "is open in")):
            plan = vm.plan({"drive0": {"file": file, "mode": "existing"}})
            problem = next(p for p in plan.problems if p.check == "in use")
            assert words in problem.message
            assert "locked" not in found(plan)


LOOK = """
import sys, snapkit
with snapkit.connect(sys.argv[1], local=True) as vm:
    for problem in vm.plan({"drive0": sys.argv[2]}).problems:
        print(problem.check, problem.severity, problem)
"""


@pytest.mark.parametrize(("size", "severity"), [("128k", "error"), ("32m", "warning"), ("99m", "")])
def test_a_small_file_system_is_seen(
    start_qemu: StartQemu, directory: Path, size: str, severity: str
) -> None:
    qemu = start_qemu(*disk("drive0", create_image(directory / "a.qcow2", "64M")))
    # In a mount namespace of its own, which needs no root.
    mounted = f'mount -t tmpfs -o size={size} tmpfs /mnt && exec "$@"'
    inside = ["unshare", "-r", "-m", "sh", "-c", mounted, "sh"]
    command = [*inside, sys.executable, "-c", LOOK, qemu.uri, "/mnt/x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"space {severity} drive0: " if severity else "")
    assert bool(done.stdout) == bool(severity)


@pytest.mark.parametrize("engine", ["prepared", "classic"])
def test_the_number_of_files_that_qemu_may_open_is_told_exactly_enough(
    start_qemu: StartQemu, directory: Path, engine: str
) -> None:
    qemu = start_qemu(*drives(directory, 4))
    targets = overlays(directory, 4)
    with snapkit.connect(qemu.uri) as vm:
        used = len(os.listdir(f"/proc/{qemu.pid}/fd"))
        _, hard = resource.prlimit(qemu.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(qemu.pid, resource.RLIMIT_NOFILE, (used + 4, hard))
        assert found(vm.plan(targets, engine=engine)) == {"file descriptors": "error"}
        resource.prlimit(qemu.pid, resource.RLIMIT_NOFILE, (used + 5, hard))
        plan = vm.plan(targets, engine=engine)
        assert found(plan) == {}
        assert plan.run().ok


def test_firmware_variables_that_are_not_in_the_set_are_told(
    start_qemu: StartQemu, directory: Path
) -> None:
    code, store = (
        create_image(directory / name, "128k", format="raw") for name in ("code", "vars")
    )
    qemu = start_qemu(
        *("-drive", f"if=pflash,file={code},format=raw,readonly=on"),
        *("-drive", f"if=pflash,file={store},format=raw"),
        *disk("drive0", create_image(directory / "a.qcow2", "1M")),
    )
    with snapkit.connect(qemu.uri) as vm:
        plan = vm.plan({"drive0": str(directory / "x")})
        assert [(p.device, p.check) for p in plan.problems] == [("pflash1", "firmware")]
        assert plan.ok
        both = vm.plan({"drive0": str(directory / "x"), "pflash1": str(directory / "y")})
        assert both.problems == ()


def test_a_removable_medium_is_told_and_a_read_only_one_is_refused(
    start_qemu: StartQemu, directory: Path
) -> None:
    stick = create_image(directory / "stick.qcow2", "1M")
    cd = create_image(directory / "cd.img", "1M", format="raw")
    qemu = start_qemu(
        *("-device", "qemu-xhci", "-drive", f"if=none,id=stick,file={stick}"),
        *("-device", "usb-storage,drive=stick,removable=on"),
        *("-drive", f"if=none,id=cd,file={cd},format=raw,media=cdrom"),
        *("-device", "ide-cd,drive=cd"),
    )
    with snapkit.connect(qemu.uri) as vm:
        assert found(vm.plan({"stick": str(directory / "x")})) == {"removable": "warning"}
        plan = vm.plan({"cd": str(directory / "x")})
    assert found(plan) == {"read-only": "error", "removable": "warning"}


def test_a_running_job_is_refused_by_its_name(start_qemu: StartQemu, directory: Path) -> None:
    image = create_image(directory / "a.qcow2", "64M")
    subprocess.run(["qemu-io", "-c", "write -q 0 32M", image], check=True)
    qemu = start_qemu(*disk("drive0", image), *blockdev("to", create_image(directory / "to")))
    arguments = {"job_id": "j", "device": "drive0", "target": "to", "sync": "full", "speed": 1}
    qemu.ask("blockdev-mirror", **arguments)
    with snapkit.connect(qemu.uri) as vm:
        plan = vm.plan({"drive0": str(directory / "x")})
    assert found(plan) == {"job": "error"}
    assert "the job j (mirror, running)" in plan.problems[0].message


@pytest.mark.parametrize("mode", ["absolute-paths", "existing"])
def test_another_cluster_size_than_the_base_s_is_told(
    start_qemu: StartQemu, directory: Path, mode: str
) -> None:
    base, over = str(directory / "a.qcow2"), str(directory / "x")
    qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", base, "1M")
    if mode == "existing":
        create_image(over, backing=base, backing_format="qcow2")
    qemu = start_qemu(*disk("drive0", base))
    with snapkit.connect(qemu.uri) as vm:
        prepared = vm.plan({"drive0": over}, mode=mode)
        classic = vm.plan({"drive0": over}, mode=mode, engine="classic")
        assert found(classic) == {"cluster size": "warning"}
        assert found(prepared) == ({"cluster size": "warning"} if mode == "existing" else {})
        assert prepared.run().ok


def test_the_cure_of_a_header_without_a_format_cures_it(
    start_qemu: StartQemu, directory: Path
) -> None:
    base = create_image(directory / "the base.img", "1M", format="raw")
    over = create_image(directory / "a.qcow2", backing=base, backing_format="raw")
    forget_backing_format(over)
    qemu = start_qemu(*blockdev("n", over), *device_of("n"))
    target = {"vd0": str(directory / "x")}
    with snapkit.connect(qemu.uri) as vm:
        (problem,) = vm.plan(target).problems
    assert (problem.check, problem.severity) == ("backing format", "warning")
    qemu.stop()
    cure = problem.remedy.removeprefix("Run ").removesuffix(" when the VM is off")
    subprocess.run(shlex.split(cure), check=True)
    again = start_qemu(*blockdev("n", over), *device_of("n"))
    with snapkit.connect(again.uri) as vm:
        assert vm.plan(target).problems == ()


def test_a_chain_of_sixteen_is_told(start_qemu: StartQemu, directory: Path) -> None:
    top = create_image(directory / "0.qcow2", "1M")
    for number in range(1, 16):
        top = create_image(directory / f"{number}.qcow2", backing=top, backing_format="qcow2")
    qemu = start_qemu(*disk("drive0", top))
    with snapkit.connect(qemu.uri) as vm:
        plan = vm.plan({"drive0": str(directory / "x")})
    assert found(plan) == {"chain depth": "warning"}


def test_qemu_reads_some_absolute_names_as_something_else(
    seed_qemu: Process, directory: Path
) -> None:
    """What the path check refuses is what QEMU does not take for the file of that name."""
    with seed_qemu.qmp() as qmp:

        def refusal(name: str) -> str:
            data = {"device": "drive1", "snapshot-file": name}
            command = {"execute": "blockdev-snapshot-sync", "arguments": data}
            answer = qmp.send(command)
            return str(answer["error"]["desc"]) if "error" in answer else ""

        assert "fdset" in refusal("/dev/fdset/7")
        assert "host_device" in refusal("/dev/cdrom-x")
        assert refusal("/proc/self/cwd/there.qcow2") == ""
        # Not in this process's directory, but in QEMU's.
        assert (directory / "there.qcow2").exists()
        assert refusal(f"{directory}/nbd:x,json:{{}}") == ""


def test_a_disk_whose_name_has_a_colon_is_refused_where_it_could_not_be_opened_again(
    start_qemu: StartQemu, directory: Path
) -> None:
    image = create_image(directory / "a:b.qcow2", "1M")
    relative = start_qemu(*blockdev("n", "a:b.qcow2"), *device_of("n"))
    with snapkit.connect(relative.uri) as vm:
        (problem,) = vm.plan({"vd0": str(directory / "x")}).problems
    assert (problem.check, problem.severity) == ("base", "error")
    relative.stop()
    absolute = start_qemu(*blockdev("n", image), *device_of("n"))
    with snapkit.connect(absolute.uri) as vm:
        assert vm.snapshot({"vd0": str(directory / "x:y")}).ok
    assert [layer["filename"] for layer in chain_of(directory / "x:y")] == [
        f"{directory}/x:y",
        image,
    ]


def test_the_disk_that_is_written_most_is_switched_last(
    seed_qemu: Process, seed_vm: snapkit.VirtualMachine
) -> None:
    def order() -> list[str]:
        actions = seed_vm.plan(["drive0", "drive1"]).script.switch.arguments["actions"]
        assert isinstance(actions, list)
        return [str(action["data"]["overlay"]) for action in actions]

    assert order() == ["drive0-snap1", "drive1-snap1"]
    with seed_qemu.qmp() as qmp:
        for _ in range(300):
            qmp.execute("human-monitor-command", command_line='qemu-io drive0 "aio_write -q 0 512"')
    assert order() == ["drive1-snap1", "drive0-snap1"]
    plan = seed_vm.plan(["drive0", "drive1"], engine="classic")
    lines = str(plan.preview("qmp-shell")).splitlines()
    assert ["device=drive1" in lines[1], "device=drive0" in lines[2]] == [True, True]
    assert [overlay.device for overlay in plan.script.overlays] == ["drive0", "drive1"]
    assert plan.run().ok
