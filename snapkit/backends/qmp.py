"""QMP: a QEMU or qemu-storage-daemon monitor as a backend. qemu.qmp does the protocol."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import socket
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import qemu.qmp as protocol
from qemu.qmp import QMPClient
from qemu.qmp.message import DeserializationError, UnexpectedTypeError

from snapkit import loop
from snapkit.address import TcpAddress, UnixAddress
from snapkit.backends import (
    claiming,
    files,
    locality,
    processes,
    qmp_facts,
    qmp_greeting,
    qmp_json,
    qmp_reader,
    qmp_script,
    qmp_socket,
)
from snapkit.backends.abilities import of
from snapkit.backends.base import Event, LinkLost, Receipt, Refused, Snapshot, Unseen
from snapkit.backends.event_log import EventLog
from snapkit.backends.qmp_jobs import JobWatch
from snapkit.backends.qmp_json import Malformed
from snapkit.backends.qmp_overlays import Overlays
from snapkit.errors import ConnectError
from snapkit.facts import Facts, FileFacts
from snapkit.model import Graph, Target
from snapkit.printable import printable
from snapkit.script import Overlay, Script, Wishes

if TYPE_CHECKING:
    from qemu.qmp.message import Message

__all__ = ["QmpBackend"]

_LINE_LIMIT = 64 * 1024 * 1024
"""Bytes that one answer may have: 128 disks with 200 layers each stay below half of it."""
_WORDS = 1000
"""Characters of QEMU's own words that are passed on; a path alone may have 4096."""

_QUOTED = 64
"""Bytes that are kept of what is no message."""

# qemu.qmp reports every failure to its logger; snapkit raises it as an error instead.
logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())


