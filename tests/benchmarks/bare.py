"""The least that a client can do: commands over a socket, sent together where they may be.

It has no tables, no checks and no second look: what it takes is what QEMU takes.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from snapkit.backends.qmp import QmpBackend
from snapkit.script import Command, Script
from tests.conftest import Qmp

Message = dict[str, Any]


class Bare(Qmp):
    """One monitor."""

    def together(self, messages: Sequence[Message]) -> list[Message]:
        """Send commands back to back; their replies, once the jobs that they start have ended."""
        lines = [json.dumps(message).encode() + b"\n" for message in messages]
        self.stream.write(b"".join(lines))
        self.stream.flush()
        replies: list[Message] = []
        jobs = {m["arguments"]["job-id"] for m in messages if m["execute"] == "blockdev-create"}
        while len(replies) < len(messages) or jobs:
            message = self._read()
            data = message.get("data", {})
            if "event" not in message:
                replies.append(message)
            elif message["event"] == "JOB_STATUS_CHANGE" and data["status"] == "concluded":
                jobs.discard(data["id"])
        return replies

    def replay(self, messages: Iterable[Message]) -> float:
        """Send commands in their order, like ones and questions together; the seconds it took."""
        began = time.perf_counter()
        for _, group in itertools.groupby(messages, _kind):
            for reply in self.together(list(group)):
                assert "error" not in reply, reply
        return time.perf_counter() - began


def _kind(message: Message) -> str:
    name: str = message["execute"]
    return "query" if "query-" in name else name


@contextmanager
def recorded() -> Iterator[list[Message]]:
    """What snapkit sends over QMP meanwhile.

    A proxy would not do: QEMU would seem to be on another host, and be asked other things.
    """
    sent: list[Message] = []
    execute = QmpBackend.execute

    async def note(
        backend: QmpBackend,
        command: str,
        arguments: Mapping[str, object] | None = None,
        seconds: float | None = None,
    ) -> Any:
        sent.append({"execute": command, **({"arguments": dict(arguments)} if arguments else {})})
        return await execute(backend, command, arguments, seconds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(QmpBackend, "execute", note)
        yield sent


def messages(script: Script) -> list[Message]:
    """The commands of a script as they go over the wire."""
    return [message(command) for command in script.commands]


def message(command: Command) -> Message:
    found: Message = json.loads(command.to_json())
    return found
