"""The sockets of this host, as the kernel lists them. Reads only, connects to nothing.

The kernel's socket diagnostics (netlink) say more than ``/proc/net/unix``: which file a
socket is bound to, and who is at the other end. Where they cannot be had, the text tables
are read instead.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
import sys
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address

__all__ = ["Sockets", "TcpSocket", "UnixSocket"]

_LISTEN, _ESTABLISHED = 10, 1


@dataclass(frozen=True, slots=True)
class UnixSocket:
    """A UNIX socket. ``file`` is (device, inode) of the file that it is bound to, if known.

    ``path`` is the name as it was given when the socket was bound. ``peer`` is the inode of
    the socket at the other end, 0 if unknown.
    """

    inode: int
    path: str
    listening: bool
    connected: bool
    file: tuple[int, int] | None = None
    peer: int = 0

    def shares_file(self, other: object) -> bool:
        """Whether the other socket is bound to the same file, as a server and its clients are."""
        return isinstance(other, UnixSocket) and (self.file, self.path) == (other.file, other.path)


@dataclass(frozen=True, slots=True)
class TcpSocket:
    """A TCP socket: addresses are (host, port)."""

    inode: int
    uid: int
    local: tuple[str, int]
    remote: tuple[str, int]
    listening: bool
    connected: bool

    def shares_port(self, other: TcpSocket) -> bool:
        """Whether the other socket has this port too, as a server and its clients have."""
        return (self.local[1], self.uid) == (other.local[1], other.uid)


class Sockets:
    """The sockets of the network namespace that process ``pid`` lives in.

    Each table is read once, when it is first used. What cannot be read is empty. A
    connection that the server has not accepted yet is left out.
    """

    def __init__(self, pid: int | str = "self") -> None:
        self.pid = pid

    @cached_property
    def unix(self) -> list[UnixSocket]:
        """The UNIX sockets that are bound to a file, and their counterparts where known."""
        if self._ours:
            try:
                return _netlink_unix()
            except (OSError, struct.error):
                pass
        return _proc_unix(f"/proc/{self.pid}/net/unix")

    def listening_at(self, path: str, as_bound: str = "") -> list[UnixSocket]:
        """The sockets that listen at a path: by the file where that is known, else by name.

        ``as_bound`` is another name that the socket may have been bound with.
        """
        try:
            found = os.stat(path)
        except (OSError, ValueError):
            return []
        if not stat.S_ISSOCK(found.st_mode):
            return []
        rows = [row for row in self.unix if row.listening]
        # The kernel notes 32 bits of the inode.
        wanted = found.st_dev, found.st_ino & 0xFFFFFFFF
        exact = [row for row in rows if row.file == wanted]
        # Some file systems show another device than the one the kernel notes.
        return exact or [row for row in rows if row.path and row.path in (path, as_bound)]

    @cached_property
    def tcp(self) -> list[TcpSocket]:
        """The TCP sockets that listen or are connected, IPv4 and IPv6."""
        return [
            row for family in ("tcp", "tcp6") for row in _proc_tcp(f"/proc/{self.pid}/net/{family}")
        ]

    @cached_property
    def _ours(self) -> bool:
        if self.pid == "self":
            return True
        try:
            return os.readlink(f"/proc/{self.pid}/ns/net") == os.readlink("/proc/self/ns/net")
        except OSError:
            # Not allowed to look: alike text tables mean the same namespace.
            theirs = {x.inode for x in _proc_unix(f"/proc/{self.pid}/net/unix") if x.listening}
            ours = {x.inode for x in _proc_unix("/proc/self/net/unix") if x.listening}
            return bool(theirs & ours)


def _read(path: str) -> list[bytes]:
    try:
        with open(path, "rb") as table:
            return table.read().split(b"\n")[1:]
    except OSError:
        return []


def _proc_unix(path: str) -> list[UnixSocket]:
    """``/proc/net/unix``. A name with a line break in it is not understood and left out."""
    found = []
    for line in _read(path):
        words = line.split(maxsplit=6)
        # Columns: address, references, protocol, flags, type, state, inode and then " path".
        if len(words) < 7 or words[4] != b"0001":
            continue
        number, _, name = words[6].partition(b" ")
        try:
            inode, flags, state = int(number), int(words[3], 16), int(words[5], 16)
        except ValueError:
            continue
        if inode and name:
            listening = bool(flags & 0x10000)
            found.append(UnixSocket(inode, os.fsdecode(name), listening, state == 3))
    return found


def _proc_tcp(path: str) -> list[TcpSocket]:
    found = []
    for line in _read(path):
        words = line.split()
        if len(words) < 10:
            continue
        state, inode = int(words[3], 16), int(words[9])
        if inode and state in (_LISTEN, _ESTABLISHED):
            local, remote = _tcp_address(words[1]), _tcp_address(words[2])
            listening = state == _LISTEN
            found.append(TcpSocket(inode, int(words[7]), local, remote, listening, not listening))
    return found


def _tcp_address(text: bytes) -> tuple[str, int]:
    """``0100007F:115C`` as (host, port): each 32-bit word is in the machine's byte order."""
    number, _, port = text.partition(b":")
    words = [int(number[i : i + 8], 16) for i in range(0, len(number), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    if len(packed) == 4:
        return str(IPv4Address(packed)), int(port, 16)
    address = IPv6Address(packed)
    return str(address.ipv4_mapped or address), int(port, 16)


_SOCK_DIAG_BY_FAMILY, _NLM_F_DUMP_REQUEST, _NLMSG_ERROR, _NLMSG_DONE = 20, 0x301, 2, 3
_SHOW_NAME_FILE_PEER = 0x01 | 0x02 | 0x04
_NAME, _FILE, _PEER = 0, 1, 2


def _netlink_unix() -> list[UnixSocket]:
    """All stream sockets of this network namespace. Raises OSError where that cannot be had."""
    if sys.platform != "linux":
        raise OSError
    states = 1 << _LISTEN | 1 << _ESTABLISHED
    request = struct.pack("=BBHIIIII", socket.AF_UNIX, 0, 0, states, 0, _SHOW_NAME_FILE_PEER, 0, 0)
    header = struct.pack(
        "=IHHII", 16 + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_DUMP_REQUEST, 1, 0
    )
    found: list[UnixSocket] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 4) as link:
        link.settimeout(2)
        link.send(header + request)
        while True:
            data = link.recv(1 << 18)
            while len(data) >= 16:
                length, kind = struct.unpack_from("=IH", data)
                if kind == _NLMSG_DONE:
                    return found
                if kind == _NLMSG_ERROR or length < 16:
                    raise OSError
                _add_unix(found, data[16:length])
                data = data[(length + 3) & ~3 :]


def _add_unix(found: list[UnixSocket], message: bytes) -> None:
    _, kind, state, _, inode = struct.unpack_from("=BBBBI", message)
    if kind != socket.SOCK_STREAM or not inode:
        return
    path, file, peer = "", None, 0
    rest = message[16:]
    while len(rest) >= 4:
        length, attribute = struct.unpack_from("=HH", rest)
        if length < 4:
            break
        value = rest[4:length]
        if attribute == _NAME:
            path = os.fsdecode(value.rstrip(b"\0"))
        elif attribute == _FILE:
            number, device = struct.unpack_from("=II", value)
            # The kernel packs a device as 12 bits of major and 20 bits of minor.
            file = (os.makedev(device >> 20, device & 0xFFFFF), number)
        elif attribute == _PEER:
            (peer,) = struct.unpack_from("=I", value)
        rest = rest[(length + 3) & ~3 :]
    if path or peer:
        row = UnixSocket(inode, path, state == _LISTEN, state == _ESTABLISHED, file, peer)
        found.append(row)
