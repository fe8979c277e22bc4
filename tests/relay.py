"""A byte-level proxy in front of what snapkit talks to: it can be cut, and tells what passed."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from snapkit.address import TcpAddress, UnixAddress, parse

CHUNK = 1 << 16


class Relay:
    """Passes every byte on in both directions, on a socket of its own: a UNIX socket in
    ``directory``, or a port of the address ``tcp``.

    What goes up to the VM is passed on message by message, as ``split`` finds them.
    """

    def __init__(self, target: str, directory: Path, *, tcp: str = "") -> None:
        self.target = parse(target)
        self.path = ""
        self.connections = 0
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._hang_up = False
        self._lost_when: Callable[[], object] | None = None
        if tcp:
            family = socket.AF_INET6 if ":" in tcp else socket.AF_INET
            self._server = socket.create_server((tcp, 0), family=family)
            self.uri = str(TcpAddress(tcp, self._server.getsockname()[1]))
        else:
            self.path = str(directory / f"relay-{id(self):x}.sock")
            self._server = self._listen()
            self.uri = f"unix:{self.path}"
        self._run(self._accept)

    def split(self, data: bytes) -> Iterator[tuple[Any, bytes]]:
        """The whole messages that the bytes begin with, parsed and as they are."""
        yield data, data

    def hang_up(self) -> None:
        """End every connection instead of passing the next message on."""
        self._hang_up = True

    def lose_reply(self, carried_out: Callable[[], object]) -> None:
        """End every connection instead of bringing the reply back that comes after this is so."""
        self._lost_when = carried_out

    def refuse(self) -> None:
        """Let nobody connect any more."""
        end_of(self._server)

    def mend(self) -> None:
        """Let everybody connect again."""
        os.unlink(self.path)
        self._server.close()
        self._server = self._listen()
        self._run(self._accept)

    def _listen(self) -> socket.socket:
        server = socket.socket(socket.AF_UNIX)
        server.bind(self.path)
        server.listen()
        return server

    def _run(self, work: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                self.connections += 1
                self._open.append(client)
                try:
                    server = self._reach()
                except OSError:
                    end_of(client)
                    continue
                self._open.append(server)
                self._run(self._up, client, server)
                self._run(self._down, server, client)

    def _reach(self) -> socket.socket:
        if isinstance(self.target, TcpAddress):
            return socket.create_connection((self.target.host, self.target.port))
        assert isinstance(self.target, UnixAddress)
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(self.target.path)
        except OSError:
            server.close()
            raise
        return server

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        """From snapkit to the VM."""
        unread = b""
        with suppress(OSError):
            while data := client.recv(CHUNK):
                unread += data
                for message, raw in self.split(unread):
                    unread = unread[len(raw) :]
                    self._pass_on(message, raw, client, server)
        end_of(server)

    def _pass_on(
        self, message: Any, raw: bytes, client: socket.socket, server: socket.socket
    ) -> None:
        if self._hang_up:
            self._hang_up = False
            self.cut()
            return
        server.sendall(raw)

    def _down(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(CHUNK):
                if self._lost_when is not None and self._lost_when():
                    self._lost_when = None
                    self.cut()
                client.sendall(data)
        end_of(client)

    def cut(self) -> None:
        """End every connection that there is."""
        for connection in self._open:
            end_of(connection)

    def close(self) -> None:
        """End everything, and wait for it."""
        end_of(self._server)
        self._server.close()
        self.cut()
        for thread in self._threads:
            thread.join(5)
        for connection in self._open:
            connection.close()
        if self.path:
            os.unlink(self.path)


def end_of(connection: socket.socket) -> None:
    """End a connection in both directions, whoever waits for it."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
