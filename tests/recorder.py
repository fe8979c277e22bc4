"""A byte-level proxy in front of a monitor: it records what snapkit sends, and can cut it off."""

from __future__ import annotations

import json
import os
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from snapkit.address import TcpAddress, UnixAddress, parse

CHUNK = 1 << 16


class Recorder:
    """Passes every byte on in both directions, on a socket of its own: a UNIX socket in
    ``directory``, or a port of the address ``tcp``.

    ``commands`` are the messages that were sent, parsed, in their order. A command named by
    ``cut_before`` is not passed on: the connection ends instead. One named by ``cut_after``
    is passed on, and the connection ends before its reply comes back. ``swallow`` are
    commands that vanish while the connection stays.
    """

    def __init__(self, target: str, directory: Path, *, tcp: str = "") -> None:
        self.target = parse(target)
        self.commands: list[dict[str, Any]] = []
        self.cut_before = ""
        self.cut_after = ""
        self.swallow: frozenset[str] = frozenset()
        self.connections = 0
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        if tcp:
            family = socket.AF_INET6 if ":" in tcp else socket.AF_INET
            self._server = socket.create_server((tcp, 0), family=family)
            self.uri = str(TcpAddress(tcp, self._server.getsockname()[1]))
        else:
            path = str(directory / f"recorder-{id(self):x}.sock")
            self._server = socket.socket(socket.AF_UNIX)
            self._server.bind(path)
            self._server.listen()
            self.uri = f"unix:{path}"
        self._run(self._accept)

    @property
    def names(self) -> list[str]:
        """The commands by name."""
        return [command["execute"] for command in self.commands]

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
        """From snapkit to the VM, message by message. qemu.qmp sends no newlines."""
        parser, text = json.JSONDecoder(), ""
        with suppress(OSError):
            while data := client.recv(CHUNK):
                text += data.decode()
                while text:
                    try:
                        message, end = parser.raw_decode(text)
                    except json.JSONDecodeError:
                        break
                    self._pass_on(message, text[:end].encode(), client, server)
                    text = text[end:].lstrip()
        end_of(server)

    def _pass_on(
        self, message: dict[str, Any], raw: bytes, client: socket.socket, server: socket.socket
    ) -> None:
        self.commands.append(message)
        name = message["execute"]
        if name in self.swallow:
            return
        if name == self.cut_before:
            end_of(client)
            end_of(server)
            return
        if name == self.cut_after:
            end_of(client)
        server.sendall(raw)

    def _down(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(CHUNK):
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
        if self.uri.startswith("unix:"):
            os.unlink(self.uri.removeprefix("unix:"))


def end_of(connection: socket.socket) -> None:
    """End a connection in both directions, whoever waits for it."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
