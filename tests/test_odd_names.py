"""File names as people and attackers write them: taken as they are, or refused clearly."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import snapkit
from tests.conftest import Process, StartQemu, chain_of, create_image
from tests.outside import drives, graph

ODD = {
    "spaces": "a file  with spaces ",
    "quotes": 'it\'s "quoted"',
    "markup": "<script>alert(1)<script> & <b>",
    "newline": "two\nlines",
    "tab": "a\tb",
    "colon": "nbd:host:10809",
    "json": 'json:{"driver":"raw"}',
    "comma": "a,b,,c=d",
    "braces": "{stem}-{0}-%s-%(x)d",
    "backslash": "a\\b\\n",
    "dollar": "$HOME `id` ; rm",
    "leading dash": "-o backing_file=x",
    "leading dot": ".hidden",
    "unicode": "Bild-äöü-日本語-🙂",
    "control": "a\x01\x7fb",
    "right to left": "a\u202eb",
    "hash": "#block123",
    "percent": "100%",
    "long": "x" * 250,
}
engines = pytest.mark.parametrize("engine", ["prepared", "classic"])
names = pytest.mark.parametrize("what", ODD)


@pytest.fixture
def qemu(directory: Path, start_qemu: StartQemu) -> Process:
    return start_qemu(*drives(directory, 1))


@names
@engines
def test_an_overlay_may_have_an_odd_name(qemu: Process, what: str, engine: str) -> None:
    overlay = str(qemu.directory / ODD[what])
    with snapkit.connect(qemu.uri) as vm:
        plan = vm.plan({"drive0": overlay}, engine=engine)
        assert plan.ok, plan.problems
        repr(plan), plan._repr_html_(), plan.preview("qmp"), plan.preview("python")
        outcome = plan.run()
        assert outcome.ok, outcome.findings
        assert vm.devices().loc["drive0", "file"] == overlay
    assert graph(qemu)["devices"]["drive0"][0] == overlay
    assert [layer["filename"] for layer in chain_of(overlay)] == [
        overlay,
        f"{qemu.directory}/disk0.qcow2",
    ]


@names
def test_a_disk_may_have_an_odd_name_and_the_overlay_is_named_after_it(
    directory: Path, start_qemu: StartQemu, what: str
) -> None:
    name = ODD[what][:200]
    image = create_image(directory / name, "1M")
    qemu = start_qemu("-drive", f"if=none,id=drive0,file={image.replace(',', ',,')},format=qcow2")
    with snapkit.connect(qemu.uri) as vm:
        for depth in (1, 2):
            outcome = vm.snapshot(["drive0"])
            assert outcome.ok, outcome.findings
            assert outcome.devices[0].depth_after == depth
    chain = [layer["filename"] for layer in chain_of(graph(qemu)["devices"]["drive0"][0])]
    assert chain[-1] == image
    assert {os.path.dirname(file) for file in chain} == {str(directory)}


@names
def test_qmp_shell_gets_the_name_right_or_is_refused(qemu: Process, what: str) -> None:
    overlay = str(qemu.directory / ODD[what])
    with snapkit.connect(qemu.uri) as vm:
        plan = vm.plan({"drive0": overlay}, engine="classic")
        if any(mark in overlay for mark in " '\"\n\t"):
            with pytest.raises(snapkit.SnapkitError, match="qmp-shell cannot be given the name"):
                plan.preview("qmp-shell")
        else:
            assert f" snapshot-file={overlay} " in plan.preview("qmp-shell")


def test_markup_in_a_name_is_text_in_every_html_form(qemu: Process) -> None:
    overlay = str(qemu.directory / ODD["markup"])
    with snapkit.connect(qemu.uri) as vm:
        plan = vm.plan({"drive0": overlay, "<b>": "<i>"})
        assert "<script>" not in plan._repr_html_()
        assert "<b>" not in plan._repr_html_()
        good = vm.plan({"drive0": overlay})
        assert "<script>" not in good.preview("qmp")._repr_html_()
        assert "<script>" not in good.run()._repr_html_()


@pytest.mark.parametrize("spelling", ["{d}/./x", "{d}//x", "{d}/link/x", "{d}/sub/../x"])
@engines
def test_a_roundabout_name_is_recognized_afterwards(
    qemu: Process, spelling: str, engine: str
) -> None:
    (qemu.directory / "sub").mkdir()
    os.symlink(qemu.directory, qemu.directory / "link")
    overlay = spelling.format(d=qemu.directory)
    with snapkit.connect(qemu.uri) as vm:
        outcome = vm.snapshot({"drive0": overlay}, engine=engine)
    assert outcome.ok, outcome.findings
    assert (qemu.directory / "x").exists()


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


def test_no_terminal_escape_in_a_file_name_gets_into_an_error(
    seed_vm: snapkit.VirtualMachine, directory: Path
) -> None:
    target = directory / "\x1b[31mred"

    def appear(phase: str) -> None:
        if phase == "prepare":
            target.write_bytes(b"theirs")

    plan = seed_vm.plan({"drive0": str(target)})
    with pytest.raises(snapkit.SnapshotError) as caught:
        plan.run(progress=appear)

    assert "\x1b" not in str(caught.value)
    assert r"\x1b[31mred" in str(caught.value)
    assert target.read_bytes() == b"theirs"