class QmpBackend:
    """One QMP monitor. Made by ``open``.

    ``read_seconds`` is how long an answer may take, ``switch_seconds`` that of the switch.
    """

    forms, abilities = qmp_script.FORMS, of("qmp")
    domain = None
    read_seconds = 30.0
    switch_seconds = 120.0

    def __init__(self, address: UnixAddress | TcpAddress) -> None:
        self.address = address
        self.uri = str(address)
        self.name = ""
        self.version = ""
        self.place = locality.ELSEWHERE
        self.job_watch = JobWatch()
        self.reading = asyncio.Lock()
        self._commands: frozenset[str] = frozenset()
        self._pid = os.getpid()
        self._client: QMPClient | None = None
        self._socket: socket.socket | None = None
        self._events = EventLog()
        self._overlays = Overlays(self)

    @classmethod
    async def open(
        cls, address: UnixAddress | TcpAddress, *, timeout: float, local: bool | None
    ) -> QmpBackend:
        """Connect. ``timeout`` in seconds covers the greeting and the first look at the VM.

        Raises ConnectError.
        """
        backend = cls(address)
        end = asyncio.get_running_loop().time() + timeout
        await backend._connect(timeout)
        _open.add(backend)
        try:
            async with asyncio.timeout_at(end):
                await backend._introduce(local=local)
        except TimeoutError:
            await backend.close()
            msg = (
                f"{backend._where} greeted, but did not tell within {timeout:g} s what it is. "
                "Is the VM's host stuck? Try a longer timeout."
            )
            raise ConnectError(msg) from None
        except Refused as err:
            await backend.close()
            msg = f"{backend._where} refused to be looked at: {err}"
            raise ConnectError(msg) from None
        except BaseException:
            await backend.close()
            raise
        return backend

    @staticmethod
    def opened() -> list[QmpBackend]:
        """Those of this process that are connected."""
        return [backend for backend in tuple(_open) if backend.connected]

    @property
    def local(self) -> bool:
        """Whether QEMU's files are this host's."""
        return self.place.local

    @property
    def locality(self) -> str:
        """How that is known, in one sentence."""
        return self.place.why

    @property
    def connected(self) -> bool:
        """Whether the connection stands. A forked process has none."""
        client = self._client
        if client is None or self._pid != os.getpid():
            return False
        return client.runstate is protocol.Runstate.RUNNING

    @property
    def instance(self) -> str:
        """What tells this VM's process from every other; empty if that is not known."""
        return self.place.instance

    @property
    def gone(self) -> bool:
        """Whether it is known that the VM has ended."""
        return processes.is_gone(self.place.instance)

    @property
    def _where(self) -> str:
        """The endpoint, fit for a message."""
        return printable(self.uri)

    async def _connect(self, timeout: float) -> None:
        client = _Client("snapkit", readbuflen=_LINE_LIMIT)
        # A listener keeps every event that it accepts for ever, and this one cannot be
        # removed. So it hands each event over and accepts none.
        hear = weakref.WeakMethod(self._hear)
        client.events.event_filter = lambda message: bool((to := hear()) and to(message))
        self._socket = await qmp_socket.establish(client, self.address, timeout)
        self._client, self._pid = client, os.getpid()
        self.job_watch = JobWatch()
        _keep(client, self._socket)
        # A VM that is thrown away without being closed would keep its monitor busy.
        weakref.finalize(self, _hang_up_soon, client, self._socket, self._pid).atexit = False

    def _hear(self, message: Message) -> bool:
        if self._events.add(message, len(bytes(message))) == "JOB_STATUS_CHANGE":
            self.job_watch.tell(message.get("data"))
        return False

    async def _introduce(self, *, local: bool | None) -> None:
        """Learn what is at the other end: commands, version, name, and whose files."""
        try:
            told = await qmp_greeting.ask(self.execute)
        except Malformed as err:
            raise self._not_qmp(err) from None
        self.name, self.version, self._commands = told.name, told.version, told.commands
        if not self._commands >= qmp_reader.NEEDED:
            msg = f"{self._where}: QEMU {self.version} is too old to show its block graph: 5.0 can"
            raise ConnectError(msg)
        graph = await self.observe()
        images = [node.given_name for node in graph.nodes.values()]
        self.place = await asyncio.to_thread(locality.find, self.address, images, overrule=local)

    async def close(self) -> None:
        """Close the connection. Safe to call twice."""
        if self._pid != os.getpid():
            # It is the parent's: ended here, it would be ended there too.
            return
        client, self._client = self._client, None
        if client is not None:
            await qmp_socket.hang_up(client, self._socket)

    async def reconnect(self, timeout: float) -> None:
        """Connect again to the same VM. Raises ConnectError after ``timeout`` seconds."""
        await self.close()
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            try:
                await self._connect(max(left, 0.1))
            except ConnectError:
                if time.monotonic() >= deadline or self.gone:
                    raise
                await asyncio.sleep(min(0.1, max(left, 0)))
            else:
                break
        pid = await asyncio.to_thread(locality.listener, self.address)
        if pid != self.place.pid or self.gone:
            await self.close()
            msg = f"{self._where} is another VM now: its QEMU is not the one from before."
            raise ConnectError(msg)

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        seconds: float | None = None,
    ) -> Any:
        """Send one command. Raises Refused (QEMU's own words) or LinkLost."""
        if self._pid != os.getpid():
            msg = f"The connection to {self._where} belongs to another process. Connect again."
            raise LinkLost(msg)
        if self._client is None:
            msg = f"The connection to {self._where} is closed. Connect again."
            raise LinkLost(msg)
        qmp_json.check_arguments(command, arguments)
        limit = seconds or self.read_seconds
        try:
            async with asyncio.timeout(limit):
                return await self._client.execute(command, arguments)
        # Their own words may be as long as the server likes: none of them is kept.
        except protocol.ExecuteError as err:
            raise Refused(printable(err, _WORDS)) from None
        except TimeoutError:
            msg = (
                f"{self._where} did not answer {command} within {limit:g} s. "
                "Is QEMU stopped, or its host stuck?"
            )
            raise LinkLost(msg) from None
        except (protocol.QMPError, OSError, EOFError):
            msg = (
                f"The connection to {self._where} was lost. "
                "Look whether the VM runs, and connect again."
            )
            raise LinkLost(msg) from None

    async def observe(self, *, counters: bool = True) -> Graph:  # noqa: ARG002  always read
        """One consistent reading of the block graph, with all counters.

        Raises Refused when there is none or QEMU would not survive it, and ConnectError.
        """
        try:
            async with self.reading:
                return await qmp_reader.observe(self.execute, self._commands, self.place.directory)
        except Malformed as err:
            raise self._not_qmp(err) from None

    def _not_qmp(self, err: Malformed) -> ConnectError:
        what = printable(err, _WORDS)
        return ConnectError(f"{self._where} gave an answer that is no QMP: {what}.")

    async def probe(
        self, paths: Sequence[str], images: Sequence[str] = ()
    ) -> Mapping[str, FileFacts]:
        """What is at ``paths`` where QEMU is; of ``images`` also what their headers say."""
        return await asyncio.to_thread(qmp_facts.probe, self.place, paths, images)

    async def facts(
        self,
        graph: Graph,
        paths: Sequence[str],
        images: Sequence[str] = (),
        *,
        thorough: bool = False,
    ) -> Facts:
        """What is known about a reading: ``paths`` and every file of the graph are probed.

        With ``thorough``, QEMU is asked about what cannot be looked at from here.
        """
        look = self._overlays.look if thorough else None
        vm = qmp_facts.Vm(self.execute, self._commands, self.place, look)
        try:
            return await qmp_facts.gather(vm, graph, paths, images)
        except Malformed as err:
            raise self._not_qmp(err) from None

    def script(self, targets: Sequence[Target], facts: Facts, engine: str, _: Wishes) -> Script:
        """The exact commands for these targets. No I/O. QEMU remembers no snapshots."""
        return qmp_script.write(targets, facts, engine)

    def render(self, script: Script, form: str) -> str:
        """The script in one of ``forms``. No I/O."""
        return qmp_script.render(script, form)

    async def prepare(self, script: Script, receipt: Receipt) -> None:
        """Claim the files and carry out ``script.prepare``, noting what was made."""
        await self._overlays.prepare(script, receipt)

    async def flush(self, script: Script) -> None:
        """Write out what this host's caches hold of the disks, where they are files of it."""
        if self.local:
            paths = {overlay.backing_file for overlay in script.overlays}
            await asyncio.gather(*(asyncio.to_thread(files.flush, path) for path in paths))

    async def confirm(self, script: Script, receipt: Receipt) -> None:
        """Raises Refused if a file of the receipt is another one under its name now."""
        await self._overlays.confirm(script, receipt)

    async def switch(self, script: Script) -> None:
        """Send ``script.switch``. Raises Refused (nothing moved) or LinkLost (unknown)."""
        command = script.switch
        await self.execute(command.execute, command.arguments, self.switch_seconds)

    async def leftovers(self, overlays: Sequence[Overlay], receipt: Receipt) -> Receipt:
        """What there still is of what an earlier run made, as far as that can be proved."""
        return await self._overlays.leftovers(overlays, receipt)

    async def discard(self, receipt: Receipt) -> list[str]:
        """Remove what the receipt names and nobody uses; say what could not be removed."""
        return await self._overlays.discard(receipt)

    async def headers(self, overlays: Sequence[Overlay]) -> list[str | Unseen]:
        """Open each overlay's chain offline; say what is wrong with it, or nothing."""
        return await claiming.look(overlays, self.place)

    async def snapshots(self) -> Sequence[Snapshot]:
        """None: QEMU remembers no snapshots."""
        return ()

    def events(self) -> Sequence[Event]:
        """What the VM has reported since connecting, oldest first; the newest 10,000."""
        return self._events.read()


