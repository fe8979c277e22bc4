"""What runs in another process than the tests: a snapshot that stops at chosen moments.

``python -m tests.faults.client JOB`` with a job in JSON. It says on a socket where it is, as
one JSON object a line, and goes on at a word from there:

``go``    go on
``cut``   over QMP: end the own connection in both directions, what has arrived on it unread
``deaf``  over QMP: throw away what has arrived on the connection, and go on
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Self
from unittest.mock import patch

import snapkit
from snapkit import errors, undo
from snapkit import run as running
from tests.faults.moments import SECONDS, LibvirtMoments, Moments, QmpMoments

__all__ = ["main", "recover", "snapshot"]


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


def snapshot(job: Mapping[str, Any]) -> None:
    """Connect, plan and run; then say how that ended."""
    if "patience" in job:
        undo.RECONNECT_SECONDS = undo.STUCK_SECONDS = job["patience"]
    uri, domain = job["uri"], job["domain"]
    with Line(job["line"]) as line, snapkit.connect(uri, domain, timeout=SECONDS) as vm:
        kind = LibvirtMoments if domain else QmpMoments
        moments: Moments = kind(line, list(job["moments"]))
        plan = vm.plan(job["targets"], **job["options"])
        moments.at("after the plan")
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
            "end": _public(type(err)).__name__,
            "message": str(err),
            "number": getattr(err, "number", None),
            "switched": getattr(getattr(err, "outcome", None), "switched", None),
        }
    return {"end": "Outcome", "message": "; ".join(outcome.findings), "switched": outcome.switched}


def _public(kind: type) -> type:
    """The kind of error that a user knows it as."""
    return next(known for known in kind.mro() if known.__module__ == errors.__name__)


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
