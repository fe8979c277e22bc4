"""Finishing what was interrupted: look at the VM, finish the record, remove what was left.

Only what a run made is touched, and only where that can be proved: files by their device,
inode and birth, nodes by the file that they have open. A run that a process is at is left to
it, and two recoveries never work on one run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from snapkit import backends, limits, loop, offline
from snapkit.backends import processes
from snapkit.backends.base import Backend, Receipt
from snapkit.engine import turn
from snapkit.errors import ConnectError, SnapkitError
from snapkit.journaling import Entry, Journal, JournalError, Record, default_path
from snapkit.model import Graph
from snapkit.printable import printable
from snapkit.script import Overlay
from snapkit.telling import words

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Recovered", "recover", "recover_all"]

_SWITCHED, _NOT_SWITCHED = "switched", "not switched"
_NOTHING = "nothing"
_UNSENT = frozenset(("journal", "observe", "check"))
"""Phases in which nothing has been sent that changes anything."""
_SENT = frozenset(("switch", "verify"))
"""Phases in which the switch may have been sent; after one that was not, comes ``undo``."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """One run that was looked at: its number in the journal, what was found, what was done.

    ``state`` is ``switched``, ``not switched``, ``running`` (a process is at it) or
    ``unknown``: it could not be looked at and stays open, or its VM has ended and its files
    do not tell either.
    """

    number: int
    uri: str
    domain: str | None
    vm: str
    state: str
    found: str
    done: str


def recover(*, dry_run: bool = False, timeout: float = 5.0) -> DataFrame:
    """Finish or undo every run that was started and not ended; a row for each.

    Parameters
    ----------
    dry_run
        Look, and say what would be done; change nothing, not even the journal.
    timeout
        Seconds for each connection.

    Raises
    ------
    SnapkitError
        The journal cannot be read or written.

    """
    from snapkit import tables

    return tables.recovered(recover_all(dry_run=dry_run, timeout=timeout))


def recover_all(*, dry_run: bool = False, timeout: float = 5.0) -> list[Recovered]:
    """``recover`` without a table."""
    limit = limits.seconds(timeout)
    return loop.call(_recover_all(Journal(default_path()), _Machines(limit), dry_run=dry_run))


async def _recover_all(journal: Journal, machines: _Machines, *, dry_run: bool) -> list[Recovered]:
    try:
        entries = await asyncio.to_thread(journal.entries, closed=False)
        found = [await _recover(journal, e, machines, dry_run=dry_run) for e in entries]
        return [one for one in found if one is not None]
    finally:
        await machines.close()


async def _recover(
    journal: Journal, entry: Entry, machines: _Machines, *, dry_run: bool
) -> Recovered | None:
    """One run, held while it is looked at. None if another recovery has just finished it."""
    record = await asyncio.to_thread(journal.resume, entry.number)
    if record is None:
        return _row(entry, "running", "a process is at it", _NOTHING)
    try:
        entry = await asyncio.to_thread(journal.entry, entry.number)
        if entry.closed:
            return None
        return await _Recovery(entry, record, machines, dry_run=dry_run).run()
    except SnapkitError:
        raise
    except Exception as err:  # noqa: BLE001  one damaged entry must not stand in others' way
        found = f"its entry in the journal is damaged: {type(err).__name__}: {err}"
        return _row(entry, "unknown", found, _NOTHING)
    finally:
        await asyncio.to_thread(record.release)


def _row(entry: Entry, state: str, found: str, done: str) -> Recovered:
    start = entry.start
    where = start.uri, start.domain, start.vm
    return Recovered(entry.number, *where, state, printable(found, 4000), printable(done, 4000))


class _Machines:
    """The VMs that a recovery talks to: each is connected to once, or borrowed."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._opened: dict[tuple[str, str | None], Backend | ConnectError] = {}

    async def get(self, entry: Entry) -> Backend:
        """The VM at a run's address. Raises ConnectError.

        A monitor serves one client at a time: where this process is that client, its
        connection is used.
        """
        start = entry.start
        if borrowed := backends.find_open(start.uri, start.domain):
            return borrowed
        key = start.uri, start.domain
        if key not in self._opened:
            try:
                self._opened[key] = await backends.open_backend(
                    start.uri, start.domain, timeout=self._timeout, local=start.told
                )
            except ConnectError as err:
                self._opened[key] = err
        found = self._opened[key]
        if isinstance(found, ConnectError):
            raise found
        return found

    async def defined(self, entry: Entry) -> frozenset[str]:
        """The images that a run's VM would be started from. Raises ConnectError."""
        return await backends.defined_images(entry.start.uri, entry.start.domain, self._timeout)

    async def close(self) -> None:
        """Hang up what was opened here."""
        for found in self._opened.values():
            if not isinstance(found, ConnectError):
                await found.close()