class _Client(QMPClient):
    """Without what qemu.qmp prints for its log: every message in full, and what is none."""

    def _cb_inbound(self, msg: Message) -> Message:
        return msg

    def _cb_outbound(self, msg: Message) -> Message:
        return msg

    def _do_send(self, msg: Message) -> None:
        # asyncio would print a warning for each further message.
        if self._writer is None or self._writer.transport.is_closing():
            raise ConnectionResetError
        super()._do_send(msg)

    async def _do_recv(self) -> Message:
        try:
            return await super()._do_recv()
        except DeserializationError as err:
            raise DeserializationError(err.error_message, err.raw[:_QUOTED]) from None
        except UnexpectedTypeError as err:
            raise UnexpectedTypeError(err.error_message, None) from None


_watches: set[asyncio.Task[None]] = set()
_open: weakref.WeakSet[QmpBackend] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Hang up properly when the process ends, also where the user did not close."""
    if any(backend.connected for backend in tuple(_open)):
        with suppress(TimeoutError):
            loop.call(_close_each(), timeout=2)


async def _close_each() -> None:
    for backend in tuple(_open):
        await backend.close()


def _keep(client: QMPClient, connection: socket.socket) -> None:
    """Hold what works in the background for a connection; an event loop does not."""
    watch = asyncio.create_task(_watch(client, connection))
    _watches.add(watch)
    watch.add_done_callback(_watches.discard)


def _hang_up_soon(client: QMPClient, connection: socket.socket, pid: int) -> None:
    if pid == os.getpid() and client.runstate is protocol.Runstate.RUNNING:
        loop.submit(qmp_socket.hang_up(client, connection))


async def _watch(client: QMPClient, connection: socket.socket) -> None:
    """Tidy up when the connection ends by itself; qemu.qmp leaves that to its user."""
    while client.runstate is protocol.Runstate.RUNNING:
        await client.runstate_changed()
    await qmp_socket.hang_up(client, connection)
