"""Servers that do not behave, at the other end of a real socket."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import snapkit
from tests.recorder import end_of

TIMEOUT = 0.5
SPARE = 3.0
"""Seconds that a slow machine may need beyond the time limit."""
LONGEST = 600
ESCAPES = b"\x1b]0;owned\x07\x1b[2J\x1b[31m"

GREETING = {
    "QMP": {
        "version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""},
        "capabilities": ["oob"],
    }
}

COMMANDS = (
    "query-block",
    "query-named-block-nodes",
    "x-debug-query-block-graph",
    "query-blockstats",
    "query-jobs",
    "query-block-exports",
    "query-name",
)

ANSWERS: dict[str, Any] = {
    "qmp_capabilities": {},
    "query-commands": [{"name": name} for name in COMMANDS],
    "query-version": GREETING["QMP"]["version"],
    "query-name": {"name": "vm"},
    "query-block": [],
    "query-named-block-nodes": [],
    "x-debug-query-block-graph": {"nodes": [], "edges": []},
    "query-blockstats": [],
    "query-jobs": [],
    "query-block-exports": [],
}
"""What a well-behaved VM without disks answers."""

Behaviour = Callable[[socket.socket], None]


class Server:
    """Runs a behaviour for every connection, and ends each when the behaviour returns."""

    def __init__(self, directory: Path, behaviour: Behaviour) -> None:
        self.path = str(directory / f"hostile-{id(self):x}.sock")
        self.uri = f"unix:{self.path}"
        self.behaviour = behaviour
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(self.path)
        self._server.listen()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._open: list[socket.socket] = []
        self._threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                self._open.append(connection)
                thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError):
            self.behaviour(connection)
        end_of(connection)

    def close(self) -> None:
        end_of(self._server)
        self._server.close()
        for connection in self._open:
            end_of(connection)
        for thread in self._threads:
            thread.join(5)
        for connection in self._open:
            connection.close()
        os.unlink(self.path)


def says(data: bytes, *, then_silent: bool = False) -> Behaviour:
    """Says something, and hangs up or listens for ever."""

    def behave(connection: socket.socket) -> None:
        connection.sendall(data)
        if then_silent:
            listen(connection)

    return behave


def listen(connection: socket.socket) -> None:
    """Take everything in until the other side hangs up."""
    while connection.recv(1 << 16):
        pass


def line(message: object) -> bytes:
    return json.dumps(message).encode() + b"\r\n"


class Monitor:
    """A monitor that answers as ``answers`` say, with what it was told to do differently.

    ``raw`` are bytes to send instead of a reply to a command; None stands for silence.
    ``hang_up_at`` is the command at which it hangs up, ``hang_up_after`` that after whose
    reply it does. ``pads`` are bytes sent before every
    reply once the session stands.
    """

    def __init__(
        self,
        answers: Mapping[str, Any] | None = None,
        *,
        raw: Mapping[str, bytes | None] | None = None,
        hang_up_at: str = "",
        hang_up_after: str = "",
        pads: bytes = b"",
    ) -> None:
        self.answers = ANSWERS | dict(answers or {})
        self.raw = raw or {}
        self.hang_up_at = hang_up_at
        self.hang_up_after = hang_up_after
        self.pads = pads
        self.asked: list[str] = []

    def __call__(self, connection: socket.socket) -> None:
        connection.sendall(line(GREETING))
        parser, text = json.JSONDecoder(), ""
        while data := connection.recv(1 << 16):
            text += data.decode()
            while text:
                try:
                    message, end = parser.raw_decode(text)
                except json.JSONDecodeError:
                    break
                text = text[end:].lstrip()
                if message["execute"] == self.hang_up_at:
                    return
                self._answer(connection, message)
                if message["execute"] == self.hang_up_after:
                    return

    def _answer(self, connection: socket.socket, message: dict[str, Any]) -> None:
        command = message["execute"]
        self.asked.append(command)
        reply = self.raw.get(command, b"")
        if reply is None:
            return
        identity = {"id": message["id"]} if "id" in message else {}
        told = line({"return": self.answers[command]} | identity)
        pads = self.pads if "id" in message else b""
        connection.sendall(pads + (reply or told))


@contextmanager
def clear_error(seconds: float = TIMEOUT) -> Iterator[Callable[[], str]]:
    """What is inside fails in time, with a text that is fit to be read, and a short traceback."""
    began = time.monotonic()
    with pytest.raises(snapkit.SnapkitError) as caught:
        yield lambda: str(caught.value)
    assert time.monotonic() - began < seconds + SPARE
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < LONGEST
    assert text.endswith((".", "?"))
    shown = "".join(traceback.format_exception(caught.value))
    assert len(shown) < 20_000
    assert "\x1b" not in shown
