"""Odd and relative file names, as far as only QMP has to do with them."""

from __future__ import annotations

from pathlib import Path

import pytest

import snapkit
from tests.conftest import Process, StartQemu, chain_of, create_image
from tests.odd_names import ODD, UNTELLABLE
from tests.outside import drives

NAMES = [*ODD.values(), *(f"two{character}lines" for character in UNTELLABLE)]


@pytest.fixture
def qemu(directory: Path, start_qemu: StartQemu) -> Process:
    return start_qemu(*drives(directory, 1))


def test_qmp_shell_gets_the_name_right_or_is_refused(qemu: Process) -> None:
    with snapkit.connect(qemu.uri) as vm:
        for name in NAMES:
            overlay = str(qemu.directory / name)
            plan = vm.plan({"drive0": overlay}, engine="classic")
            if any(mark in overlay for mark in " '\"\n\t\r"):
                with pytest.raises(snapkit.SnapkitError, match="cannot be given the name"):
                    plan.preview("qmp-shell")
            else:
                assert f" snapshot-file={overlay} " in plan.preview("qmp-shell")


def test_a_relative_disk_gets_an_absolute_name_in_the_header(
    directory: Path, start_qemu: StartQemu
) -> None:
    create_image(directory / "disk.qcow2", "1M")
    (directory / "elsewhere").mkdir()
    qemu = start_qemu(
        *("-drive", "if=none,id=drive0,file=disk.qcow2,format=qcow2"),
        *("-device", "virtio-blk-pci,drive=drive0"),
    )
    overlay = str(directory / "elsewhere" / "over.snap")
    with snapkit.connect(qemu.uri) as vm:
        classic = vm.plan({"drive0": overlay}, engine="classic")
        assert [problem.check for problem in classic.problems] == ["classic name"]
        outcome = vm.snapshot({"drive0": overlay})
    assert outcome.ok, outcome.findings
    assert chain_of(overlay)[0]["backing-filename"] == str(directory / "disk.qcow2")
