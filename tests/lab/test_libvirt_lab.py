"""The lab as a libvirt domain: seen with virsh, by anybody who starts it, and gone with it."""

from __future__ import annotations

import grp
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from snapkit.backends import processes
from snapkit.errors import SnapkitError
from snapkit.lab import Lab, libvirtd
from tests.conftest import qemu_img, wait_until
from tests.lab.watch import children_of, has_ended, is_running, line_from, mentioning, parent_of
from tests.ordinary import NOBODY, ROOT, as_ordinary_user, is_root


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(backend="libvirt", timeout=60) as lab:
        yield lab


def virsh(lab: Lab, *arguments: str, input: str | None = None) -> str:
    """virsh as in a shell, with the address that the lab gives."""
    return subprocess.run(
        ["virsh", "--quiet", "-c", lab.uri, *arguments],
        check=True,
        capture_output=True,
        text=True,
        input=input,
    ).stdout.strip()


def test_virsh_sees_the_running_domain_and_its_disks(lab: Lab) -> None:
    assert lab.domain == "win2003"
    assert virsh(lab, "list", "--name") == lab.domain
    assert virsh(lab, "domstate", lab.domain) == "running"
    listed = [line.split() for line in virsh(lab, "domblklist", lab.domain).splitlines()]
    assert [entry for entry in listed if entry[0] != "fda"] == [
        ["vda", str(lab.directory / "win2003.img")],
        ["vdb", str(lab.directory / "data.qcow2")],
    ]
    assert dict(lab.images) == {name: file for name, file in listed if name != "fda"}


def test_the_disks_are_those_of_the_plain_lab(lab: Lab) -> None:
    formats = {
        target.attrib["dev"]: driver.attrib["type"]
        for disk in ET.fromstring(virsh(lab, "dumpxml", "win2003")).iter("disk")  # noqa: S314  libvirt's
        if (target := disk.find("target")) is not None
        and (driver := disk.find("driver")) is not None
    }
    assert formats == {"vda": "raw", "vdb": "qcow2", "fda": "raw"}
    for name in lab.images:
        information = virsh(lab, "domblkinfo", "win2003", name)
        assert re.search(rf"Capacity: +{64 << 20}\b", information)


def test_its_xml_is_what_the_domain_was_created_from(lab: Lab) -> None:
    assert lab.xml is not None
    assert (lab.directory / "win2003.xml").read_text() == lab.xml
    virsh(lab, "destroy", "win2003")
    assert virsh(lab, "list", "--all", "--name") == ""
    virsh(lab, "create", str(lab.directory / "win2003.xml"))
    assert virsh(lab, "list", "--name") == "win2003"


def test_the_process_id_and_the_command_line_are_those_of_qemu(lab: Lab) -> None:
    running = Path(f"/proc/{lab.pid}/cmdline").read_bytes().split(b"\0")[:-1]
    assert [part.decode() for part in running] == lab.command
    assert "guest=win2003,debug-threads=on" in lab.command
    assert lab.command[lab.command.index("-accel") + 1] == "tcg"


def test_the_guest_writes_growing_numbers_to_all_disks() -> None:
    with Lab(backend="libvirt", disks=8, timeout=60) as lab:
        assert list(lab.images) == [f"vd{letter}" for letter in "abcdefgh"]
        before = lab.sequence(lab.images)
        assert before.min() >= 1
        wait_until(lambda: lab.sequence(lab.images).gt(before).all(), "larger numbers")


def test_a_snapshot_by_virsh_is_of_one_instant(lab: Lab) -> None:
    virsh(
        lab,
        *("snapshot-create-as", "win2003", "one", "--disk-only", "--atomic"),
        *("--diskspec", f"vda,file={lab.directory}/w.snap"),
        *("--diskspec", f"vdb,file={lab.directory}/d.snap"),
    )
    assert virsh(lab, "snapshot-list", "win2003", "--name") == "one"
    overlays = [str(lab.directory / "w.snap"), str(lab.directory / "d.snap")]
    raw, qcow2 = lab.sequence(lab.images)
    assert raw - qcow2 in (0, 1)
    wait_until(lambda: lab.sequence(overlays).min() > raw, "numbers in the overlays")
    assert lab.sequence(lab.images).to_list() == [raw, qcow2]
    assert lab.images["vda"] in qemu_img("info", "-U", overlays[0])


