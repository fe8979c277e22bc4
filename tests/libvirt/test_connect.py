"""Finding a domain, and what is said where there is none."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import snapkit
from snapkit.backends import libvirt_hosts
from snapkit.errors import ConnectError
from tests.conftest import StartQemu
from tests.libvirt.world import Seed
from tests.libvirtd import PrivateLibvirt, domain_xml


def test_a_domain_is_found_by_name_uuid_and_id(seed: Seed) -> None:
    uuid = seed.daemon.virsh("domuuid", seed.name)
    number = seed.daemon.virsh("domid", seed.name)
    for wanted in (seed.name, uuid, uuid.upper(), number, int(number)):
        with snapkit.connect(seed.uri, wanted) as vm:
            assert (vm.domain, vm.name, vm.uri) == (seed.name, seed.name, seed.uri)
            assert list(vm.devices().index) == ["vda", "vdb"]


def test_without_a_name_the_only_domain_that_runs_is_taken(seed: Seed) -> None:
    seed.daemon.define(domain_xml(name="asleep"))
    with snapkit.connect(seed.uri) as vm:
        assert vm.domain == seed.name


def test_of_several_domains_one_has_to_be_named(seed: Seed) -> None:
    seed.daemon.paused(name="other")
    with pytest.raises(ConnectError, match=r"Say which domain.*These run: other, win2003"):
        snapkit.connect(seed.uri)


def test_where_no_domain_runs_that_is_said(libvirt: PrivateLibvirt) -> None:
    with pytest.raises(ConnectError, match="No domain runs there"):
        snapkit.connect(libvirt.uri)


@pytest.mark.parametrize("wanted", ["nobody", "7777", "12345678-1234-1234-1234-123456789abc"])
def test_a_domain_that_is_not_there_is_said_with_those_that_are(seed: Seed, wanted: str) -> None:
    with pytest.raises(ConnectError, match=f"no domain '{wanted}'.*These run: win2003"):
        snapkit.connect(seed.uri, wanted)


def test_a_domain_that_does_not_run_is_said(seed: Seed) -> None:
    seed.daemon.define(domain_xml(name="asleep"))
    with pytest.raises(ConnectError, match="'asleep' does not run: start it"):
        snapkit.connect(seed.uri, "asleep")


def test_where_nothing_listens_the_cure_is_said(directory: Path) -> None:
    uri = f"qemu+unix:///session?socket={directory}/nothing"
    with pytest.raises(ConnectError, match=r"No such file.*start libvirt's daemon that listens"):
        snapkit.connect(uri, "vm")


@pytest.mark.parametrize("uri", ["nonsense:///", "xen:///system", "http://host/vm", "lxc+ssh://h/"])
def test_an_address_of_another_driver_is_refused_and_nobody_is_asked(uri: str) -> None:
    with pytest.raises(ConnectError, match=r"no address of QEMU's domains\. Write qemu:///"):
        snapkit.connect(uri, "vm")


@pytest.mark.parametrize(
    ("uri", "said", "cure"),
    [
        ("qemu+smoke://h/system", "transport in URL not recognised", r"qemu\+ssh://HOST"),
        ("qemu+unix://far/system", "remote server 'far'", "leave the host out"),
        ("qemu+ext:///system", "command is required", "command=PROGRAM"),
        ("qemu+ext:///system?command={here}/none", "cannot execute", "install that program"),
        ("qemu+unix:///session?socket=/" + 120 * "x", "too long", "a short name"),
        ("qemu+tls://127.0.0.1/system?pkipath={here}", "CA certificate", "pkipath=DIRECTORY"),
        ("qemu:///embed", "Missing URI parameter 'root'", "root=/a/directory"),
        ("qemu:///embed?root=here", "must be absolute", "root=/a/directory"),
    ],
)
def test_an_address_that_cannot_work_is_said_with_how_it_could(
    directory: Path, uri: str, said: str, cure: str
) -> None:
    with pytest.raises(ConnectError, match=f"(?s){said}.*To cure it, .*{cure}"):
        snapkit.connect(uri.format(here=directory), "vm")


def test_a_port_where_nobody_listens_is_said_with_what_to_start() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        uri = f"qemu+tcp://127.0.0.1:{taken.getsockname()[1]}/system"
        with pytest.raises(ConnectError, match=r"refused.*have a libvirt daemon listen there"):
            snapkit.connect(uri, "vm")


@pytest.mark.parametrize(
    ("said", "cure"),
    [
        ("Host key verification failed.", "look at its key"),
        ("me@far: Permission denied (publickey,password).", "nobody is asked for a password"),
        ("ssh: connect to host far port 22: No route to host", "look at the host's name"),
        ("bash: line 1: virt-ssh-helper: command not found", "with its virt-ssh-helper"),
        ("", "whether libvirt runs there"),
    ],
)
def test_what_ssh_says_is_told_with_what_to_do(directory: Path, said: str, cure: str) -> None:
    ssh = program(directory, f"import sys; print({said!r}, file=sys.stderr); sys.exit(255)")
    with pytest.raises(ConnectError, match=f"{re.escape(said)}.*To cure it, .*{cure}"):
        snapkit.connect(f"qemu+ssh://far/system?command={ssh}", "vm")


def program(directory: Path, code: str) -> Path:
    """A program in Python."""
    file = directory / "program"
    file.write_text(f"#!{sys.executable}\n{code}\n")
    file.chmod(0o755)
    return file


TUNNEL = """
import os, select, socket, sys
with open({log!r}, "a") as log:
    print(*sys.argv[1:], file=log)
