"""Finding a domain, and what is said where there is none."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import snapkit
from snapkit.backends import libvirt_hosts
from snapkit.errors import ConnectError, PlanError
from tests.conftest import StartQemu
from tests.libvirt.world import Seed
from tests.libvirtd import PrivateLibvirt, domain_xml


def test_a_domain_is_found_by_name_uuid_and_id(seed: Seed) -> None:
    uuid = seed.daemon.virsh("domuuid", seed.name)
    number = seed.daemon.virsh("domid", seed.name)
    for wanted in (seed.name, uuid, uuid.upper(), number):
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
    with pytest.raises(ConnectError, match=r"No such file.*start libvirt's daemon"):
        snapkit.connect(uri, "vm")


def test_an_address_of_no_driver_is_refused() -> None:
    with pytest.raises(ConnectError, match="There is no connection to nonsense:///"):
        snapkit.connect("nonsense:///", "vm")


def test_who_does_not_answer_is_given_up_in_time(directory: Path) -> None:
    path = f"{directory}/silent"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(path)
        silent.listen()
        with pytest.raises(ConnectError, match=r"within 0\.3 s"):
            snapkit.connect(f"qemu+unix:///session?socket={path}", "vm", timeout=0.3)


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


def test_qemu_s_process_proves_that_its_files_are_this_host_s(
    seed: Seed, vm: snapkit.VirtualMachine
) -> None:
    assert vm.local
    assert vm.locality.startswith(f"QEMU (pid {seed.pid()}) on this host has ")


def test_what_is_said_about_the_files_overrules(seed: Seed) -> None:
    with snapkit.connect(seed.uri, seed.name, local=False) as vm:
        assert not vm.local
        assert vm.layers()["header_backing_file"].isna().all()


def test_looking_needs_no_right_to_write_and_a_read_only_connection_refuses(
    seed: Seed,
) -> None:
    with snapkit.connect(seed.uri, seed.name, readonly=True) as vm:
        plan = vm.plan(seed.targets)
        assert plan.ok
        with pytest.raises(PlanError, match="read-only"):
            plan.run()
    assert seed.disks() == {"vda": seed.raw, "vdb": seed.data}


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


def test_a_forked_process_leaves_the_connection_to_its_parent(
    seed: Seed, vm: snapkit.VirtualMachine
) -> None:
    script = """
import gc, os, sys, warnings
import snapkit
warnings.simplefilter("ignore")
vm = snapkit.connect(*sys.argv[1:])
child = os.fork()
if child == 0:
    connected = vm.connected
    del vm
    gc.collect()
    sys.exit(int(connected))
print(os.waitpid(child, 0)[1], vm.connected, len(vm.devices()))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, seed.uri, seed.name],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout == "0 True 2\n"
