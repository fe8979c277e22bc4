"""Connections: every way to write an endpoint, their limits, and their end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import snapkit
from tests.conftest import Process, StartQemu, create_image, wait_until
from tests.ordinary import as_ordinary_user
from tests.recorder import Recorder

ROOT = Path(__file__).parents[1]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def socket_path(machine: Process) -> str:
    return machine.uri.removeprefix("unix:")


@pytest.mark.parametrize("form", ["unix:{0}", "unix://{0}", "{0}", "unix:{0},server=on,wait=off"])
def test_a_unix_socket_is_reached_however_it_is_written(seed_qemu: Process, form: str) -> None:
    path = socket_path(seed_qemu)

    with snapkit.connect(form.format(path)) as vm:
        assert vm.uri == f"unix:{path}"
        assert list(vm.devices().index) == ["drive0", "drive1"]


def test_a_path_object_and_a_relative_path_reach_a_socket(
    seed_qemu: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapkit.connect(Path(socket_path(seed_qemu))).close()
    monkeypatch.chdir(seed_qemu.directory)
    snapkit.connect("qmp.sock").close()
    snapkit.connect("unix:qmp.sock").close()


def test_a_socket_with_an_odd_name_is_reached(start_qemu: StartQemu, directory: Path) -> None:
    path = f"{directory}/a:b c'<\u00fc>.qmp"
    start_qemu(qmp=f"unix:{path}")

    snapkit.connect(path).close()


@pytest.mark.parametrize(
    "form",
    ["tcp:localhost:{0}", "localhost:{0}", "127.0.0.1:{0}", "tcp::{0}", "tcp://localhost:{0}"],
)
def test_a_tcp_port_is_reached_however_it_is_written(start_qemu: StartQemu, form: str) -> None:
    port = free_port()
    start_qemu(qmp=f"tcp:127.0.0.1:{port}")

    with snapkit.connect(form.format(port)) as vm:
        assert vm.connected
        assert vm.uri.startswith("tcp:")
        assert vm.local


def test_a_port_of_ipv6_is_reached(seed_qemu: Process, recorder: Callable[..., Recorder]) -> None:
    proxy = recorder(seed_qemu.uri, tcp="::1")
    assert proxy.uri.startswith("tcp:[::1]:")

    with snapkit.connect(proxy.uri) as vm:
        assert len(vm.devices()) == 2


def listens(port: int) -> bool:
    """Whether a port is listened on, without connecting to it."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    rows += [row.split() for row in Path("/proc/net/tcp6").read_text().splitlines()[1:]]
    return any(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)


def test_a_qemu_that_waits_for_its_first_client_gets_it(
    start_qemu: StartQemu, directory: Path
) -> None:
    port = free_port()
    raw = create_image(directory / "win2003.img", format="raw")
    start_qemu(
        *("-qmp", f"tcp:localhost:{port},server"),
        *("-drive", f"if=none,id=drive0,file={raw},format=raw"),
    )
    wait_until(lambda: listens(port), "QEMU listens for its first client")

    with snapkit.connect(f"tcp:localhost:{port}") as vm:
        assert list(vm.devices().index) == ["drive0"]


def test_the_name_and_the_version_are_those_of_the_vm(start_qemu: StartQemu) -> None:
    machine = start_qemu("-name", "win2003")

    with snapkit.connect(machine.uri) as vm:
        told = machine.ask("query-version")["qemu"]
        assert vm.version == f"{told['major']}.{told['minor']}.{told['micro']}"
        assert (vm.name, vm.domain) == ("win2003", None)
        assert "'win2003'" in repr(vm)


def no_connection(uri: object, **options: float) -> str:
    with pytest.raises(snapkit.ConnectError) as caught:
        snapkit.connect(uri, **options)  # type: ignore[arg-type]
    return str(caught.value)


