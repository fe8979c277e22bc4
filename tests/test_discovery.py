"""``snapkit.discover()``: the table of what there is to connect to."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import snapkit
from snapkit.backends import host, libvirt_hosts
from tests.conftest import Process, StartQemu, wait_until
from tests.libvirt_wire import LibvirtWire
from tests.libvirtd import PrivateLibvirt, domain_xml, private_libvirt
from tests.outside import stopped

COLUMNS = ["uri", "domain", "name", "state", "backend", "pid", "program", "user"]
LISTED, STATS = "CONNECT_LIST_ALL_DOMAINS", "CONNECT_GET_ALL_DOMAIN_STATS"
PROCEDURES = {273: LISTED, 344: STATS}
"""Two calls of ``remote_protocol.x``: the first has to be followed by one for each domain."""


def own_path(daemon: PrivateLibvirt) -> str:
    return daemon.uri.partition("socket=")[2]


def domains_of(daemon: PrivateLibvirt) -> pd.DataFrame:
    """The rows of one daemon's domains."""
    found = snapkit.discover()
    return found[found["uri"] == daemon.uri].set_index("domain")


class Calls(LibvirtWire):
    """The wire, with every call that is made over it by its number."""

    def __init__(self, socket_path: str, directory: Path) -> None:
        self.calls: list[int] = []
        super().__init__(socket_path, directory)

    def _pass_on(
        self, message: Any, raw: bytes, client: socket.socket, server: socket.socket
    ) -> None:
        if message is not None:
            self.calls.append(message[0])
        super()._pass_on(message, raw, client, server)

    @property
    def named(self) -> list[str]:
        return [PROCEDURES[number] for number in self.calls if number in PROCEDURES]


@pytest.fixture
def calls(
    libvirt: PrivateLibvirt, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Calls]:
    """Puts a wire that counts calls in front of the daemon: that is then the only one here."""

    def tap() -> Calls:
        wire = Calls(own_path(libvirt), directory)
        libvirt.give(wire.path)
        monkeypatch.setattr(libvirt_hosts, "sockets", lambda: [wire.path])
        return wire

    return tap


def test_a_monitor_is_a_row_that_connect_understands(seed_qemu: Process) -> None:
    found = snapkit.discover()
    assert list(found.columns) == COLUMNS
    row = found[found["uri"] == seed_qemu.uri].iloc[0]
    assert row["domain"] is None
    assert (row["state"], row["backend"], row["pid"]) == ("free", "qmp", seed_qemu.pid)
    assert row["program"] == "qemu-system-x86_64"
    with snapkit.connect(row["uri"], row["domain"]) as vm:
        assert list(vm.devices().index) == ["drive0", "drive1"]
        after = snapkit.discover().set_index("uri")
        assert after.loc[seed_qemu.uri, "state"] == "in use"


def test_a_storage_daemon_is_a_row_too(start_daemon: StartQemu) -> None:
    daemon = start_daemon()
    found = snapkit.discover().set_index("uri")
    assert found.loc[daemon.uri, "program"] == "qemu-storage-daemon"


def test_a_table_without_rows_has_the_same_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "monitors", list)
    monkeypatch.setattr(libvirt_hosts, "listening", list)
    found = snapkit.discover()
    assert found.empty
    assert list(found.columns) == COLUMNS
    assert isinstance(found.index, pd.RangeIndex)


def test_a_domain_that_runs_is_a_row_that_connect_understands(libvirt: PrivateLibvirt) -> None:
    libvirt.paused(libvirt.image("disk.img", "raw", "4M"), name="a b")
    libvirt.define(domain_xml(name="asleep"))
    found = domains_of(libvirt)
    assert list(found.index) == ["a b"]
    row = found.loc["a b"]
    assert (row["name"], row["state"], row["backend"]) == ("a b", "paused", "libvirt")
    assert row["pid"] == libvirt.qemu_pid("a b")
    assert row["user"] == Path(f"/proc/{row['pid']}").owner()
    with snapkit.connect(row["uri"], "a b") as vm:
        assert list(vm.devices().index) == ["vda"]
    libvirt.virsh("resume", "a b")
    assert domains_of(libvirt).loc["a b", "state"] == "running"
    libvirt.virsh("destroy", "a b")
    assert domains_of(libvirt).empty