def test_virsh_and_snapkit_are_connected_at_the_same_time(lab: Lab) -> None:
    with lab.connect() as vm:
        targets = {name: str(lab.directory / f"{name}.snap") for name in lab.images}
        assert vm.snapshot(targets).ok
        listed = virsh(lab, "domblklist", "win2003")
        assert set(targets.values()) <= set(listed.split())
        virsh(lab, "suspend", "win2003")
        assert vm.connected
    first, second = lab.sequence(lab.images)
    assert first - second in (0, 1)


def test_connections_of_the_lab_are_closed_with_it(lab: Lab) -> None:
    machine = lab.connect()
    assert list(lab.images) == list(machine.devices().query("snapshotable").index)
    lab.close()
    assert not machine.connected


def test_nobody_else_can_get_into_the_directory(lab: Lab) -> None:
    owner = lab.directory.stat()
    assert owner.st_uid == os.geteuid()
    qemu = Path(f"/proc/{lab.pid}").stat()
    if is_root():
        # A group that nobody is in: not even other processes of the same user get in.
        assert stat.S_IMODE(owner.st_mode) == 0o770
        assert qemu.st_uid == NOBODY
        assert processes.process(lab.pid).groups == frozenset((owner.st_gid,))
        assert owner.st_gid not in {group.gr_gid for group in grp.getgrall()}
        done = as_ordinary_user("os.listdir(sys.argv[1])", str(lab.directory))
        assert "PermissionError" in done.stderr
    else:
        assert stat.S_IMODE(owner.st_mode) == 0o700
        assert qemu.st_uid == owner.st_uid


def test_two_labs_live_side_by_side(lab: Lab) -> None:
    with Lab(backend="libvirt", timeout=60) as other:
        assert other.uri != lab.uri
        assert other.pid != lab.pid
        virsh(other, "suspend", "win2003")
        assert virsh(lab, "domstate", "win2003") == "running"
    assert is_running(lab.pid)
    assert virsh(lab, "list", "--name") == "win2003"


def test_close_ends_the_daemon_and_every_process_of_it(lab: Lab) -> None:
    keeper = parent_of(lab.pid)
    processes = [keeper, *children_of(keeper)]
    assert lab.pid in processes
    assert len(processes) == 3
    lab.close()
    assert not any(map(is_running, processes))
    assert not lab.directory.exists()


def test_a_domain_that_was_started_by_hand_goes_with_the_lab(lab: Lab) -> None:
    second = (lab.xml or "").replace("win2003</name>", "second</name>")
    for image in lab.images.values():
        copy = f"{image}.copy"
        second = second.replace(image, copy)
        shutil.copyfile(image, copy)
        shutil.copystat(image, copy)
        os.chown(copy, Path(image).stat().st_uid, Path(image).stat().st_gid)
    virsh(lab, "create", "/dev/stdin", input=second)
    keeper = parent_of(lab.pid)
    assert len(children_of(keeper)) == 3
    processes = children_of(keeper)
    lab.close()
    assert not any(map(is_running, processes))


def test_the_domain_ends_with_a_lab_whose_keeper_was_killed(lab: Lab) -> None:
    keeper = parent_of(lab.pid)
    processes = children_of(keeper)
    os.kill(keeper, signal.SIGKILL)
    lab.close()
    for process in processes:
        has_ended(process)
    assert not lab.directory.exists()


STARTING = """
from snapkit.lab import Lab, libvirtd
usual = libvirtd.Libvirtd.virsh
def virsh(self, *arguments, **how):
    print(self.pid, self.directory, flush=True)
    return usual(self, *arguments, **how)
libvirtd.Libvirtd.virsh = virsh
Lab(backend="libvirt", timeout=60)
"""


def test_a_lab_whose_process_is_killed_while_libvirt_examines_qemu_leaves_nothing() -> None:
    command = [sys.executable, "-c", STARTING]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        daemon, directory = line_from(process.stdout.fileno()).split()
        wait_until(lambda: len(mentioning(directory)) > 2, "QEMU, started to be examined")
        keeper = parent_of(int(daemon))
        process.kill()
    has_ended(keeper)
    has_ended(int(daemon))
    wait_until(lambda: not mentioning(directory), "the end of QEMU and virsh")
    assert not Path(directory).exists()


