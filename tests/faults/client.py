"""What runs in another process than the tests: a snapshot that stops at chosen moments.

``python -m tests.faults.client JOB`` with a job in JSON. It says on a socket where it is, as
one JSON object a line, and goes on at a word from there:

``go``    go on
``cut``   end the own connection in both directions, what has arrived on it unread
``deaf``  throw away what has arrived on the connection, and go on
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from typing import Any, Self
from unittest.mock import patch

from qemu.qmp import Message, QMPClient

import snapkit
from snapkit import run as running

__all__ = ["main", "recover", "snapshot"]

SECONDS = 20.0
"""How long anything is waited for."""


class Line:
    """The line to the test."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(4 * SECONDS)
        self._socket.connect(path)
        self._words = self._socket.makefile("r")

    def say(self, **message: object) -> None:
        """From any thread, also while another one is listening."""
        self._socket.sendall(json.dumps(message, default=str).encode() + b"\n")

    def hear(self) -> str:
        return self._words.readline().strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._words.close()
        self._socket.close()


class Moments:
    """Stops the run at the moments that are wanted, each once, with its event loop."""

    def __init__(self, line: Line, wanted: list[str]) -> None:
        self.line = line
        self.wanted = wanted
        self.phase = ""
        self.sent = 0
        self._send = QMPClient._do_send
        self._connection: socket.socket | None = None

    def listening(self) -> AbstractContextManager[object]:
        """While this lasts, nothing is sent unseen."""
        moments = self

        def send(client: QMPClient, message: Message) -> None:
            moments.send(client, message)

        return patch.object(QMPClient, "_do_send", send)

    def progress(self, phase: str) -> None:
        self.phase, self.sent = str(phase), 0
        if phase == "prepare":
            self._at("before prepare")
        elif phase == "verify":
            self._at("after the switch")

    def send(self, client: QMPClient, message: Message) -> None:
        """Send a message as qemu.qmp does, and stop before or after it."""
        assert client._writer is not None
        self._connection = client._writer.get_extra_info("socket")
        self.sent += 1
        command = message.get("execute")
        if self.phase == "prepare" and command == "blockdev-create" and _is_format(message):
            self._at("within prepare")
        elif command == "transaction":
            self._at("before the switch")
        elif self.phase == "verify" and self.sent == 2:
            self._at("within verify")
        elif self.phase == "undo" and command == "blockdev-del":
            self._at("within undo")
        self._send(client, message)
        if command == "transaction":
            self._at("switch sent, no reply")

    def _at(self, moment: str) -> None:
        if moment not in self.wanted:
            return
        self.wanted.remove(moment)
        self.line.say(at=moment)
        word = self.line.hear()
        if word in {"cut", "deaf"}:
            self._forget_what_came(wait=moment == "switch sent, no reply")
        if word == "cut":
            with self._raw as raw, suppress(OSError):
                raw.shutdown(socket.SHUT_RDWR)

    @property
    def _raw(self) -> socket.socket:
        assert self._connection is not None
        return socket.socket(fileno=os.dup(self._connection.fileno()))

    def _forget_what_came(self, *, wait: bool) -> None:
        """Read the connection empty; with ``wait``, only once something has come."""
        with self._raw as raw, suppress(OSError):
            if wait:
                select.select([raw], [], [], SECONDS)
            while raw.recv(1 << 16, socket.MSG_DONTWAIT):
                pass


def _is_format(message: Message) -> bool:
    arguments: Any = message["arguments"]
    return bool(arguments["options"]["driver"] != "file")


def snapshot(job: Mapping[str, Any]) -> None:
    """Connect, plan and run; then say how that ended."""
    with Line(job["line"]) as line, snapkit.connect(job["uri"], timeout=SECONDS) as vm:
        moments = Moments(line, list(job["moments"]))
        plan = vm.plan(job["targets"], **job["options"])
        with moments.listening(), _told_of_a_cancel(line):
            end = _ended(plan, moments)
        line.say(**end)


def _told_of_a_cancel(line: Line) -> AbstractContextManager[object]:
    cancel = running.Run.cancel

    def told(run: running.Run) -> None:
        cancel(run)
        line.say(at="cancelled")

    return patch.object(running.Run, "cancel", told)


def _ended(plan: snapkit.Plan, moments: Moments) -> dict[str, object]:
    try:
        outcome = plan.run(moments.progress)
    except snapkit.SnapkitError as err:
        return {
            "end": type(err).__name__,
            "message": str(err),
            "number": getattr(err, "number", None),
            "switched": getattr(getattr(err, "outcome", None), "switched", None),
        }
    return {"end": "Outcome", "message": "; ".join(outcome.findings), "switched": outcome.switched}


def recover(job: Mapping[str, Any]) -> None:
    """Recover twice, and say what each says and what the journal shows before and after."""
    with Line(job["line"]) as line:
        line.say(
            before=_rows(snapkit.journal()),
            first=_rows(snapkit.recover(timeout=job["timeout"])),
            second=_rows(snapkit.recover(timeout=job["timeout"])),
            after=_rows(snapkit.journal()),
        )


def _rows(table: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.reset_index().to_dict("records")
    return rows


WORK = {"snapshot": snapshot, "recover": recover}


def main(job: Mapping[str, Any]) -> None:
    WORK[job["work"]](job)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