def test_the_monitor_that_libvirt_holds_is_no_row_beside_its_domain(
    libvirt: PrivateLibvirt, monkeypatch: pytest.MonkeyPatch
) -> None:
    libvirt.paused(name="vm")
    pid = libvirt.qemu_pid("vm")
    found = snapkit.discover()
    assert list(found[found["pid"] == pid]["backend"]) == ["libvirt"]
    monkeypatch.setattr(libvirt_hosts, "listening", list)
    found = snapkit.discover()
    assert list(found[found["pid"] == pid]["backend"]) == ["qmp"]


def test_200_domains_are_listed_with_as_many_calls_as_one(
    libvirt: PrivateLibvirt, calls: Callable[[], Calls], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {}
    for count in (1, 200):
        wire, host_of = calls(), many(libvirt, count)
        monkeypatch.setattr(
            libvirt_hosts, "_exact", lambda path, file=host_of: f"test+unix://{file}?socket={path}"
        )
        found = snapkit.discover()
        wire.close()
        listed = found[found["backend"] == "libvirt"]
        assert list(listed["domain"]) == [f"vm{number:03}" for number in range(count)]
        assert set(listed["state"]) == {"running"}
        assert wire.named == [STATS]
        assert wire.connections == 1
        made[count] = wire.calls
    assert made[200] == made[1]


def many(libvirt: PrivateLibvirt, count: int) -> str:
    """The file of a host of libvirt's own test driver on which so many domains run."""
    file = libvirt.directory / f"{count}.xml"
    rows = "".join(
        f"<domain type='test'><name>vm{number:03}</name><memory>1024</memory>"
        "<os><type>hvm</type></os></domain>"
        for number in range(count)
    )
    file.write_text(f"<node>{rows}</node>")
    libvirt.give(file)
    return str(file)


def test_qemu_s_own_domains_are_listed_with_one_call_too(
    libvirt: PrivateLibvirt, calls: Callable[[], Calls]
) -> None:
    names = [libvirt.paused(name=f"vm{number}") for number in range(3)]
    wire = calls()
    found = snapkit.discover()
    wire.close()
    assert list(found[found["backend"] == "libvirt"]["domain"]) == names
    assert wire.named == [STATS]
    assert wire.changes == []


def test_a_daemon_that_is_stuck_is_left_out_and_holds_nothing_up(libvirt: PrivateLibvirt) -> None:
    with private_libvirt() as other:
        for daemon in (libvirt, other):
            daemon.paused(name="vm")
        with stopped(other.pid):
            assert list(domains_of(libvirt).index) == ["vm"]
            assert domains_of(other).empty
        wait_until(lambda: not domains_of(other).empty, "it answers again")


def test_no_daemon_is_started(libvirt: PrivateLibvirt, directory: Path) -> None:
    # Another one of the same user runs. So systemd holds a socket until somebody connects.
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(directory / "libvirt-sock"))
        libvirt.give(directory / "libvirt-sock")
        server.listen()
        server.setblocking(False)
        assert str(directory / "libvirt-sock") in libvirt_hosts.listening()
        snapkit.discover()
        with pytest.raises(BlockingIOError):
            server.accept()


def test_nothing_is_asked_of_a_libvirt_that_is_not_installed(
    libvirt: PrivateLibvirt, monkeypatch: pytest.MonkeyPatch
) -> None:
    libvirt.paused(name="vm")
    monkeypatch.setitem(sys.modules, "libvirt", None)
    assert domains_of(libvirt).empty


def test_where_there_is_a_socket_for_readers_that_one_is_used(
    libvirt: PrivateLibvirt, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    libvirt.paused(name="vm")
    usual = directory / "libvirt-sock"
    usual.symlink_to(own_path(libvirt))
    monkeypatch.setattr(libvirt_hosts, "listening", lambda: [str(usual)])
    readers = Calls(own_path(libvirt), directory)
    shutil.move(readers.path, f"{usual}-ro")
    Path(readers.path).touch()
    found = snapkit.discover()
    readers.close()
    (row,) = found[found["backend"] == "libvirt"].to_dict("records")
    assert readers.named == [STATS]
    assert row["uri"].endswith(f"?socket={usual}")
    with snapkit.connect(row["uri"], row["domain"]) as vm:
        assert vm.name == "vm"
