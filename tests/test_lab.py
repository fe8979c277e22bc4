"""The lab as its user meets it: a running VM, its names, and what its guest proves."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from snapkit.errors import ConnectError, SnapkitError
from snapkit.lab import Lab, qemu
from tests.conftest import wait_until
from tests.lab.watch import execute, is_running

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


def wait_for_more(lab: Lab, files: Collection[str], number: int) -> None:
    """Wait until each file holds a larger number."""
    wait_until(lambda: lab.sequence(files).min() > number, f"numbers above {number}")


def test_importing_the_lab_loads_neither_pandas_nor_numpy() -> None:
    code = "import sys, snapkit.lab; print([m for m in ('pandas', 'numpy') if m in sys.modules])"
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True)
    assert done.stdout.strip() == b"[]"


def test_a_new_lab_runs_and_has_written_to_every_disk(lab: Lab) -> None:
    assert is_running(lab.pid)
    assert lab.sequence(lab.images).min() >= 1
    assert lab.accel == "tcg"
    assert lab.domain is None


def test_the_disks_are_a_raw_and_a_qcow2_one_of_64_mib(lab: Lab) -> None:
    assert list(lab.images) == ["drive0", "drive1"]
    assert [Path(path).name for path in lab.images.values()] == ["win2003.img", "data.qcow2"]
    (blocks,) = execute(lab.spare_uri, ("query-block", {}))
    seen = {
        block["device"]: (image["filename"], image["format"], image["virtual-size"])
        for block in blocks["return"]
        if (image := block.get("inserted", {}).get("image")) and not block["removable"]
    }
    assert seen == {
        "drive0": (lab.images["drive0"], "raw", 64 << 20),
        "drive1": (lab.images["drive1"], "qcow2", 64 << 20),
    }


def test_the_directory_is_for_its_user_only(lab: Lab) -> None:
    assert stat.S_IMODE(lab.directory.stat().st_mode) == 0o700
    assert lab.directory.name.startswith("snapkit-lab-")


def test_the_command_line_is_the_one_that_runs(lab: Lab) -> None:
    running = Path(f"/proc/{lab.pid}/cmdline").read_bytes().split(b"\0")[:-1]
    assert [part.decode() for part in running] == lab.command


def test_a_relative_file_name_is_one_in_the_lab(lab: Lab) -> None:
    assert os.readlink(f"/proc/{lab.pid}/cwd") == str(lab.directory)


def test_the_numbers_of_a_running_guest_grow(lab: Lab) -> None:
    wait_for_more(lab, lab.images.values(), lab.sequence(lab.images).max())


def test_two_disks_at_one_instant_differ_by_one_at_most() -> None:
    with Lab(disks=3) as lab:
        for _ in range(10):
            execute(lab.spare_uri, ("stop", {}))
            frozen = lab.sequence(lab.images)
            execute(lab.spare_uri, ("cont", {}))
            numbers = frozen.to_list()
            assert numbers == sorted(numbers, reverse=True)
            assert numbers[0] - numbers[-1] in (0, 1)
            wait_for_more(lab, lab.images.values(), frozen.max())


def test_images_that_were_frozen_in_one_transaction_belong_together(lab: Lab) -> None:
    overlays = [str(lab.directory / f"{drive}.snap") for drive in lab.images]
    actions = [
        {"type": "blockdev-snapshot-sync", "data": {"device": drive, "snapshot-file": file}}
        for drive, file in zip(lab.images, overlays, strict=True)
    ]
    (answer,) = execute(lab.spare_uri, ("transaction", {"actions": actions}))
    assert answer == {"return": {}}
    first, second = lab.sequence(lab.images)
    assert first - second in (0, 1)
    wait_for_more(lab, overlays, first)
    assert lab.sequence(lab.images).to_list() == [first, second]


def test_images_that_were_frozen_one_after_the_other_do_not(lab: Lab) -> None:
    for drive, image in lab.images.items():
        target = {"device": drive, "snapshot-file": str(lab.directory / f"{drive}.snap")}
        execute(lab.spare_uri, ("blockdev-snapshot-sync", target))
        if drive == "drive0":
            wait_for_more(lab, [lab.images["drive1"]], lab.sequence(image).iloc[0] + 10)
    first, second = lab.sequence(lab.images)
    assert first - second not in (0, 1)


def test_sequence_takes_one_path_several_or_a_mapping(lab: Lab) -> None:
    execute(lab.spare_uri, ("stop", {}))
    raw = lab.images["drive0"]
    expected = lab.sequence(lab.images)
    assert lab.sequence(raw).to_dict() == {raw: expected[raw]}
    assert lab.sequence(Path(raw)).to_dict() == {raw: expected[raw]}
    assert lab.sequence(iter(lab.images.values())).equals(expected)
    assert (expected.name, expected.index.name, str(expected.dtype)) == (
        "sequence",
        "file",
        "int64",
    )


def test_sequence_leaves_no_file_in_the_lab(lab: Lab) -> None:
    before = sorted(lab.directory.iterdir())
    lab.sequence(lab.images)
    assert sorted(lab.directory.iterdir()) == before


def test_two_labs_live_side_by_side(lab: Lab) -> None:
    with Lab() as other:
        assert other.directory != lab.directory
        assert other.uri != lab.uri
        assert other.pid != lab.pid
    assert is_running(lab.pid)
    assert lab.sequence(lab.images).min() >= 1


def test_eight_disks_are_found_and_written_to() -> None:
    with Lab(disks=8) as lab:
        assert len(lab.images) == 8
        assert lab.sequence(lab.images).min() >= 1


def test_one_disk_is_enough() -> None:
    with Lab(disks=1) as lab:
        assert lab.sequence(lab.images).index.to_list() == [str(lab.directory / "win2003.img")]


def test_a_monitor_by_tcp_listens_on_this_machine_only() -> None:
    with Lab(monitor="tcp") as lab:
        host, port = lab.uri.removeprefix("tcp:").split(":")
        assert host == "localhost"
        loopback = {"0100007F", "00000000000000000000000001000000"}
        tables = [Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6")]
        rows = [line.split() for table in tables for line in table.splitlines()[1:]]
        # State 0A is one that listens.
        local = [row[1].split(":") for row in rows if row[3] == "0A"]
        addresses = {address for address, number in local if int(number, 16) == int(port)}
        assert addresses
        assert addresses <= loopback


def test_a_port_that_was_taken_meanwhile_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = qemu.monitor_endpoint
    with Lab(monitor="tcp") as first:
        answers = iter([first.uri])
        monkeypatch.setattr(
            qemu, "monitor_endpoint", lambda *arguments: next(answers, None) or usual(*arguments)
        )
        with Lab(monitor="tcp") as second:
            assert second.uri != first.uri


def test_commas_in_the_directory_are_no_options(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="a,b=c ") as directory:
        monkeypatch.setattr(tempfile, "tempdir", directory)
        with Lab() as lab:
            assert lab.directory.parent == Path(directory)
            assert lab.sequence(lab.images).min() >= 1
        assert list(Path(directory).iterdir()) == []


def test_kvm_is_used_only_if_the_guest_boots_with_it() -> None:
    with Lab(accel="kvm") as lab:
        assert lab.accel in ("kvm", "tcg")
        (status,) = execute(lab.spare_uri, ("query-kvm", {}))
        assert status["return"]["enabled"] == (lab.accel == "kvm")
        assert lab.command[lab.command.index("-accel") + 1] == lab.accel
        before = lab.sequence(lab.images)
        wait_until(
            lambda: lab.sequence(lab.images).gt(before).all(), "larger numbers on both disks"
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "xen"}, 'no lab with backend=\'xen\': use "qmp" or "libvirt"'),
        ({"backend": "libvirt", "monitor": "tcp"}, "libvirt, which has QEMU's monitor for itself"),
        ({"monitor": "serial"}, 'use "unix" or "tcp"'),
        ({"accel": "hvf"}, 'use "tcg" or "kvm"'),
        ({"disks": 0}, "it has 1 to 8"),
        ({"disks": 9}, "it has 1 to 8"),
        ({"disks": "two"}, "it has 1 to 8"),
    ],
)
def test_an_option_that_the_lab_does_not_have_is_refused(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(SnapkitError, match=message):
        Lab(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("program", "package"),
    [("qemu-system-x86_64", "qemu-system-x86"), ("qemu-img", "qemu-utils")],
)
@pytest.mark.parametrize("backend", ["qmp", "libvirt"])
def test_a_missing_program_is_named_with_the_command_that_installs_it(
    program: str, package: str, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in {"qemu-system-x86_64", "qemu-img"} - {program}:
        (tmp_path / other).symlink_to(qemu.find_program(other))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SnapkitError, match=rf"^{program} is missing.*apt-get install {package}$"):
        Lab(backend=backend)


def test_its_text_and_html_have_no_addresses_and_say_its_state(lab: Lab) -> None:
    assert repr(lab) == "<Lab running: drive0 win2003.img, drive1 data.qcow2>"
    html = lab._repr_html_()
    assert "<caption>Lab: running</caption>" in html
    assert str(lab.directory) not in html
    lab.close()
    assert repr(lab) == "<Lab closed: drive0 win2003.img, drive1 data.qcow2>"


def test_connections_of_the_lab_are_closed_with_it(lab: Lab) -> None:
    machine = lab.connect()
    assert {"drive0", "drive1"} <= set(machine.devices().index)
    lab.close()
    assert not machine.connected


def test_a_connection_keeps_its_lab_alive() -> None:
    machine = Lab().connect()
    assert "drive0" in machine.devices().index
    machine.close()


def test_options_of_connect_are_passed_on(lab: Lab) -> None:
    with lab.connect(readonly=True) as machine:
        assert machine.readonly


def test_a_closed_lab_cannot_be_connected_to(lab: Lab) -> None:
    lab.close()
    with pytest.raises(ConnectError):
        lab.connect(timeout=1)


def test_a_snapshot_of_both_disks_is_of_one_instant(lab: Lab) -> None:
    with lab.connect() as machine:
        targets = {drive: str(lab.directory / f"{drive}.qcow2") for drive in lab.images}
        assert machine.snapshot(targets).ok
    first, second = lab.sequence(lab.images)
    assert first - second in (0, 1)
    for file in targets.values():
        command = ["qemu-img", "info", "-U", "--output=json", file]
        info = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        assert info["full-backing-filename"] in lab.images.values()
