"""QMP: a QEMU or qemu-storage-daemon monitor as a backend. qemu.qmp does the protocol."""

from __future__ import annotations

import asyncio
import atexit
import itertools
import logging
import os
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import qemu.qmp as protocol
from qemu.qmp import QMPClient

from snapkit import loop
from snapkit.address import TcpAddress, UnixAddress
from snapkit.backends import files, locality, qmp_graph, qmp_script, qmp_socket
from snapkit.backends.base import Event, LinkLost, MadeFile, Receipt, Refused
from snapkit.errors import ConnectError
from snapkit.facts import Facts, FileFacts
from snapkit.model import Graph, Target
from snapkit.script import Command, Overlay, Script

__all__ = ["QmpBackend"]

_LINE_LIMIT = 64 * 1024 * 1024
"""Bytes that one answer may have: 128 disks with 200 layers each stay below half of it."""
_READ_SECONDS = 30.0
_SWITCH_SECONDS = 120.0
_EVENTS_KEPT = 10_000
_READINGS = 8
_READING_COMMANDS = (
    "query-block",
    "query-named-block-nodes",
    "x-debug-query-block-graph",
    "query-blockstats",
    "query-jobs",
    "query-block-exports",
)

# qemu.qmp reports every failure to its logger; snapkit raises it as an error instead.
logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())


