"""What runs on this host: QEMU processes, the monitors that they offer, and their rights.

Everything is read from Linux's ``/proc`` and the kernel's socket tables. Nothing is connected
to: connecting would take a monitor's only place, and would start a QEMU that waits for its
first client. On other systems, and where reading is not allowed, the answer is empty or None.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from snapkit.backends.processes import (
    Process,
    command_line,
    environment,
    has_open,
    link,
    open_files,
    pids,
    process,
    same_mounts,
    socket_inodes,
    user_name,
)
from snapkit.backends.qemu_args import Endpoint, endpoints, guest_name, split_program
from snapkit.backends.sockets import Sockets, TcpSocket, UnixSocket

__all__ = [
    "Address",
    "Client",
    "Monitor",
    "Peer",
    "Process",
    "State",
    "clients",
    "has_open",
    "listener",
    "monitors",
    "open_files",
    "peer",
    "process",
    "same_mounts",
    "user_name",
]

State = Literal["free", "in use", "no permission", "gone"]

Address = str | tuple[str, int]
"""The path of a UNIX socket, or (host, port)."""

_ANYWHERE = frozenset(("", "0.0.0.0", "::"))  # noqa: S104  compared with, never bound to
_LIBVIRT_SOCKET = re.compile(r"/domain-\d+-([^/]+)/monitor\.sock")


@dataclass(frozen=True, slots=True)
class Monitor:
    """A QMP monitor that a process of this host offers.

    ``uri`` is what ``connect`` takes; empty where the address could not be found out.
    ``name`` is the guest's name, empty without one. ``state`` is "free", "in use" (another
    client is connected), "no permission" (the socket is not writable for this user) or
    "gone" (nothing listens there any more). ``managed_by`` is "libvirt" or empty.
    """

    uri: str
    name: str
    pid: int
    program: str
    user: str
    state: State
    managed_by: str = ""


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end of a UNIX socket, as the kernel recorded it."""

    pid: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Client:
    """Who is connected to a monitor. ``pid`` is None where that cannot be told.

    ``address`` is the client's host and port, empty for a UNIX socket.
    """

    pid: int | None
    program: str
    address: str = ""


def monitors() -> list[Monitor]:
    """Every QMP monitor that QEMU and qemu-storage-daemon processes of this host offer.

    In the order of process ids. Monitors that plain QMP over a socket cannot reach are left
    out: those for people (HMP), behind TLS, telnet or WebSocket, or with QEMU as the client.
    """
    tables = _Tables()
    return [
        _monitor(qemu, endpoint, tables)
        for qemu in _qemus()
        for endpoint in endpoints(qemu.program, qemu.arguments)
    ]


def listener(address: Address) -> int | None:
    """The pid of the QEMU process that listens at a UNIX path or a loopback (host, port).

    None if no QEMU process of this host does, or if that cannot be told.
    """
    if isinstance(address, tuple) and not _is_loopback(address[0]):
        return None
    found = _server(address, _Tables())
    return found[0] if found else None


def clients(address: Address) -> Client | None:
    """Who is connected to the monitor at a UNIX path or a loopback (host, port).

    None if nobody is, or if that cannot be told.
    """
    tables = _Tables()
    table = tables.of("self")
    if isinstance(address, tuple):
        return _tcp_client(address[1], table) if _is_loopback(address[0]) else None
    servers: list[UnixSocket | TcpSocket] = [*table.listening_at(address)]
    if not servers and (found := _server(address, tables)):
        servers = [found[1]]
    for row in table.unix:
        if row.connected and any(row.shares_file(server) for server in servers):
            return _holder(row.peer) or Client(None, "")
    return None


def peer(connection: socket.socket) -> Peer | None:
    """Who listens at the other end of a connected UNIX socket; None for other sockets.

    It is the process that made the socket listen: for a monitor that libvirt hands to QEMU,
    that is libvirt.
    """
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None or connection.family != socket.AF_UNIX:
        return None
    try:
        found = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, option, 12))
    except OSError:
        return None
    return Peer(*found) if found[0] else None


