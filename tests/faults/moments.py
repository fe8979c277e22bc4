"""Where a client's run is stopped: at chosen moments, each once, with what it is about to do."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import Any, Protocol
from unittest.mock import patch

from qemu.qmp import Message, QMPClient

from snapkit.backends import claims, libvirt_link

__all__ = ["LibvirtMoments", "Line", "Moments", "QmpMoments"]

SECONDS = 20.0
"""How long anything is waited for."""


class Line(Protocol):
    """The line to the test."""

    def say(self, **message: object) -> None:
        """From any thread, also while another one is listening."""

    def hear(self) -> str:
        """The next word."""


class Moments:
    """What all runs have in common: their phases."""

    def __init__(self, line: Line, wanted: list[str]) -> None:
        self.line = line
        self.wanted = wanted
        self.phase = ""
        self.done = 0
        """Of what is counted, how much was done within this phase."""

    def listening(self) -> AbstractContextManager[object]:
        """While this lasts, nothing is done unseen."""
        raise NotImplementedError

    def progress(self, phase: str) -> None:
        self.phase, self.done = str(phase), 0
        if phase == "prepare":
            self.at("before prepare")
        elif phase == "verify":
            self.at("after the switch")

    def at(self, moment: str) -> str:
        """Stop here, if that is wanted. The word at which it goes on."""
        if moment not in self.wanted:
            return ""
        self.wanted.remove(moment)
        self.line.say(at=moment)
        return self.line.hear()


class QmpMoments(Moments):
    """A run over QMP: its event loop stops with it."""

    def __init__(self, line: Line, wanted: list[str]) -> None:
        super().__init__(line, wanted)
        self._send = QMPClient._do_send
        self._connection: socket.socket | None = None

    def listening(self) -> AbstractContextManager[object]:
        moments = self

        def send(client: QMPClient, message: Message) -> None:
            moments.send(client, message)

        return patch.object(QMPClient, "_do_send", send)

    def send(self, client: QMPClient, message: Message) -> None:
        """Send a message as qemu.qmp does, and stop before or after it."""
        assert client._writer is not None
        self._connection = client._writer.get_extra_info("socket")
        self.done += 1
        command = message.get("execute")
        if self.phase == "prepare" and command == "blockdev-create" and _is_format(message):
            self.at("within prepare")
        elif command == "transaction":
            self.at("before the switch")
        elif self.phase == "verify" and self.done == 2:
            self.at("within verify")
        elif self.phase == "undo" and command == "blockdev-del":
            self.at("within undo")
        self._send(client, message)
        if command == "transaction":
            self.at("switch sent, no reply")

    def at(self, moment: str) -> str:
        word = super().at(moment)
        if word in {"cut", "deaf"}:
            self._forget_what_came(wait=moment == "switch sent, no reply")
        if word == "cut":
            with self._raw as raw, suppress(OSError):
                raw.shutdown(socket.SHUT_RDWR)
        return word

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


class LibvirtMoments(Moments):
    """A run over libvirt. Each of its calls blocks a thread, and that is what stops.

    Within the call that takes the snapshot it is stopped from outside.
    """

    def listening(self) -> AbstractContextManager[object]:
        domain = libvirt_link.load().virDomain
        stack = ExitStack()
        for owner, name, before in (
            (claims.Claim, "take", self._claims),
            (claims, "remove", self._removes),
            (domain, "snapshotCreateXML", self._switches),
            (domain, "XMLDesc", self._reads),
        ):
            stack.enter_context(patch.object(owner, name, _after(before, getattr(owner, name))))
        return stack

    def _claims(self) -> None:
        self.done += 1
        if self.done == 2:
            self.at("within prepare")

    def _switches(self) -> None:
        self.at("before the switch")

    def _reads(self) -> None:
        # libvirt was asked for block jobs before.
        if self.phase == "verify":
            self.at("within verify")

    def _removes(self) -> None:
        self.done += 1
        if self.phase == "undo" and self.done == 2:
            self.at("within undo")


def _after(before: Callable[[], None], work: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, with something that is done first."""

    def both(*arguments: Any, **options: Any) -> Any:
        before()
        return work(*arguments, **options)

    return both