class QmpBackend:
    """One QMP monitor. Made by ``open``."""

    forms = qmp_script.FORMS
    domain = None

    def __init__(self, address: UnixAddress | TcpAddress) -> None:
        self.address = address
        self.uri = str(address)
        self.name = ""
        self.version = ""
        self._place = locality.ELSEWHERE
        self._commands: frozenset[str] = frozenset()
        self._client: QMPClient | None = None
        self._reported: deque[Event] = deque(maxlen=_EVENTS_KEPT)
        self._job_changed = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls, address: UnixAddress | TcpAddress, *, timeout: float, local: bool | None
    ) -> QmpBackend:
        """Connect. ``timeout`` in seconds covers the greeting too.

        Raises ConnectError.
        """
        backend = cls(address)
        await backend._connect(timeout)
        _open.add(backend)
        try:
            await backend._introduce(local)
        except BaseException:
            await backend.close()
            raise
        return backend

    @property
    def local(self) -> bool:
        """Whether QEMU's files are this host's."""
        return self._place.local

    @property
    def locality(self) -> str:
        """How that is known, in one sentence."""
        return self._place.why

    @property
    def connected(self) -> bool:
        """Whether the connection stands."""
        return (
            self._client is not None and self._client.runstate is protocol.Runstate.RUNNING
        )

    async def _connect(self, timeout: float) -> None:
        client = QMPClient("snapkit", readbuflen=_LINE_LIMIT)
        # A listener keeps every event that it accepts for ever, and this one cannot be
        # removed. So it hands each event over and accepts none.
        client.events.event_filter = self._hear
        await qmp_socket.establish(client, self.address, timeout)
        self._client = client
        self._watch = asyncio.create_task(_watch(client))

    def _hear(self, message: Mapping[str, Any]) -> bool:
        stamp = message.get("timestamp", {})
        seconds = stamp.get("seconds", 0) + stamp.get("microseconds", 0) / 1e6
        name, data = str(message["event"]), message.get("data", {})
        self._reported.append(Event(datetime.fromtimestamp(seconds, UTC), name, data))
        if name == "JOB_STATUS_CHANGE":
            self._job_changed.set()
        return False

    async def _introduce(self, local: bool | None) -> None:
        """Learn what is at the other end: commands, version, name, and whose files."""
        answer = await self._execute("query-commands")
        self._commands = frozenset(row["name"] for row in answer)
        version = (await self._execute("query-version"))["qemu"]
        self.version = "{major}.{minor}.{micro}".format_map(version)
        if "query-name" in self._commands:
            self.name = (await self._execute("query-name")).get("name", "")
        missing = {"x-debug-query-block-graph", "query-named-block-nodes"} - self._commands
        if missing:
            msg = f"{self.uri}: QEMU {self.version} has no block graph to show; 4.0 or later has"
            raise ConnectError(msg)
        graph = await self.observe()
        images = [node.given_name for node in graph.nodes.values()]
        self._place = await asyncio.to_thread(locality.find, self.address, images, local)

    async def close(self) -> None:
        """Close the connection. Safe to call twice."""
        client, self._client = self._client, None
        if client is not None:
            await qmp_socket.hang_up(client)

    async def reconnect(self, timeout: float) -> None:
        """Connect again to the same monitor. Raises ConnectError after ``timeout`` seconds."""
        await self.close()
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            try:
                await self._connect(max(left, 0.1))
            except ConnectError:
                if time.monotonic() >= deadline:
                    raise
                await asyncio.sleep(min(0.1, max(left, 0)))
            else:
                return

    async def _execute(
        self, command: str, arguments: Mapping[str, object] | None = None, seconds: float | None = None
    ) -> Any:
        """Send one command. Raises Refused (QEMU's own words) or LinkLost."""
        if self._client is None:
            msg = f"The connection to {self.uri} is closed. Connect again."
            raise LinkLost(msg)
        limit = seconds or _READ_SECONDS
        try:
            async with asyncio.timeout(limit):
                return await self._client.execute(command, arguments)
        except protocol.ExecuteError as err:
            raise Refused(str(err)) from err
        except TimeoutError as err:
            msg = f"{self.uri} did not answer {command} within {limit:g} s. Is the VM's host stuck?"
            raise LinkLost(msg) from err
        except (protocol.QMPError, OSError, EOFError) as err:
            msg = f"The connection to {self.uri} was lost. Look whether the VM runs, and connect again."
            raise LinkLost(msg) from err

    async def observe(self) -> Graph:
        """One consistent reading of the block graph.

        The queries travel together; where the graph changed between them, they are repeated.
        """
        for _ in range(_READINGS):
            reading = await self._read()
            try:
                return await asyncio.to_thread(qmp_graph.build, reading)
            except qmp_graph.Inconsistent:
                continue
        msg = f"{self.uri}: the block graph changes faster than it can be read. Try again."
        raise Refused(msg)

    async def _read(self) -> qmp_graph.Reading:
        names = [name for name in _READING_COMMANDS if name in self._commands]
        flat = {"query-named-block-nodes": {"flat": True}}
        answers = await asyncio.gather(*(self._execute(n, flat.get(n)) for n in names))
        told: dict[str, Any] = dict(zip(names, answers, strict=True))
        return qmp_graph.Reading(
            block=told["query-block"],
            nodes=told["query-named-block-nodes"],
            graph=told["x-debug-query-block-graph"],
            stats=told.get("query-blockstats", ()),
            jobs=told.get("query-jobs", ()),
            exports=told.get("query-block-exports", ()),
            directory=self._place.directory,
        )

    async def probe(
        self, paths: Sequence[str], images: Sequence[str] = ()
    ) -> Mapping[str, FileFacts]:
        """What is at ``paths`` where QEMU is; of ``images`` also what their headers say."""
        if not self.local:
            return {path: FileFacts(path) for path in paths}
        return await asyncio.to_thread(self._look, paths, frozenset(images))

    def _look(self, paths: Sequence[str], images: frozenset[str]) -> dict[str, FileFacts]:
        owner = self._place.owner
        found = {path: files.look(path, owner, header=path in images) for path in paths}
        for facts in tuple(found.values()):
            below = facts.image.full_backing_file if facts.image else None
            if below and below.startswith("/"):
                found.setdefault(below, files.look(below, owner))
        return found

    async def facts(self, paths: Sequence[str], images: Sequence[str] = ()) -> Facts:
        """Observe, and probe ``paths`` and every file of the graph."""
        graph = await self.observe()
        layers = (layer.file for device in graph.devices.values() for layer in device.layers)
        wanted = dict.fromkeys(path for path in (*paths, *layers) if path.startswith("/"))
        return Facts(
            graph=graph,
            files=await self.probe([p for p in wanted if _can_be_asked(p)], images),
            local=self.local,
            locality=self.locality,
            qemu_directory=self._place.directory,
            qemu_user=self._place.user,
            commands=self._commands,
        )

    def script(self, targets: Sequence[Target], facts: Facts, engine: str) -> Script:
        """The exact commands for these targets. No I/O."""
        return qmp_script.write(targets, facts, engine)

    def render(self, script: Script, form: str) -> str:
        """The script in one of ``forms``. No I/O."""
        return qmp_script.render(script, form)

    async def prepare(self, script: Script, receipt: Receipt) -> None:
        """Claim the files and carry out ``script.prepare``, noting what was made."""
        left_to_qemu = await self._claim(script, receipt)
        for name, group in itertools.groupby(script.prepare, lambda command: command.execute):
            commands = list(group)
            await self._send_together(commands, receipt)
            if name == "blockdev-create":
                await self._jobs_end(commands)
                await self._note_made(left_to_qemu, receipt)
                left_to_qemu = []

    async def _claim(self, script: Script, receipt: Receipt) -> list[str]:
        """Claim what is to be created; return the files that only QEMU can make."""
        left: list[str] = []
        for overlay in script.overlays:
            if not overlay.create:
                continue
            made = await self._claim_one(overlay)
            if made is not None:
                receipt.files.append(made)
            elif script.prepare:
                left.append(overlay.file)
            else:
                receipt.files.append(MadeFile(overlay.file, None))
        return left

    async def _claim_one(self, overlay: Overlay) -> MadeFile | None:
        if not self.local:
            return None
        try:
            return await asyncio.to_thread(files.claim, overlay.file, self._place.owner)
        except Refused as err:
            raise Refused(str(err), overlay.device) from err

    async def _note_made(self, paths: Sequence[str], receipt: Receipt) -> None:
        for path in paths:
            try:
                status = os.lstat(path) if self.local else None
            except OSError:
                status = None
            identity = (status.st_dev, status.st_ino) if status else None
            receipt.files.append(MadeFile(path, identity))

    async def _send_together(self, commands: Sequence[Command], receipt: Receipt) -> None:
        """Send commands back to back, note what each made, and raise the first failure."""
        answers = await asyncio.gather(
            *(self._execute(command.execute, command.arguments) for command in commands),
            return_exceptions=True,
        )
        for command, answer in zip(commands, answers, strict=True):
            if not isinstance(answer, BaseException):
                _note(command, receipt)
        for command, answer in zip(commands, answers, strict=True):
            if isinstance(answer, Refused):
                raise Refused(str(answer), command.device) from answer
            if isinstance(answer, BaseException):
                raise answer

    async def _jobs_end(self, commands: Sequence[Command]) -> None:
        """Wait for creation jobs. Raises Refused with the job's own error."""
        devices = {str(command.arguments["job-id"]): command.device for command in commands}
        ended = await self._concluded(devices.keys())
        for name, job in ended.items():
            if job.get("error"):
                raise Refused(job["error"], devices[name])

    async def _concluded(self, wanted: Collection[str]) -> dict[str, Any]:
        while True:
            self._job_changed.clear()
            jobs = {row["id"]: row for row in await self._execute("query-jobs")}
            mine = {name: jobs[name] for name in wanted if name in jobs}
            if all(job["status"] == "concluded" for job in mine.values()):
                return mine
            try:
                async with asyncio.timeout(1):
                    await self._job_changed.wait()
            except TimeoutError:
                continue

    async def switch(self, script: Script) -> None:
        """Send ``script.switch``. Raises Refused (nothing moved) or LinkLost (unknown)."""
        command = script.switch
        await self._execute(command.execute, command.arguments, _SWITCH_SECONDS)

    async def discard(self, receipt: Receipt) -> list[str]:
        """Remove what the receipt names and nobody uses; say what could not be removed."""
        remarks: list[str] = []
        in_use: set[tuple[int, int]] = set()
        try:
            await self._concluded(receipt.jobs)
            for job in receipt.jobs:
                await _try(self._execute("job-dismiss", {"id": job}), remarks)
            for node in reversed(receipt.nodes):
                await _try(self._execute("blockdev-del", {"node-name": node}), remarks)
            in_use = await self._files_in_use()
        except LinkLost:
            remarks.append("nodes that were made for this run could not be removed")
        for made in receipt.files:
            if remark := await asyncio.to_thread(files.remove, made, in_use):
                remarks.append(remark)
        return remarks

    async def _files_in_use(self) -> set[tuple[int, int]]:
        graph = await self.observe()
        found = await self.probe(
            [node.file for node in graph.nodes.values() if node.file.startswith("/")]
        )
        return {facts.identity for facts in found.values() if facts.identity}

    async def header(self, overlay: Overlay) -> str:
        """Open the overlay's chain offline; say what is wrong with it, or nothing."""
        if not self.local:
            return ""
        chain = await asyncio.to_thread(files.chain, overlay.file, overlay.format)
        if chain is None:
            return f"{overlay.file} was not opened offline: qemu-img is not installed"
        if isinstance(chain, str):
            return f"{overlay.file} does not open offline: {chain}"
        names = [(os.path.realpath(file), format_) for file, format_ in chain]
        wanted = (os.path.realpath(overlay.backing_file), overlay.backing_format)
        if names[1:2] != [wanted]:
            found = f"{chain[1][0]} ({chain[1][1]})" if len(chain) > 1 else "nothing"
            return (
                f"the header of {overlay.file} names {found} as its backing file, "
                f"not {overlay.backing_file} ({overlay.backing_format})"
            )
        return ""

    def events(self) -> Sequence[Event]:
        """What the VM has reported since connecting, oldest first; the newest 10,000."""
        return tuple(self._reported)