@dataclass(frozen=True, slots=True)
class _Qemu:
    """A running QEMU program and the words it was started with."""

    pid: int
    program: str
    arguments: Sequence[str]


class _Tables:
    """What has been read about sockets, each thing once."""

    def __init__(self) -> None:
        self._sockets: dict[str, Sockets] = {}
        self._held: dict[int, frozenset[int] | None] = {}

    def of(self, pid: int | str) -> Sockets:
        """The sockets of the network namespace of a process."""
        namespace = link(f"/proc/{pid}/ns/net") or f"of {pid}"
        return self._sockets.setdefault(namespace, Sockets(pid))

    def held(self, pid: int) -> frozenset[int] | None:
        """The inodes of the sockets that a process holds; None if not allowed to look."""
        if pid not in self._held:
            self._held[pid] = socket_inodes(pid)
        return self._held[pid]


def _qemus() -> Iterator[_Qemu]:
    for pid in pids():
        program, arguments = split_program(command_line(pid))
        if program:
            yield _Qemu(pid, program, arguments)


def _server(address: Address, tables: _Tables) -> tuple[int, UnixSocket | TcpSocket] | None:
    """The pid of the QEMU process that listens at an address, and its socket."""
    for qemu in _qemus():
        # A socket that it surely holds counts even if the command line does not name it.
        held = tables.held(qemu.pid) or frozenset()
        rows = [row for row in _rows(address, qemu.pid, tables) if row.inode in held]
        rows += [
            row
            for endpoint in endpoints(qemu.program, qemu.arguments)
            if _same_place(address, _address(endpoint, qemu, tables))
            and (row := _listening(address, endpoint, qemu, tables))
        ]
        if rows:
            return qemu.pid, rows[0]
    return None


def _monitor(qemu: _Qemu, endpoint: Endpoint, tables: _Tables) -> Monitor:
    address = _address(endpoint, qemu, tables)
    libvirt = endpoint.chardev == "charmonitor" or (
        isinstance(address, str) and _LIBVIRT_SOCKET.search(address)
    )
    return Monitor(
        uri=_uri(address),
        name=guest_name(qemu.arguments),
        pid=qemu.pid,
        program=qemu.program,
        user=user_name(process(qemu.pid).uid),
        state=_state(address, endpoint, qemu, tables),
        managed_by="libvirt" if libvirt else "",
    )


def _uri(address: Address) -> str:
    if isinstance(address, str):
        return f"unix:{address}" if address else ""
    host = "localhost" if address[0] in _ANYWHERE else address[0]
    return f"tcp:[{host}]:{address[1]}" if ":" in host else f"tcp:{host}:{address[1]}"


def _address(endpoint: Endpoint, qemu: _Qemu, tables: _Tables) -> Address:
    """Where an endpoint is, in this host's terms; "" if that cannot be found out."""
    if endpoint.path:
        return os.path.normpath(os.path.join(_directory(endpoint.path, qemu.pid), endpoint.path))
    if endpoint.fd is not None:
        return _handed_over(endpoint.fd, qemu, tables)
    return endpoint.host, _port(endpoint, qemu.pid, tables)


def _directory(path: str, pid: int) -> str:
    """What a relative path is relative to; "" if that is not readable.

    A QEMU that has gone into the background has left the directory that it was started in.
    """
    now = link(f"/proc/{pid}/cwd") or ""
    if path.startswith("/") or os.path.exists(os.path.join(now, path)):
        return now
    started = environment(pid).get("PWD", "")
    return started if started and os.path.exists(os.path.join(started, path)) else now