class _Recovery:
    """One run that was interrupted."""

    def __init__(self, entry: Entry, record: Record, machines: _Machines, *, dry_run: bool) -> None:
        self.entry = entry
        self.record = record
        self.machines = machines
        self.dry_run = dry_run
        self.receipt = entry.receipt
        self.overlays = entry.start.overlays

    async def run(self) -> Recovered:
        """Look, remove what is left, and finish the record."""
        if self.entry.phase in _UNSENT and self.entry.start.local:
            return await self._finish(_NOT_SWITCHED, "it ended before anything was sent", [])
        if processes.is_gone(self.entry.start.instance):
            return await self._without_vm("the VM has ended")
        try:
            backend = await self.machines.get(self.entry)
        except ConnectError as err:
            if processes.is_gone(self.entry.start.instance):
                return await self._without_vm("the VM has ended")
            return self._unknown(err)
        mine = self.entry.start.instance
        if mine and backend.instance and backend.instance != mine:
            if processes.is_gone(mine):
                return await self._without_vm("the VM has ended")
            return self._unknown(ConnectError("it still runs, but there is another at its address"))
        try:
            async with turn(backend):
                return await self._with_vm(backend, await backend.observe())
        except JournalError:
            raise
        except SnapkitError as err:
            return self._unknown(err)

    def _unknown(self, err: SnapkitError) -> Recovered:
        found = f"the VM cannot be looked at: {words(err)}"
        return _row(self.entry, "unknown", found, "nothing; recover again when it can be reached")

    async def _with_vm(self, backend: Backend, graph: Graph) -> Recovered:
        """The VM is there: what it shows is what is so."""
        others = await asyncio.to_thread(offline.replaced, self.receipt)
        on = [o for o in self.overlays if o.file not in others and _is_in_a_chain(graph, o)]
        # One transaction takes all of them: where one still waits, it was never carried out, and
        # what is in a chain was put there by somebody else.
        sent = self.entry.phase in _SENT and not any(_waits(graph, o) for o in self.overlays)
        if on and sent:
            names = ", ".join(overlay.device for overlay in on)
            rest = len(self.overlays) - len(on)
            more = f", {rest} of the set no more" if rest else ""
            found = f"the VM has the overlays in its chains ({names}{more})"
            return await self._finish(_SWITCHED, found, [])
        if sent and await self._was_switched():
            found = "it was switched, and the VM has none of the overlays in its chains any more"
            return await self._finish(_SWITCHED, found, [])
        left = await backend.leftovers([o for o in self.overlays if o not in on], self.receipt)
        used = {overlay.file for overlay in on}
        left.files[:] = [made for made in left.files if made.path not in used]
        remarks = [f"{file} is in use by the VM, and was left alone" for file in sorted(used)]
        found = "the disks are as they were before the run"
        if sent and self.entry.start.local and not self._can_tell():
            left.files.clear()
            found = (
                "its overlays are gone or are other files now: whether it was switched is unknown"
            )
            return await self._remove(left, found, backend, remarks, state="unknown")
        return await self._remove(left, found, backend, remarks)

    def _can_tell(self) -> bool:
        return offline.can_tell(self.receipt, self.overlays)

    async def _was_switched(self) -> bool:
        """Whether the run got its answer, or its overlays were written to after it asked."""
        if self.entry.phase == "verify":
            return True
        return self.entry.phase == "switch" and bool(await self._written())

    async def _written(self) -> list[str]:
        if not self.entry.start.local:
            return []
        return await asyncio.to_thread(offline.written, self.receipt)

    async def _without_vm(self, found: str) -> Recovered:
        """The VM is no more: its files are what can be looked at."""
        files = ", ".join(overlay.file for overlay in self.overlays)
        if not self.entry.start.local:
            remark = f"its files are not on this host: look at {files}"
            return await self._finish("unknown", found, [remark])
        used = await asyncio.to_thread(offline.in_use, self.receipt)
        if used and self.entry.phase in _SENT:
            what = f"{found}; its overlays are in use as disks: {', '.join(used)}"
            return await self._finish(_SWITCHED, what, [])
        if await self._was_switched():
            what = f"{found}; it was switched, and its disks are {files}"
            return await self._finish(_SWITCHED, what, [])
        if self.entry.phase == "switch" and offline.are_some_there(self.overlays):
            try:
                defined = await self.machines.defined(self.entry)
            except ConnectError as err:
                return self._unknown(err)
            if any(overlay.file in defined for overlay in self.overlays):
                what = f"{found}; it is to be started from its overlays: {files}"
                return await self._finish(_SWITCHED, what, [])
        if self.entry.phase == "switch" and not self._can_tell():
            remark = f"whether it was switched cannot be told: look at {files}"
            return await self._finish("unknown", found, [remark])
        left = Receipt(files=offline.there(self.receipt))
        return await self._remove(left, f"{found}; nothing was written to its overlays", None)

    async def _remove(
        self,
        left: Receipt,
        found: str,
        backend: Backend | None,
        remarks: Sequence[str] = (),
        *,
        state: str = _NOT_SWITCHED,
    ) -> Recovered:
        """Take away what is left, over the VM's connection or without one."""
        # What somebody has written to since is not only ours any more.
        touched = set(await self._written())
        written = [made.path for made in left.files if made.path in touched]
        below = await asyncio.to_thread(offline.built_on, left)
        left.files[:] = [made for made in left.files if made.path not in {*written, *below}]
        more = [f"{path} has been written to, and was left alone" for path in written]
        more += [f"{x} stands on {path}, which was left alone" for path, x in below.items()]
        remarks = [*remarks, *more]
        if self.dry_run:
            sure = _without(left, Receipt(files=[made for made in left.files if not made.identity]))
            plan = [f"would remove {sure}"] if sure else []
            plan += [f"{m.path} may be left" for m in left.files if not m.identity]
            return _row(self.entry, state, found, "; ".join([*plan, *remarks]) or _NOTHING)
        if backend is None:
            remarks += await asyncio.to_thread(offline.remove, left)
            still = Receipt(files=await asyncio.to_thread(offline.there, left))
        else:
            remarks += await backend.discard(left)
            if not backend.connected:
                return self._unknown(ConnectError("; ".join(remarks) or "it has gone meanwhile"))
            still = await backend.leftovers(self.overlays, self.receipt)
        return await self._finish(state, found, remarks, _without(left, still))

    async def _finish(
        self, state: str, found: str, remarks: Sequence[str], removed: Receipt | None = None
    ) -> Recovered:
        """Close the entry, unless this only looks."""
        done = "; ".join([*([f"removed {removed}"] if removed else []), *remarks]) or _NOTHING
        if not self.dry_run:
            message = f"Recovered: {found}. Done: {done}."
            await asyncio.to_thread(self.record.end, state, message, closed=True)
        return _row(self.entry, state, found, done)


def _without(left: Receipt, still: Receipt) -> Receipt:
    """What was there and is not any more."""
    return Receipt(
        files=[made for made in left.files if made not in still.files],
        nodes=[node for node in left.nodes if node not in still.nodes],
        jobs=[job for job in left.jobs if job not in still.jobs],
    )


def _is_in_a_chain(graph: Graph, overlay: Overlay) -> bool:
    """Whether a device stands on an overlay with its base below, or on what was put on top."""
    attached = (device for device in graph.devices.values() if device.attached)
    # Without a base below, it is a prepared overlay that somebody has made use of.
    return any(layer.file == overlay.file for d in attached for layer in d.layers[:-1])


def _waits(graph: Graph, overlay: Overlay) -> bool:
    """Whether a prepared overlay is still open, on nothing, and used by nobody."""
    node = graph.nodes.get(overlay.node)
    if node is None or node.file != overlay.file:
        return False
    return not node.users and "backing" not in node.children