def test_a_destroyed_domain_is_noticed(lab: Lab) -> None:
    assert repr(lab) == "<Lab running: vda win2003.img, vdb data.qcow2>"
    virsh(lab, "destroy", "win2003")
    assert repr(lab).startswith("<Lab QEMU has ended:")
    assert '<th scope="col">target</th>' in lab._repr_html_()


def test_a_domain_that_was_created_again_is_the_lab_s(lab: Lab) -> None:
    before = lab.pid
    virsh(lab, "destroy", "win2003")
    virsh(lab, "create", str(lab.directory / "win2003.xml"))
    assert repr(lab).startswith("<Lab running:")
    assert lab.pid in children_of(parent_of(lab.pid))
    assert lab.pid != before
    os.kill(lab.pid, signal.SIGKILL)
    wait_until(lambda: repr(lab).startswith("<Lab QEMU has ended:"), "the end is noticed")


def test_what_libvirt_says_when_the_domain_does_not_start_reaches_the_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual = libvirtd.Libvirtd.create

    def wrong(self: libvirtd.Libvirtd, xml: str, **how: float) -> int:
        return usual(self, xml.replace('machine="pc"', 'machine="none-such"'), **how)

    monkeypatch.setattr(libvirtd.Libvirtd, "create", wrong)
    with pytest.raises(SnapkitError, match="virsh create: error: Failed to create domain"):
        Lab(backend="libvirt", timeout=60)


@pytest.mark.parametrize(
    ("program", "package"),
    [
        ("libvirtd", "libvirt-daemon libvirt-daemon-driver-qemu"),
        ("virsh", "libvirt-clients"),
    ],
)
def test_a_missing_program_of_libvirt_is_named_with_the_command_that_installs_it(
    program: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = shutil.which
    monkeypatch.setattr(shutil, "which", lambda x, **how: None if x == program else usual(x, **how))
    with pytest.raises(SnapkitError, match=rf"^{program} is missing.*apt-get install {package}$"):
        Lab(backend="libvirt")


# What root has installed, an ordinary user may not be able to read: all is loaded before.
ORDINARY = """
import os, sys
import numpy, pandas, snapkit.lab.sequence
from snapkit.lab import Lab
home, python, root = sys.argv[1:]
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
    sys.executable = python
os.environ.update(HOME=home, XDG_RUNTIME_DIR=home, TMPDIR="/tmp")
with Lab(backend="libvirt", timeout=60) as lab:
    print(os.getuid(), os.stat(lab.directory).st_uid, os.stat(f"/proc/{lab.pid}").st_uid)
    print(lab.sequence(lab.images).min() >= 1)
    os.system(f"virsh --quiet -c '{lab.uri}' list --name")
print(lab.directory.exists(), os.path.exists(f"/proc/{lab.pid}"))
print(os.listdir(home))
"""


def test_an_ordinary_user_has_a_lab_too_and_nothing_is_written_at_home() -> None:
    home = Path("/tmp") / f"home-{os.getpid()}"  # noqa: S108  another user has to get at it
    home.mkdir()
    try:
        if is_root():
            os.chown(home, NOBODY, -1)
        done = subprocess.run(
            [sys.executable, "-u", "-c", ORDINARY, str(home), "/usr/bin/python3", str(ROOT)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        user = str(NOBODY if is_root() else os.geteuid())
        assert done.stdout.split() == [*(3 * [user]), *"True win2003 False False []".split()]
    finally:
        home.rmdir()


def test_nothing_of_the_users_own_libvirt_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    system = sorted(Path("/run").glob("libvirt/**"))
    with Lab(backend="libvirt", timeout=60) as lab:
        virsh(lab, "snapshot-create-as", "win2003", "one", "--disk-only", "--atomic")
        opened = {
            link
            for pid in children_of(parent_of(lab.pid))
            for entry in Path(f"/proc/{pid}/fd").iterdir()
            if (link := os.readlink(entry)).startswith(("/run", "/var", "/etc", "/home"))
        }
    assert opened == set()
    assert list(tmp_path.iterdir()) == []
    assert sorted(Path("/run").glob("libvirt/**")) == system