def _handed_over(fd: int, qemu: _Qemu, tables: _Tables) -> str:
    """The path of a listening socket that was handed over, as libvirt does; "" if unknown."""
    target = link(f"/proc/{qemu.pid}/fd/{fd}")
    listening = [row for row in tables.of(qemu.pid).unix if row.listening]
    if target is not None:
        return next((row.path for row in listening if target == f"socket:[{row.inode}]"), "")
    # Another user's QEMU. libvirt names the directory after the guest, shortened.
    name = guest_name(qemu.arguments)
    for row in listening:
        found = _LIBVIRT_SOCKET.search(row.path)
        if found and name and name.startswith(found.group(1)):
            return row.path
    return ""


def _port(endpoint: Endpoint, pid: int, tables: _Tables) -> int:
    """The port that QEMU listens on, which may be any up to ``last_port``; 0 if unknown."""
    try:
        port = int(endpoint.port)
    except ValueError:
        try:
            port = socket.getservbyname(endpoint.port, "tcp")
        except OSError:
            return 0
    if endpoint.last_port <= port:
        return port
    held = tables.held(pid) or frozenset()
    taken = {x.local[1] for x in tables.of(pid).tcp if x.listening and x.inode in held}
    return next((x for x in range(port, endpoint.last_port + 1) if x in taken), port)


def _state(address: Address, endpoint: Endpoint, qemu: _Qemu, tables: _Tables) -> State:
    if isinstance(address, str) and not (address and os.access(address, os.W_OK)):
        return "gone" if address.startswith("/") and _absent(address) else "no permission"
    row = _listening(address, endpoint, qemu, tables)
    if row is None:
        return "gone"
    if isinstance(row, UnixSocket):
        table = tables.of(qemu.pid).unix
        busy = any(x.connected and x.shares_file(row) for x in table)
    else:
        busy = any(x.connected and x.shares_port(row) for x in tables.of("self").tcp)
    return "in use" if busy else "free"


def _absent(path: str) -> bool:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        pass
    return False


def _listening(
    address: Address, endpoint: Endpoint, qemu: _Qemu, tables: _Tables
) -> UnixSocket | TcpSocket | None:
    """The listening socket of a process at an address; None if it does not listen there."""
    held = tables.held(qemu.pid)
    uid = process(qemu.pid).uid if held is None else None
    for row in _rows(address, qemu.pid, tables, endpoint.path):
        if held is not None:
            if row.inode in held:
                return row
        elif isinstance(row, UnixSocket) or row.uid == uid:
            return row
    return None


def _rows(
    address: Address, pid: int, tables: _Tables, as_bound: str = ""
) -> list[UnixSocket | TcpSocket]:
    """The sockets that listen at an address and may be those of a process.

    A TCP port counts only where both this process and the other see it: an own network
    namespace has ports of its own.
    """
    if isinstance(address, str):
        return [*tables.of(pid).listening_at(address, as_bound)]
    theirs = {row.inode for row in tables.of(pid).tcp}
    return [
        row
        for row in tables.of("self").tcp
        if row.listening and row.local[1] == address[1] and row.inode in theirs
    ]


def _same_place(one: Address, other: Address) -> bool:
    if isinstance(one, tuple) and isinstance(other, tuple):
        return one[1] == other[1]
    try:
        return isinstance(one, str) and isinstance(other, str) and os.path.samefile(one, other)
    except (OSError, ValueError):
        return False


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1", "ip6-localhost") or host.startswith("127.")


def _tcp_client(port: int, table: Sockets) -> Client | None:
    servers = [row for row in table.tcp if row.listening and row.local[1] == port]
    for row in table.tcp:
        if row.connected and any(row.shares_port(server) for server in servers):
            where = f"{row.remote[0]}:{row.remote[1]}"
            other = next((x for x in table.tcp if x.local == row.remote), None)
            found = _holder(other.inode) if other else None
            return Client(found.pid, found.program, where) if found else Client(None, "", where)
    return None


def _holder(inode: int) -> Client | None:
    """The process that holds a socket; None if that is not readable."""
    for pid in pids() if inode else ():
        if inode in (socket_inodes(pid) or ()):
            return Client(pid, process(pid).program)
    return None
