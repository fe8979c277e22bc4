"""What is found out about the programs of this host, without connecting to them."""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from snapkit.backends import host
from snapkit.backends.host import Monitor

T = TypeVar("T")
NOBODY = 65534
TIME_LIMIT = 20.0


class Programs:
    """Starts QEMU programs and waits until their monitors listen."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.running: list[subprocess.Popen[bytes]] = []
        self.cleanup = contextlib.ExitStack()

    def qemu(self, *arguments: str, **how: object) -> int:
        words = ["qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none", "-S"]
        ready = [
            "-chardev",
            "socket,id=ready,path=ready.sock",
            "-mon",
            "chardev=ready,mode=control",
        ]
        return self._start([*words, *arguments, *ready], **how)

    def storage_daemon(self, *arguments: str) -> int:
        ready = ["--chardev", "socket,id=ready,path=ready.sock", "--monitor", "chardev=ready"]
        return self._start(["qemu-storage-daemon", *arguments, *ready])

    def _start(self, words: list[str], **how: object) -> int:
        # The program calls back when all that it listens on is there.
        path = self.directory / "ready.sock"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as ready, at(self.directory):
            ready.bind("ready.sock")
            ready.listen()
            ready.settimeout(TIME_LIMIT)
            path.chmod(0o777)
            process = subprocess.Popen(words, cwd=self.directory, **how)  # type: ignore[call-overload]
            self.running.append(process)
            connection, _ = ready.accept()
        self.cleanup.callback(connection.close)
        connection.settimeout(TIME_LIMIT)
        assert b"QMP" in connection.recv(4096)
        return int(process.pid)

    def close(self) -> None:
        self.cleanup.close()
        for process in self.running:
            process.kill()
            process.wait(TIME_LIMIT)


@contextlib.contextmanager
def at(directory: Path) -> Iterator[None]:
    """Relative names keep socket paths short."""
    before = os.getcwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.fixture
def programs(directory: Path) -> Iterator[Programs]:
    started = Programs(directory)
    yield started
    started.close()


def greeted(path: Path) -> socket.socket:
    """A client that has the monitor: its greeting has come."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(TIME_LIMIT)
    client.connect(str(path))
    assert b"QMP" in client.recv(4096)
    return client


def monitors_of(pid: int) -> list[Monitor]:
    return [monitor for monitor in host.monitors() if monitor.pid == pid]


def only_monitor(pid: int) -> Monitor:
    (monitor,) = monitors_of(pid)
    return monitor


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def as_ordinary_user(function: Callable[..., T], *arguments: object) -> T:
    """What a function returns to an ordinary user: another one than root."""
    if os.geteuid() != 0:
        return function(*arguments)
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # The child only reads and answers; it needs no thread of ours.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.write(writer, pickle.dumps(function(*arguments)))
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as answer:
        data = answer.read()
    os.waitpid(child, 0)
    result: T = pickle.loads(data)  # noqa: S301  written by our own child
    return result


def test_the_monitors_of_a_running_qemu_are_found_and_left_free(
    programs: Programs, directory: Path
) -> None:
    port = free_port()
    pid = programs.qemu(
        *("-name", "guest=win2003"),
        *("-qmp", f"unix:{directory}/a,,b.sock,server=on,wait=off"),
        *("-chardev", "socket,id=c,path=relative.sock,server=on,wait=off"),
        *("-mon", "chardev=c,mode=control"),
        *("-qmp", f"tcp:127.0.0.1:{port},server=on,wait=off"),
        *("-monitor", "unix:people.sock,server=on,wait=off"),
    )
    found = {monitor.uri: monitor for monitor in monitors_of(pid)}
    uris = [
        f"unix:{directory}/a,b.sock",
        f"unix:{directory}/relative.sock",
        f"tcp:127.0.0.1:{port}",
    ]
    assert sorted(found) == sorted(uris)
    assert {monitor.state for monitor in found.values()} == {"free"}
    first = found[uris[0]]
    assert (first.name, first.program) == ("win2003", "qemu-system-x86_64")
    assert first.managed_by == ""
    # Nothing was connected to: each monitor still greets its first client.
    greeted(directory / "a,b.sock").close()


