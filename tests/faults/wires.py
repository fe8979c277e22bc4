"""The two wires of a libvirt domain: from snapkit to libvirtd, and from libvirtd to QEMU.

Each can be stopped within the snapshot, where one end has done its part and the other end
does not know it.
"""

from __future__ import annotations

import json
import os
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from tests.conftest import SECONDS
from tests.faults.shears import Shears
from tests.libvirt_wire import HEADER, REMOTE, REPLY, SNAPSHOT
from tests.recorder import CHUNK, Recorder, end_of

__all__ = ["Gate", "Link", "Stop"]


class Stop:
    """Where one message waits until it is let go, or one of the ends has gone."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._free = os.eventfd(0, os.EFD_CLOEXEC)

    def wait(self, *ends: socket.socket) -> bool:
        """Wait. False if an end has gone: what waited was lost with it."""
        gone, either = select.poll(), select.poll()
        for end in ends:
            gone.register(end, select.POLLRDHUP)
            either.register(end, select.POLLRDHUP)
        either.register(self._free, select.POLLIN)
        self.reached.set()
        either.poll(4 * SECONDS * 1000)
        return not gone.poll(0)

    def let_go(self) -> None:
        os.eventfd_write(self._free, 1)

    def close(self) -> None:
        os.close(self._free)


class Gate(Recorder):
    """Between libvirtd and QEMU. It holds the transaction, or what QEMU answers to it.

    It takes the place of QEMU's monitor, which is at ``path``; libvirtd has to connect anew.
    """

    def __init__(self, path: Path, hold: Literal["transaction", "answer"]) -> None:
        self.stop = Stop()
        self._hold = hold
        self._number: object = None
        behind = path.with_name("behind.sock")
        path.rename(behind)
        super().__init__(f"unix:{behind}", path.parent)
        own = Path(self.path)
        own.chmod(0o777)
        own.rename(path)
        # It goes with QEMU, or is removed by libvirt.
        self.path = ""

    def _pass_on(
        self, message: dict[str, Any], raw: bytes, client: socket.socket, server: socket.socket
    ) -> None:
        if message["execute"] == "transaction":
            self._number = message["id"]
            if self._hold == "transaction" and not self.stop.wait(client, server):
                end_of(client)
                end_of(server)
                return
        super()._pass_on(message, raw, client, server)

    def _down(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError), server.makefile("rb") as lines:
            for line in lines:
                answers = json.loads(line).get("id", self) == self._number
                if self._hold == "answer" and answers and not self.stop.wait(client, server):
                    break
                client.sendall(line)
        end_of(client)

    def close(self) -> None:
        self.stop.let_go()
        super().close()
        self.stop.close()


class Link(Shears):
    """Between snapkit and libvirtd. It can hold the answer to the snapshot, or cut anywhere.

    The call that takes the snapshot counts as the transaction.
    """

    holds = False

    def __init__(self, target: str, directory: Path) -> None:
        self.stop = Stop()
        self._serials: dict[socket.socket, int] = {}
        super().__init__(f"unix:{target}", directory)

    def split(self, data: bytes) -> Iterator[tuple[Any, bytes]]:
        """The whole packets; the messages name what is called."""
        while len(data) >= HEADER.size and len(data) >= HEADER.unpack_from(data)[0]:
            length, program, _, procedure, kind, serial, _ = HEADER.unpack_from(data)
            ours = (program, procedure) == (REMOTE, SNAPSHOT)
            name = "transaction" if ours else str(procedure)
            answers = (program, kind) == (REMOTE, REPLY)
            yield {"execute": name, "serial": serial, "answers": answers}, data[:length]
            data = data[length:]

    def _pass_on(
        self, message: dict[str, Any], raw: bytes, client: socket.socket, server: socket.socket
    ) -> None:
        if message["execute"] == "transaction":
            self._serials[client] = message["serial"]
        super()._pass_on(message, raw, client, server)

    def _down(self, server: socket.socket, client: socket.socket) -> None:
        unread = b""
        with suppress(OSError):
            while data := server.recv(CHUNK):
                unread += data
                for message, raw in self.split(unread):
                    unread = unread[len(raw) :]
                    ours = message["answers"] and message["serial"] == self._serials.get(client)
                    if self.holds and ours and not self.stop.wait(client, server):
                        end_of(client)
                        return
                    self._let_pass("down", raw, server, client)
        end_of(client)

    def close(self) -> None:
        self.stop.let_go()
        super().close()
        self.stop.close()
