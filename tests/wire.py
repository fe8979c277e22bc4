"""A monitor's wire that can be cut at any command, before or after it was carried out."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from tests.conftest import wait_until
from tests.recorder import Recorder, end_of

READS = ("qmp_capabilities", "query-", "x-debug-query-")


def changes(recorder: Recorder) -> list[dict[str, Any]]:
    """What was sent that could change something, in its order, without the messages' ids.

    A name that ends in ``/.`` can only be refused: so QEMU is asked whether a file exists.
    """
    return [
        {key: value for key, value in message.items() if key != "id"}
        for message in recorder.commands
        if not message["execute"].startswith(READS)
        and not message.get("arguments", {}).get("filename", "").endswith("/.")
    ]


class Wire(Recorder):
    """A recorder that hangs up once, at a chosen command."""

    command = ""
    number = 1
    carried_out: Callable[[], object] | None = None

    def hang_up_at(
        self, command: str, number: int = 1, *, carried_out: Callable[[], object] | None = None
    ) -> None:
        """Hang up when ``command`` comes for the ``number``-th time from now on.

        With ``carried_out`` it is passed on, and its reply is lost when that has come true.
        """
        self.command, self.number, self.carried_out = command, number, carried_out

    def _pass_on(
        self, message: dict[str, Any], raw: bytes, client: socket.socket, server: socket.socket
    ) -> None:
        self.number -= message["execute"] == self.command
        if message["execute"] != self.command or self.number:
            super()._pass_on(message, raw, client, server)
            return
        self.commands.append(message)
        end_of(client)
        if self.carried_out is None:
            end_of(server)
        else:
            server.sendall(raw)
            wait_until(self.carried_out, f"{self.command} is carried out")