server = socket.socket(socket.AF_UNIX)
server.connect({path!r})
ends = {{0: server.fileno(), server.fileno(): 1}}
while True:
    for end in select.select(ends, [], [])[0]:
        data = os.read(end, 65536)
        if not data:
            sys.exit()
        while data:
            data = data[os.write(ends[end], data):]
"""
"""What ssh does: the libvirt at the other end is that of the test."""


def test_a_libvirt_at_the_other_end_of_ssh_works_and_its_files_are_not_looked_at(
    seed: Seed, directory: Path
) -> None:
    log = directory / "ssh.log"
    path = seed.uri.partition("socket=")[2]
    ssh = program(directory, TUNNEL.format(log=str(log), path=path))
    uri = f"qemu+ssh://me@far/session?socket=/r/s&command={ssh}"
    with snapkit.connect(uri, seed.name) as vm:
        assert not vm.local
        assert "another host's libvirt" in vm.locality
        assert vm.devices()["file"].to_dict() == {"vda": seed.raw, "vdb": seed.data}
        plan = vm.plan(seed.targets)
        assert {problem.check for problem in plan.problems} == {"visible"}
        outcome = plan.run()
        assert outcome.ok
    assert seed.disks() == seed.targets
    called = log.read_text()
    assert called.startswith("-l me ")
    assert "-- far " in called
    # Nobody could answer a question.
    assert "BatchMode=yes" in called


def test_without_libvirt_what_to_install_is_said_and_qmp_still_works(
    start_qemu: StartQemu,
) -> None:
    script = """
import sys
sys.modules["libvirt"] = None
import snapkit
try:
    snapkit.connect("qemu:///system", "vm")
except snapkit.ConnectError as err:
    print(err)
assert "libvirt" not in set(snapkit.discover()["backend"])
with snapkit.connect(sys.argv[1]) as vm:
    print(len(vm.devices()))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, start_qemu().uri],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    said, count = done.stdout.splitlines()
    assert "pip install 'snapkit[libvirt]'" in said
    assert "libvirt-dev" in said
    assert count == "0"


def test_what_is_said_about_the_files_overrules(seed: Seed) -> None:
    with snapkit.connect(seed.uri, seed.name, local=False) as vm:
        assert not vm.local
        assert vm.layers()["header_backing_file"].isna().all()


def test_discover_lists_the_domains_that_run(seed: Seed, monkeypatch: pytest.MonkeyPatch) -> None:
    own = f"{seed.directory}/libvirt/run/libvirt/libvirt-sock"
    found = [path for path in libvirt_hosts.sockets() if path.startswith(str(seed.directory))]
    assert len(found) == 1, (found, own)
    monkeypatch.setattr(libvirt_hosts, "sockets", lambda: found)
    seed.daemon.define(domain_xml(name="asleep"))
    rows = snapkit.discover()
    row = rows[rows["backend"] == "libvirt"].iloc[0]
    assert (row["domain"], row["name"], row["state"]) == (seed.name, seed.name, "paused")
    assert (row["pid"], row["program"]) == (seed.pid(), "qemu-system-x86_64")
    with snapkit.connect(row["uri"], row["domain"]) as vm:
        assert list(vm.devices().index) == ["vda", "vdb"]


def test_a_socket_on_which_nobody_listens_is_not_connected_to(directory: Path) -> None:
    path = directory / "libvirt-sock"
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
        assert str(path) not in libvirt_hosts.sockets()


def test_the_user_s_own_daemon_has_its_short_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    monkeypatch.setattr(os, "geteuid", lambda: 7)
    assert libvirt_hosts.address("/run/user/7/libvirt/libvirt-sock") == "qemu:///session"
    assert libvirt_hosts.address("/run/libvirt/virtqemud-sock") == "qemu:///system"
    assert libvirt_hosts.address("/run/other/libvirt-sock").startswith("qemu+unix:///session?")


def test_a_domain_with_a_name_like_a_number_is_itself(seed: Seed) -> None:
    seed.daemon.paused(name="1")
    with snapkit.connect(seed.uri, "1") as vm:
        assert (vm.domain, len(vm.devices())) == ("1", 0)


@pytest.mark.parametrize("name", ["no\0such", "no\udcff", "4294967297", 30 * "9", "\u0663", 99])
def test_a_name_that_no_domain_can_have_is_a_domain_that_there_is_not(
    seed: Seed, name: str | int
) -> None:
    with pytest.raises(ConnectError, match=r"There is no domain .*These run: win2003"):
        snapkit.connect(seed.uri, name)