def test_what_cannot_be_reached_is_said_in_words(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (directory / "file").write_text("no socket")
    (directory / "left").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(f"{directory}/dead.sock")
    port = free_port()

    assert "There is no socket" in no_connection(f"{directory}/none.sock")
    assert "There is no socket" in no_connection(f"{directory}/left")
    assert "There is no socket" in no_connection(f"{directory}/none/qmp.sock")
    assert "is no socket" in no_connection(f"{directory}/file")
    assert "is no socket" in no_connection(f"{directory}")
    assert "Nothing listens on" in no_connection(f"{directory}/dead.sock")
    assert "Nothing listens on" in no_connection(f"localhost:{port}")
    assert "at most 107 bytes" in no_connection(f"{directory}/{'n' * 200}")
    assert "the host is not known" in no_connection("no-such-host.invalid:4444")
    assert "the host is not known" in no_connection(f"{'n' * 70}.invalid:4444")
    assert "the host is not known" in no_connection("a..b:4444")
    assert "could not be connected to" in no_connection(f"{directory}/file/qmp.sock")
    assert 'Write "unix:/path/to/socket"' in no_connection("")
    assert "host:port" in no_connection(None)


def test_a_socket_that_this_user_may_not_open_is_named(directory: Path) -> None:
    path = f"{directory}/qmp.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        os.chmod(path, 0)
        directory.chmod(0o755)
        done = as_ordinary_user(
            """
            try:
                snapkit.connect(sys.argv[1])
            except snapkit.ConnectError as err:
                print(err)
            """,
            path,
        )
    assert "may not be opened by this user" in done.stdout, done


HOLD = """
import socket, sys
held = socket.socket(socket.AF_UNIX)
held.connect(sys.argv[1])
held.recv(9)
print(flush=True)
sys.stdin.read()
"""


def test_a_busy_monitor_is_named_as_busy_with_its_client(seed_qemu: Process) -> None:
    holder = subprocess.Popen(
        [
            *(sys.executable, "-c", HOLD),
            socket_path(seed_qemu),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    try:
        began = time.monotonic()
        text = no_connection(seed_qemu.uri, timeout=0.3)
        assert time.monotonic() - began < 3
        assert "sent no QMP greeting within 0.3 s" in text
        assert "busy" in text
        assert f"(pid {holder.pid})" in text
    finally:
        holder.communicate()
    snapkit.connect(seed_qemu.uri).close()


def test_a_monitor_that_this_process_keeps_busy_is_named_so(seed_qemu: Process) -> None:
    with snapkit.connect(seed_qemu.uri):
        assert "this very process is connected" in no_connection(seed_qemu.uri, timeout=0.3)


def test_a_monitor_where_others_wait_already_is_named_as_busy(seed_qemu: Process) -> None:
    waiting: list[socket.socket] = []
    with snapkit.connect(seed_qemu.uri):
        try:
            for _ in range(64):
                waiting.append(socket.socket(socket.AF_UNIX))
                waiting[-1].setblocking(False)
                waiting[-1].connect(socket_path(seed_qemu))
        except BlockingIOError:
            pass
        text = no_connection(seed_qemu.uri, timeout=0.3)
        for other in waiting:
            other.close()
    assert "took no further connection" in text
    assert "busy" in text


def test_a_monitor_that_becomes_free_in_time_is_taken(seed_qemu: Process) -> None:
    first = snapkit.connect(seed_qemu.uri)
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(snapkit.connect, seed_qemu.uri, timeout=20)
        first.close()
        with second.result() as vm:
            assert len(vm.devices()) == 2


def test_several_vms_at_once_stay_apart(
    start_qemu: StartQemu, start_daemon: StartQemu, directory: Path
) -> None:
    machines = []
    for number in range(3):
        below = directory / str(number)
        below.mkdir()
        file = create_image(below / f"disk{number}.qcow2")
        machine = start_qemu(
            *("-name", f"vm{number}", "-drive", f"if=none,id=d{number},file={file}"),
            qmp=f"unix:{below}/qmp.sock",
        )
        machines.append(machine)
        os.unlink(machine.outside)
    with ThreadPoolExecutor(3) as pool:
        vms = list(pool.map(lambda machine: snapkit.connect(machine.uri), machines))
        tables = list(pool.map(lambda vm: vm.devices(), vms))
    vms[0].close()
    assert [list(table.index) for table in tables] == [["d0"], ["d1"], ["d2"]]
    assert [vm.name for vm in vms] == ["vm0", "vm1", "vm2"]
    assert [vm.connected for vm in vms] == [False, True, True]
    for vm in vms:
        vm.close()