def test_a_storage_daemons_monitor_is_found(programs: Programs, directory: Path) -> None:
    pid = programs.storage_daemon(
        *("--chardev", "socket,id=c,path=q.sock,server=on,wait=off", "--monitor", "chardev=c")
    )
    monitor = only_monitor(pid)
    assert (monitor.uri, monitor.state) == (f"unix:{directory}/q.sock", "free")
    assert (monitor.program, monitor.name) == ("qemu-storage-daemon", "")


def test_a_monitor_with_a_client_is_in_use_and_the_client_is_named(
    programs: Programs, directory: Path
) -> None:
    pid = programs.qemu("-qmp", "unix:q.sock,server=on,wait=off")
    path = directory / "q.sock"
    assert host.clients(str(path)) is None
    with greeted(path):
        assert only_monitor(pid).state == "in use"
        client = host.clients(str(path))
        assert client is not None
        assert client.pid == os.getpid()
        assert client.program
        assert client.address == ""


def test_a_client_in_the_queue_does_not_have_the_monitor(
    programs: Programs, directory: Path
) -> None:
    programs.qemu("-qmp", "unix:q.sock,server=on,wait=off")
    path = directory / "q.sock"
    command = (
        "import socket, sys; client = socket.socket(1); client.connect(sys.argv[1]); "
        "client.recv(9); print(flush=True); input()"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", command, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert first.stdout is not None
    first.stdout.readline()
    with first, socket.socket(socket.AF_UNIX) as queued:
        queued.connect(str(path))
        client = host.clients(str(path))
        assert client is not None
        assert client.pid == first.pid
        first.communicate(b"\n", TIME_LIMIT)


def test_a_tcp_monitor_with_a_client_is_in_use_and_the_client_is_named(programs: Programs) -> None:
    port = free_port()
    pid = programs.qemu("-qmp", f"tcp:localhost:{port},server=on,wait=off")
    assert only_monitor(pid).uri == f"tcp:localhost:{port}"
    with socket.create_connection(("localhost", port), TIME_LIMIT) as client:
        assert b"QMP" in client.recv(4096)
        assert only_monitor(pid).state == "in use"
        found = host.clients(("localhost", port))
        assert found is not None
        assert found.pid == os.getpid()
        assert found.address == "{}:{}".format(*client.getsockname()[:2])


def test_the_port_that_qemu_took_from_a_range_is_the_one_shown(programs: Programs) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = int(taken.getsockname()[1])
        pid = programs.qemu("-qmp", f"tcp:127.0.0.1:{port},to=65535,server=on,wait=off")
        shown = int(only_monitor(pid).uri.rpartition(":")[2])
        assert shown > port
        with socket.create_connection(("127.0.0.1", shown), TIME_LIMIT) as client:
            assert b"QMP" in client.recv(4096)


def test_a_monitor_whose_socket_file_was_removed_is_gone(
    programs: Programs, directory: Path
) -> None:
    pid = programs.qemu("-qmp", "unix:q.sock,server=on,wait=off")
    (directory / "q.sock").unlink()
    assert only_monitor(pid).state == "gone"


def test_a_monitor_whose_path_was_taken_over_is_gone(programs: Programs, directory: Path) -> None:
    first = programs.qemu("-qmp", "unix:q.sock,server=on,wait=off")
    second = programs.qemu("-qmp", "unix:q.sock,server=on,wait=off")
    assert only_monitor(first).state == "gone"
    assert only_monitor(second).state == "free"
    assert host.listener(f"{directory}/q.sock") == second


def test_a_monitor_of_a_daemonized_qemu_with_a_relative_path_is_found(directory: Path) -> None:
    words = "qemu-system-x86_64 -machine none -nodefaults -display none -S -daemonize -pidfile pid"
    subprocess.run(
        [*words.split(), "-qmp", "unix:q.sock,server=on,wait=off"],
        cwd=directory,
        env=os.environ | {"PWD": str(directory)},
        check=True,
        timeout=TIME_LIMIT,
    )
    pid = int((directory / "pid").read_text())
    handle = os.pidfd_open(pid)
    try:
        monitor = only_monitor(pid)
        assert (monitor.uri, monitor.state) == (f"unix:{directory}/q.sock", "free")
    finally:
        os.kill(pid, 9)
        assert select.select([handle], [], [], TIME_LIMIT)[0]
        os.close(handle)


def test_a_socket_that_libvirt_hands_over_is_found_by_its_descriptor(
    programs: Programs, directory: Path
) -> None:
    path = directory / "domain-1-win2003" / "monitor.sock"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(1)
        pid = programs.qemu(
            *("-name", "guest=win2003,debug-threads=on"),
            *("-chardev", f"socket,id=charmonitor,fd={server.fileno()},server=on,wait=off"),
            *("-mon", "chardev=charmonitor,id=monitor,mode=control"),
            pass_fds=[server.fileno()],
        )
    monitor = only_monitor(pid)
    assert monitor.uri == f"unix:{path}"
    assert (monitor.managed_by, monitor.state) == ("libvirt", "free")
    with greeted(path):
        assert only_monitor(pid).state == "in use"


def test_an_ordinary_user_is_told_which_monitors_are_closed_to_them(
    programs: Programs, directory: Path
) -> None:
    directory.chmod(0o755)
    pid = programs.qemu(
        *("-qmp", f"unix:{directory}/closed.sock,server=on,wait=off"),
        *("-qmp", f"unix:{directory}/open.sock,server=on,wait=off"),
        *("-qmp", f"unix:{directory}/gone.sock,server=on,wait=off"),
    )
    (directory / "closed.sock").chmod(0o000)
    (directory / "open.sock").chmod(0o666)
    (directory / "gone.sock").unlink()
    states = {x.uri: x.state for x in as_ordinary_user(monitors_of, pid)}
    assert states == {
        f"unix:{directory}/closed.sock": "no permission",
        f"unix:{directory}/open.sock": "free",
        f"unix:{directory}/gone.sock": "gone",
    }
    with greeted(directory / "open.sock"):
        found = {x.uri: x.state for x in as_ordinary_user(monitors_of, pid)}
        assert found[f"unix:{directory}/open.sock"] == "in use"


def test_a_program_of_another_kind_is_not_listed() -> None:
    assert os.getpid() not in {monitor.pid for monitor in host.monitors()}


def test_the_listener_of_a_path_is_the_qemu_by_whatever_name_the_path_goes(
    programs: Programs, directory: Path
) -> None:
    pid = programs.qemu("-qmp", "unix:q.sock,server=on,wait=off")
    (directory / "link.sock").symlink_to("q.sock")
    assert host.listener(f"{directory}/q.sock") == pid
    assert host.listener(f"{directory}/link.sock") == pid
    with at(directory):
        assert host.listener("q.sock") == pid


def test_the_listener_of_a_loopback_port_is_the_qemu(programs: Programs) -> None:
    port = free_port()
    pid = programs.qemu("-qmp", f"tcp:127.0.0.1:{port},server=on,wait=off")
    assert host.listener(("127.0.0.1", port)) == pid
    assert host.listener(("localhost", port)) == pid
    assert host.listener(("192.0.2.1", port)) is None


def test_an_ordinary_user_learns_who_listens_too(programs: Programs, directory: Path) -> None:
    directory.chmod(0o755)
    port = free_port()
    pid = programs.qemu(
        *("-qmp", f"unix:{directory}/q.sock,server=on,wait=off"),
        *("-qmp", f"tcp:127.0.0.1:{port},server=on,wait=off"),
    )
    assert as_ordinary_user(host.listener, f"{directory}/q.sock") == pid
    assert as_ordinary_user(host.listener, ("localhost", port)) == pid


def test_a_server_that_is_no_qemu_is_no_listener(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one, socket.socket() as two, at(directory):
        one.bind("q.sock")
        one.listen()
        two.bind(("127.0.0.1", 0))
        two.listen()
        assert host.listener("q.sock") is None
        assert host.listener(two.getsockname()) is None
    assert host.listener(f"{directory}/missing.sock") is None
    assert host.listener(str(directory)) is None
    assert host.listener("a\0b") is None


def test_the_peer_of_a_unix_connection_is_the_qemu(programs: Programs, directory: Path) -> None:
    pid = programs.qemu("-qmp", "unix:q.sock,server=on,wait=off")
    with greeted(directory / "q.sock") as client:
        peer = host.peer(client)
    assert peer is not None
    assert (peer.pid, peer.uid, peer.gid) == (pid, os.geteuid(), os.getegid())


def test_a_tcp_connection_has_no_peer_that_is_known() -> None:
    with socket.socket() as connection:
        assert host.peer(connection) is None


def test_the_facts_of_this_process_are_those_that_it_knows_itself() -> None:
    facts = host.process(os.getpid())
    assert (facts.uid, facts.gid) == (os.geteuid(), os.getegid())
    assert facts.groups == frozenset(os.getgroups())
    assert facts.cwd == os.getcwd()
    assert facts.program
    assert facts.dac_override is (os.geteuid() == 0)


def test_an_ordinary_users_process_is_bound_by_permissions() -> None:
    def own() -> host.Process:
        return host.process(os.getpid())

    facts = as_ordinary_user(own)
    assert facts.dac_override is False
    assert facts.uid != 0


def test_what_an_ordinary_user_may_not_read_of_a_process_is_none() -> None:
    facts = as_ordinary_user(host.process, 1)
    assert facts.uid == 0
    assert facts.cwd is None
    assert as_ordinary_user(host.open_files, 1) is None
    assert as_ordinary_user(host.has_open, 1, "/") is None
    assert as_ordinary_user(host.same_mounts, 1) is None


def test_a_process_that_does_not_exist_is_all_unknown() -> None:
    pid = 2**22 + 1
    assert host.process(pid) == host.Process(pid)
    assert host.open_files(pid) is None
    assert host.same_mounts(pid) is None


def test_an_open_file_is_known_by_whatever_name_it_was_opened(directory: Path) -> None:
    image, other = directory / "disk.img", directory / "other.img"
    other.touch()
    with image.open("wb"):
        link = directory / "link.img"
        link.symlink_to(image)
        assert host.has_open(os.getpid(), str(image)) is True
        assert host.has_open(os.getpid(), str(link)) is True
        assert host.has_open(os.getpid(), str(other)) is False
    assert host.has_open(os.getpid(), str(image)) is False
    assert host.has_open(os.getpid(), str(directory / "missing")) is None


def test_the_images_of_a_qemu_are_among_its_open_files(programs: Programs, directory: Path) -> None:
    image = directory / "win2003.img"
    image.write_bytes(bytes(1 << 20))
    pid = programs.qemu("-blockdev", "driver=file,node-name=f,filename=win2003.img")
    assert host.has_open(pid, str(image)) is True
    status = image.stat()
    held = host.open_files(pid)
    assert held is not None
    assert (status.st_dev, status.st_ino) in held


def test_a_process_shares_the_mounts_of_its_parent(programs: Programs) -> None:
    assert host.same_mounts(os.getpid()) is True
    assert host.same_mounts(programs.qemu()) is True


def test_without_proc_nothing_is_known_and_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise FileNotFoundError

    for name in ("listdir", "readlink"):
        monkeypatch.setattr(os, name, refuse)
    assert host.monitors() == []
    assert host.listener(("localhost", 4444)) is None
    assert host.open_files(1) is None


def test_the_kernels_text_tables_do_where_its_diagnostics_are_missing(
    programs: Programs, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise OSError

    monkeypatch.setattr("snapkit.backends.sockets._netlink_unix", refuse)
    pid = programs.qemu("-qmp", "unix:q.sock,server=on,wait=off")
    assert only_monitor(pid).state == "free"
    with greeted(directory / "q.sock"):
        assert only_monitor(pid).state == "in use"
        # That table does not say who is at the other end.
        assert host.clients(f"{directory}/q.sock") == host.Client(None, "")
