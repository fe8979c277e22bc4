"""A wire in front of a monitor that can be cut at any byte, in either direction."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from tests.recorder import CHUNK, Recorder, end_of

__all__ = ["NEVER", "Shears", "Way"]

Way = Literal["up", "down"]
NEVER = 1 << 60


class Shears(Recorder):
    """Passes so many bytes, then cuts the connection, once.

    ``passed`` counts the bytes since ``arm``, each way; ``has_cut`` says whether they were
    enough, and ``gone`` that nobody can connect any more. ``ends`` are the messages since
    then, each with the count at its end; ``message`` is the length of the last transaction.
    """

    way: Way = "up"
    left = NEVER
    armed = False
    at_transaction = False
    for_good = False
    has_cut = False
    gone = False
    message = 0

    def __init__(self, target: str, directory: Path, *, tcp: str = "") -> None:
        self._counting = threading.Lock()
        super().__init__(target, directory, tcp=tcp)

    def arm(
        self, way: Way, after: int = NEVER, *, at_transaction: bool = False, for_good: bool = False
    ) -> None:
        """Cut after this many bytes from now, or from where the transaction begins.

        ``for_good``: nobody can connect again until ``mend``.
        """
        with self._counting:
            self.passed = {"up": 0, "down": 0}
            self.ends: list[tuple[str, int]] = []
            self.way, self.left, self.for_good = way, after, for_good
            self.at_transaction, self.has_cut = at_transaction, False
            self.armed = not at_transaction

    def mend(self) -> None:
        """Listen again after a cut for good."""
        self.gone = False
        super().mend()

    def _pass_on(
        self, message: dict[str, Any], raw: bytes, client: socket.socket, server: socket.socket
    ) -> None:
        self.commands.append(message)
        if message["execute"] == "transaction":
            self.message = len(raw)
            self.armed = self.armed or (self.at_transaction and not self.has_cut)
        self._let_pass("up", raw, client, server)
        if self.armed:
            self.ends.append((message["execute"], self.passed["up"]))

    def _down(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(CHUNK):
                self._let_pass("down", data, server, client)
        end_of(client)

    def _let_pass(
        self, way: Way, data: bytes, source: socket.socket, target: socket.socket
    ) -> None:
        # Each connection has threads of its own, and they share what is counted.
        with self._counting:
            if not self.armed:
                target.sendall(data)
                return
            part = data if way != self.way else data[: self.left]
            self.passed[way] += len(part)
            target.sendall(part)
            if way != self.way:
                return
            self.left -= len(part)
            if not self.left:
                self._cut(source, target)

    def _cut(self, *connections: socket.socket) -> None:
        self.armed, self.has_cut = False, True
        if self.for_good:
            self.gone = True
            end_of(self._server)
        for connection in connections:
            end_of(connection)
