"""A domain, from the process of an ordinary user."""

from __future__ import annotations

import grp
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapkit.backends import processes
from tests.conftest import chain_of, create_image, wait_until
from tests.libvirt.world import Seed
from tests.libvirtd import domain_xml
from tests.ordinary import is_root

ROOT = Path(__file__).parents[2]

# Everything is loaded first: what root installed, an ordinary user may not be able to read.
SCRIPT = """
import os, sys
import libvirt, libvirt_qemu, pandas
import snapkit, snapkit.plan, snapkit.tables, snapkit.vm, snapkit.recovery
import snapkit.backends.libvirt
uri, domain, user, group, shared, home, *files = sys.argv[1:]
if os.geteuid() == 0:
    os.setgroups([int(shared)])
    os.setgid(int(group))
    os.setuid(int(user))
os.environ["SNAPKIT_JOURNAL"] = f"{home}/journal.sqlite"
targets = dict(zip(("vda", "vdb"), files))
with snapkit.connect(uri, domain) as vm:
    print(vm.local)
    outcome = vm.snapshot(targets)
    print(outcome.ok, *outcome.findings)
    print(*vm.devices()["file"])
    print(len(vm.snapshots()))
"""


def run_as(seed: Seed, user: pwd.struct_passwd, home: Path) -> list[str]:
    # The directory of a daemon that root has started is open to a group of its own.
    shared = os.stat(seed.directory).st_gid
    other = next(x.gr_gid for x in grp.getgrall() if x.gr_gid not in {0, user.pw_gid})
    numbers = [user.pw_uid, other, shared]
    words = [seed.uri, seed.name, *map(str, numbers), str(home), *seed.targets.values()]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_who_may_not_look_at_qemu_s_process_takes_a_snapshot_all_the_same(seed: Seed) -> None:
    owner = pwd.getpwuid(os.stat(seed.raw).st_uid)
    home = seed.directory / "home"
    home.mkdir()
    seed.daemon.give(home)
    local, outcome, files, remembered = run_as(seed, owner, home)
    # The kernel lets nobody look who is in another group than the process.
    assert local == str(not is_root())
    assert outcome.startswith("True")
    assert ("was not opened offline" in outcome) == is_root()
    assert (files, remembered) == (" ".join(seed.targets.values()), "1")
    assert seed.disks() == seed.targets
    assert {os.stat(file).st_uid for file in seed.targets.values()} == {owner.pw_uid}


# The directory has a home, the settings of libvirt's, and the images of a domain.
OWN = """
import os, sys
import libvirt, pandas
import snapkit, snapkit.discovery, snapkit.plan, snapkit.tables, snapkit.vm, snapkit.recovery
import snapkit.backends.libvirt
uri, home, user, group, xml = sys.argv[1:]
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(int(group))
    os.setuid(int(user))
os.chdir(home)
try:
    snapkit.connect(uri)
except snapkit.ConnectError as err:
    print("No domain runs there: start one" in str(err))
connection = libvirt.open(uri)
domain = connection.createXML(xml, libvirt.VIR_DOMAIN_START_PAUSED)
try:
    found = snapkit.discover()
    print(*found[found["domain"] == "own"]["uri"])
    with snapkit.connect(uri, "own") as vm:
        print(vm.local)
        outcome = vm.snapshot({"vda": f"{home}/w.snap", "vdb": f"{home}/d.snap"})
        print(outcome.ok, *outcome.findings)
        print(*vm.devices()["file"])
        print(*vm.snapshots().index)
finally:
    domain.destroy()
    connection.close()
"""


@pytest.fixture
def home(directory: Path) -> Iterator[Path]:
    """A home with settings of libvirt's, of an ordinary user. A daemon that is started there ends.

    The daemon of a session is started by libvirt itself, and would stay for a while.
    """
    for place in ("etc", "config/libvirt", "run"):
        (directory / place).mkdir(parents=True)
    for file in ("etc/qemu.conf", "config/libvirt/qemu.conf"):
        (directory / file).write_text('stdio_handler = "file"\n')
    create_image(directory / "win2003.img", "4M", "raw")
    create_image(directory / "data.qcow2", "4M")
    yield directory
    daemon = directory / "run" / "libvirt" / "libvirtd.pid"
    if daemon.exists():
        pid = int(daemon.read_text())
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: processes.has_ended(pid), "the session's libvirtd ends")


@pytest.mark.parametrize("form", ["session", "embed"])
def test_libvirt_in_the_process_or_in_the_session_needs_no_rights(home: Path, form: str) -> None:
    user = pwd.getpwnam("nobody") if is_root() else pwd.getpwuid(os.geteuid())
    if is_root():
        for path in (home, *home.rglob("*")):
            os.chown(path, user.pw_uid, user.pw_gid)
    uri = "qemu:///session" if form == "session" else f"qemu:///embed?root={home}"
    images = (str(home / "win2003.img"), str(home / "data.qcow2"))
    words = [uri, home, user.pw_uid, user.pw_gid, domain_xml(*images, name="own")]
    own = {"HOME": "", "XDG_CONFIG_HOME": "config", "XDG_RUNTIME_DIR": "run"}
    own |= {"XDG_CACHE_HOME": "cache", "XDG_DATA_HOME": "data"}
    settings = {name: str(home / place) for name, place in own.items()}
    journal = {"SNAPKIT_JOURNAL": str(home / "journal.sqlite")}
    done = subprocess.run(
        [sys.executable, "-c", OWN, *map(str, words)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PATH": f"{os.environ['PATH']}:/usr/sbin", **settings, **journal},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told, offered, local, outcome, files, remembered = done.stdout.splitlines()
    # A driver inside of the process has no socket that anybody else could connect to.
    assert (told, offered) == ("True", uri if form == "session" else "")
    assert (local, outcome.split()[0], remembered) == ("True", "True", "snap1")
    assert files == f"{home}/w.snap {home}/d.snap"
    for overlay, base in zip(files.split(), images, strict=True):
        assert [layer["filename"] for layer in chain_of(overlay)] == [overlay, base]
        assert os.stat(overlay).st_uid == user.pw_uid
