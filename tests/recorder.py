"""A proxy in front of a monitor: it records what snapkit sends, and can cut it off."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.relay import CHUNK, Relay, end_of

__all__ = ["CHUNK", "Recorder", "end_of"]


class Recorder(Relay):
    """A relay that understands QMP.

    ``commands`` are the messages that were sent, parsed, in their order. A command named by
    ``cut_before`` is not passed on: the connection ends instead. One named by ``cut_after``
    is passed on, and the connection ends before its reply comes back. ``swallow`` are
    commands that vanish while the connection stays.
    """

    def __init__(self, target: str, directory: Path, *, tcp: str = "") -> None:
        self.commands: list[dict[str, Any]] = []
        self.cut_before = ""
        self.cut_after = ""
        self.swallow: frozenset[str] = frozenset()
        super().__init__(target, directory, tcp=tcp)

    @property
    def names(self) -> list[str]:
        """The commands by name."""
        return [command["execute"] for command in self.commands]

    def split(self, data: bytes) -> Iterator[tuple[Any, bytes]]:
        """The whole commands. qemu.qmp sends no newlines."""
        parser = json.JSONDecoder()
        try:
            text = data.decode()
        except UnicodeDecodeError:
            # It ends within a character.
            return
        while text:
            try:
                message, end = parser.raw_decode(text)
            except json.JSONDecodeError:
                return
            rest = text[end:].lstrip()
            yield message, text[: len(text) - len(rest)].encode()
            text = rest

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
        super()._pass_on(message, raw, client, server)
