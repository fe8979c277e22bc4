"""libvirt's wire: what a client asks of the daemon that could change something."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.relay import Relay

HEADER = struct.Struct(">IIIIIII")
"""Length, program, version, procedure, type, serial, status (``virnetprotocol.x``)."""
REMOTE = 0x20008086
REPLY = 1
SNAPSHOT = 185
"""``REMOTE_PROC_DOMAIN_SNAPSHOT_CREATE_XML``."""
_CALL = 0
_OPEN = 1
_READ_ONLY = 1
_READS = {2: "CONNECT_CLOSE", 24: "DOMAIN_LOOKUP_BY_UUID", 60: "CONNECT_SUPPORTS_FEATURE"}
"""Calls that change nothing (``remote_protocol.x``)."""


class LibvirtWire(Relay):
    """A relay in front of a libvirtd's socket.

    ``changes`` are the calls that were made over connections that may write, but for those
    that only look: a snapshot with its XML and flags, any other by its number. Over a
    connection for reading the daemon itself lets nobody change anything.
    """

    def __init__(self, socket_path: str, directory: Path) -> None:
        self.changes: list[tuple[Any, ...]] = []
        self._writers: set[socket.socket] = set()
        super().__init__(f"unix:{socket_path}", directory)
        self.uri = f"qemu+unix:///session?socket={self.path}"

    def split(self, data: bytes) -> Iterator[tuple[Any, bytes]]:
        """The whole packets, each as its procedure and its arguments; None for other programs."""
        while len(data) >= HEADER.size:
            length, program, _, procedure, kind, _, _ = HEADER.unpack_from(data)
            if len(data) < length:
                return
            packet, data = data[:length], data[length:]
            call = program == REMOTE and kind == _CALL
            yield (procedure, packet[HEADER.size :]) if call else None, packet

    def _pass_on(
        self, message: Any, raw: bytes, client: socket.socket, server: socket.socket
    ) -> None:
        if message is not None:
            self._note(message, client)
        super()._pass_on(message, raw, client, server)

    def _note(self, call: tuple[int, bytes], client: socket.socket) -> None:
        procedure, arguments = call
        if procedure == _OPEN:
            (flags,) = struct.unpack(">I", arguments[-4:])
            if not flags & _READ_ONLY:
                self._writers.add(client)
        elif procedure == SNAPSHOT:
            self.changes.append(("snapshot", *_snapshot(arguments)))
        elif client in self._writers and procedure not in _READS:
            self.changes.append((procedure,))


def _snapshot(arguments: bytes) -> tuple[str, int]:
    """The XML and the flags: they come after the domain, which is a name, a uuid and an id."""
    _, rest = _text(arguments)
    xml, rest = _text(rest[16 + 4 :])
    (flags,) = struct.unpack(">I", rest)
    return xml, flags


def _text(data: bytes) -> tuple[str, bytes]:
    (length,) = struct.unpack_from(">I", data)
    return data[4 : 4 + length].decode(), data[4 + (length + 3) // 4 * 4 :]