def _note(command: Command, receipt: Receipt) -> None:
    """Write down what a command that succeeded has made."""
    if command.execute == "blockdev-add":
        receipt.nodes.append(str(command.arguments["node-name"]))
    elif command.execute == "blockdev-create":
        receipt.jobs.append(str(command.arguments["job-id"]))
    elif command.execute == "job-dismiss":
        receipt.jobs.remove(str(command.arguments["id"]))


_open: weakref.WeakSet[QmpBackend] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Hang up properly when the process ends, also where the user did not close."""
    with suppress(TimeoutError):
        loop.call(_close_each(), timeout=2)


async def _close_each() -> None:
    for backend in tuple(_open):
        await backend.close()


async def _watch(client: QMPClient) -> None:
    """Tidy up when the connection ends by itself; qemu.qmp leaves that to its user."""
    while client.runstate is protocol.Runstate.RUNNING:
        await client.runstate_changed()
    await qmp_socket.hang_up(client)


async def _try(action: Awaitable[object], remarks: list[str]) -> None:
    """Clean-up goes on past what the VM refuses."""
    try:
        await action
    except Refused as err:
        remarks.append(str(err))


def _can_be_asked(path: str) -> bool:
    """Whether the kernel can be asked about this name at all."""
    return "\0" not in path
