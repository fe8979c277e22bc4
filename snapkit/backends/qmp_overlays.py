"""Making the overlays of a script over QMP, and taking them away again."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Awaitable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from snapkit.backends import files, processes, qmp_look
from snapkit.backends.base import LinkLost, MadeFile, Receipt, Refused, Unseen
from snapkit.backends.locality import Place
from snapkit.facts import FileFacts
from snapkit.model import Graph
from snapkit.script import Command, Overlay, Script

__all__ = ["Monitor", "Overlays"]


class Monitor(Protocol):
    """What is needed of the connection.

    ``job_changed`` is set when a job's status changes. ``reading`` is held while the block
    graph is read.
    """

    place: Place
    job_changed: asyncio.Event
    reading: asyncio.Lock

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        """Send one command. Raises Refused or LinkLost."""

    async def close(self) -> None:
        """Hang up."""

    async def observe(self) -> Graph:
        """One consistent reading of the block graph."""

    async def probe(self, paths: Sequence[str]) -> Mapping[str, FileFacts]:
        """What is at ``paths`` where QEMU is."""


class Overlays:
    """The overlays of one VM."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    async def look(
        self, paths: Sequence[str], images: Sequence[str], seen: Mapping[str, FileFacts]
    ) -> dict[str, FileFacts]:
        """What QEMU says of files that are still unknown, and of headers not yet read."""
        answers: dict[str, FileFacts] = {}
        for path in paths:
            facts, header = seen.get(path, FileFacts(path)), path in images
            if not facts.known:
                answers[path] = await qmp_look.look(self._monitor.execute, path, header=header)
            elif header and facts.kind == "file" and facts.image is None:
                told = await qmp_look.look(self._monitor.execute, path, header=True)
                answers[path] = replace(facts, image=told.image)
        return answers

    async def prepare(self, script: Script, receipt: Receipt) -> None:
        """Claim the files and carry out ``script.prepare``, noting what was made."""
        for overlay in script.overlays:
            if overlay.create:
                receipt.files.append(await self._claim(overlay))
        for name, group in itertools.groupby(script.prepare, lambda command: command.execute):
            commands = list(group)
            if name != "blockdev-create":
                await self._send_together(commands, receipt)
                continue
            await self.confirm(script, receipt)
            try:
                # QEMU can crash when its graph is read while it creates an image.
                async with self._monitor.reading:
                    await self._send_together(commands, receipt)
                    await self._jobs_end(commands)
            finally:
                await self._identify(receipt)
            await self.confirm(script, receipt)

    async def confirm(self, script: Script, receipt: Receipt) -> None:
        """Raises Refused if a file of the receipt is another one under its name now."""
        if not self._monitor.place.local:
            return
        devices = {overlay.file: overlay.device for overlay in script.overlays}
        for made in receipt.files:
            if not await asyncio.to_thread(files.is_ours, made):
                msg = f"{made.path} is no longer the file that was made for this run"
                raise Refused(msg, devices.get(made.path, ""))

    async def _claim(self, overlay: Overlay) -> MadeFile:
        """Make the file where we can; else note that QEMU will make it."""
        place = self._monitor.place
        if not place.local:
            return MadeFile(overlay.file, None)
        directory = os.path.dirname(overlay.file)
        if place.pid is not None and files.is_shared(directory, place.pid) is False:
            msg = (
                f"QEMU (pid {place.pid}) sees another directory at {directory} than this host. "
                "Connect with local=False"
            )
            raise Refused(msg, overlay.device)
        try:
            made = await asyncio.to_thread(_claim, overlay, place)
        except Refused as err:
            raise Refused(str(err), overlay.device) from err
        return made or MadeFile(overlay.file, None)

    async def _identify(self, receipt: Receipt) -> None:
        """Note which files QEMU has made where we could not; nothing was there before."""
        for number, made in enumerate(receipt.files):
            if made.identity is None and self._monitor.place.local:
                identity = await asyncio.to_thread(files.identity, made.path)
                receipt.files[number] = replace(made, identity=identity)

    async def _send_together(self, commands: Sequence[Command], receipt: Receipt) -> None:
        """Send commands back to back, note what each makes, and raise the first failure."""
        for command in commands:
            # Without a reply it may have been carried out all the same.
            _note(command, receipt)
        answers = await asyncio.gather(
            *(self._monitor.execute(command.execute, command.arguments) for command in commands),
            return_exceptions=True,
        )
        for command, answer in zip(commands, answers, strict=True):
            if isinstance(answer, Refused):
                _forget(command, receipt)
            elif command.execute == "job-dismiss" and not isinstance(answer, BaseException):
                receipt.jobs.remove(str(command.arguments["id"]))
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
                raise Refused(str(job["error"]), devices[name])

    async def _concluded(self, wanted: Collection[str]) -> dict[str, Any]:
        """Those of the jobs that there are, when all of them have concluded."""
        while True:
            changed = self._monitor.job_changed
            changed.clear()
            jobs = {row["id"]: row for row in await self._monitor.execute("query-jobs")}
            mine = {name: jobs[name] for name in wanted if name in jobs}
            if all(job["status"] == "concluded" for job in mine.values()):
                return mine
            try:
                async with asyncio.timeout(1):
                    await changed.wait()
            except TimeoutError:
                continue

    async def discard(self, receipt: Receipt) -> list[str]:
        """Remove what the receipt names and nobody uses; say what could not be removed.

        Where the VM does not answer, that names all that may be left, and the connection is
        closed: what waits in it to be carried out goes with it.
        """
        remarks: list[str] = []
        in_use: set[tuple[int, int]] = set()
        try:
            await self._close(receipt, remarks)
            in_use = await self._files_in_use()
        except LinkLost:
            await self._monitor.close()
            pid = self._monitor.place.pid
            gone = pid is not None and processes.has_ended(pid)
            if not gone and (receipt.files or receipt.nodes or receipt.jobs):
                remarks.append(f"the VM could not be asked, and may have left {receipt}")
        except Refused as err:
            remarks.append(str(err))
        for made in receipt.files:
            if self._monitor.place.local:
                remark = await asyncio.to_thread(files.remove, made, in_use)
            else:
                remark = await self._out_of_reach(made)
            remarks += [remark] if remark else []
        return remarks

    async def _close(self, receipt: Receipt, remarks: list[str]) -> None:
        """Dismiss the jobs and close the nodes that there are."""
        for job in await self._concluded(receipt.jobs):
            await _try(self._monitor.execute("job-dismiss", {"id": job}), remarks)
        there = (await self._monitor.observe()).nodes
        for node in reversed(receipt.nodes):
            if node in there:
                await _try(self._monitor.execute("blockdev-del", {"node-name": node}), remarks)

    async def _files_in_use(self) -> set[tuple[int, int]]:
        graph = await self._monitor.observe()
        found = await self._monitor.probe(
            [node.file for node in graph.nodes.values() if node.file.startswith("/")]
        )
        return {facts.identity for facts in found.values() if facts.identity}

    async def _out_of_reach(self, made: MadeFile) -> str:
        """What to say of a file that QEMU made where we cannot remove it."""
        try:
            found = await qmp_look.look(self._monitor.execute, made.path)
        except LinkLost:
            found = FileFacts(made.path)
        if found.known and not found.exists:
            return ""
        verb = "was" if found.exists else "may have been"
        return f"{made.path} {verb} made and cannot be removed from here: remove it where QEMU runs"

    async def header(self, overlay: Overlay) -> str:
        """Open the overlay's chain offline; say what is wrong with it, or nothing.

        Raises Unseen where that cannot be done.
        """
        if not self._monitor.place.local:
            msg = "QEMU's files are not this host's"
            raise Unseen(msg)
        return await asyncio.to_thread(_header, overlay)


def _claim(overlay: Overlay, place: Place) -> MadeFile | None:
    return files.claim(overlay.file, place.owner, files.mode_over(overlay.backing_file))


def _header(overlay: Overlay) -> str:
    chain = files.chain(overlay.file, overlay.format)
    if chain is None:
        msg = "qemu-img is not installed"
        raise Unseen(msg)
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


def _note(command: Command, receipt: Receipt) -> None:
    if command.execute == "blockdev-add":
        receipt.nodes.append(str(command.arguments["node-name"]))
    elif command.execute == "blockdev-create":
        receipt.jobs.append(str(command.arguments["job-id"]))


def _forget(command: Command, receipt: Receipt) -> None:
    """QEMU has refused: what has this name, if anything, is not ours."""
    if command.execute == "blockdev-add":
        receipt.nodes.remove(str(command.arguments["node-name"]))
    elif command.execute == "blockdev-create":
        receipt.jobs.remove(str(command.arguments["job-id"]))


async def _try(action: Awaitable[object], remarks: list[str]) -> None:
    """Clean-up goes on past what the VM refuses."""
    try:
        await action
    except Refused as err:
        remarks.append(str(err))
