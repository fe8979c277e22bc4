"""Making the overlays of a script over QMP, and taking them away again."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Awaitable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from snapkit.backends import claiming, claims, processes, qmp_look
from snapkit.backends.base import LinkLost, MadeFile, Receipt, Refused
from snapkit.backends.locality import Place
from snapkit.backends.qmp_jobs import JobWatch
from snapkit.facts import FileFacts
from snapkit.model import Graph
from snapkit.node_names import job_id
from snapkit.script import Command, Overlay, Script

__all__ = ["Monitor", "Overlays"]


class Monitor(Protocol):
    """What is needed of the connection.

    ``job_watch`` hears of jobs. ``reading`` is held while the block graph is read.
    """

    place: Place
    job_watch: JobWatch
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
        made = [overlay for overlay in script.overlays if overlay.create]
        await claiming.claim(made, self._monitor.place, receipt)
        for creates, group in itertools.groupby(script.prepare, _creates):
            commands = list(group)
            if not creates:
                await self._send_together(commands, receipt)
                continue
            await self.confirm(script, receipt)
            # QEMU can crash when its graph is read while it creates an image.
            async with self._monitor.reading:
                await self._send_together(commands, receipt)
                await self._jobs_end(commands)
            if not all(made.identity for made in receipt.files):
                # Only now: what makes QEMU fail may be a file of somebody else's.
                await claiming.measure(self._monitor.place, receipt)
        receipt.reused[:] = [MadeFile(o.file, None) for o in script.overlays if not o.create]
        receipt.prepared = bool(script.prepare)
        await claiming.measure(self._monitor.place, receipt)

    async def confirm(self, script: Script, receipt: Receipt) -> None:
        """Raises Refused if a file of the receipt is another one under its name now."""
        await claiming.confirm(script, self._monitor.place, receipt)

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
        await self._monitor.job_watch.wait(devices)
        ended = await self._concluded(devices.keys())
        for name, job in ended.items():
            if job.get("error"):
                raise Refused(str(job["error"]), devices[name])

    async def _concluded(self, wanted: Collection[str]) -> dict[str, Any]:
        """Those of the jobs that there are, when all of them have concluded."""
        while True:
            jobs = {row["id"]: row for row in await self._monitor.execute("query-jobs")}
            mine = {name: jobs[name] for name in wanted if name in jobs}
            waiting = [name for name, job in mine.items() if job["status"] != "concluded"]
            if not waiting:
                return mine
            await self._monitor.job_watch.wait(waiting)

    async def leftovers(self, overlays: Sequence[Overlay], receipt: Receipt) -> Receipt:
        """What there still is of what an earlier run made.

        A node is of that run if it has the run's name and file name, and the run's own file is
        under that name, or nothing is, or QEMU has that file open still. A job is if it has the
        name that the node's creation has.
        """
        graph = await self._monitor.observe()
        pid = self._monitor.place.pid
        there, ours = await asyncio.to_thread(_ours, receipt.files, pid)
        mine = [o for o in overlays if o.file in ours or not o.create]
        names = [(name, o.file) for o in mine for name in (o.file_node, o.node)]
        jobs = {job.id for job in graph.jobs}
        nodes = [n for n, file in names if n in graph.nodes and graph.nodes[n].file == file]
        # They are closed from the last to the first: what stands on another comes behind it.
        asked = sorted(graph.nodes.values(), key=lambda node: len(node.children))
        looks = [n.name for n in asked if n.name.startswith(qmp_look.PREFIX)]
        return Receipt(
            files=there,
            nodes=[*(name for name in looks if not self._monitor.place.local), *nodes],
            jobs=[job_id(name) for name, _ in names if job_id(name) in jobs],
        )

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
            gone = processes.is_gone(self._monitor.place.instance)
            if not gone:
                # It may have the files open, and closes them only when it is asked to.
                what = f"the VM could not be asked, and may have left {receipt}"
                return [*remarks, what] if receipt else remarks
        except Refused as err:
            remarks.append(str(err))
        for made in receipt.files:
            if self._monitor.place.local:
                remark = await asyncio.to_thread(claims.remove, made, in_use)
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


def _ours(made: Sequence[MadeFile], pid: int | None) -> tuple[list[MadeFile], set[str]]:
    """The files of a run that are still under their names, and the names that are still its own.

    A file that is open cannot have lost its inode to another one, whatever is under its name.
    """
    there = [each for each in made if claims.is_ours(each)]
    held = (processes.open_files(pid) if pid else None) or frozenset()
    gone = (each for each in made if each.identity in held or not os.path.lexists(each.path))
    return there, {each.path for each in (*there, *gone)}


def _creates(command: Command) -> bool:
    """Whether a job does it, so that what follows has to wait."""
    return command.execute == "blockdev-create"


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
