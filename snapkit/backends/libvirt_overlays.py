"""The overlays of a script over libvirt: claimed for it, handed over, and taken away again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from snapkit.backends import claiming, claims, libvirt_errors, libvirt_truth, processes
from snapkit.backends.base import LinkLost, MadeFile, Receipt, Refused
from snapkit.backends.libvirt_domain import Running
from snapkit.backends.libvirt_link import Connection
from snapkit.backends.libvirt_xml import Moment
from snapkit.backends.locality import Place
from snapkit.compare import is_on
from snapkit.errors import ConnectError
from snapkit.model import Graph
from snapkit.script import Overlay, Script

__all__ = ["Overlays"]

_Owners = Mapping[str, tuple[int, int, int]]


class Manager(Protocol):
    """What is needed of the backend."""

    place: Place
    running: Running

    @property
    def gone(self) -> bool:
        """Whether the VM has ended."""

    async def observe(self) -> Graph:
        """One consistent reading."""

    async def make_sure(self, graph: Graph) -> None:
        """Raises Refused where QEMU has its disks on other images than the graph says."""

    async def moments(self) -> tuple[Sequence[Moment], str]:
        """The snapshots that libvirt remembers, and the current one's name."""

    async def names(self) -> tuple[str, ...]:
        """The names of the snapshots that libvirt remembers."""


class Overlays:
    """The overlays of one domain. ``switch_seconds`` is how long the switch may take."""

    def __init__(self, manager: Manager, switch_seconds: float) -> None:
        self._manager = manager
        self._switch_seconds = switch_seconds
        self._writer: Connection | None = None
        self._owners: _Owners = {}
        """Whose the disks' images were when the run began."""
        self._known: frozenset[str] | None = None
        """The snapshots that libvirt remembered then; None where no run of ours has begun."""
        self._only_noted = False
        """Whether files are noted that only libvirt would make, and it was not yet asked to."""

    async def prepare(self, script: Script, receipt: Receipt) -> None:
        """Connect for writing, and claim the files. Raises Refused or ConnectError.

        libvirt takes an empty file for one that it made itself. Overlays that are there
        already are measured as they are.
        """
        place = self._manager.place
        reused = [overlay for overlay in script.overlays if not overlay.create]
        if reused and not place.local:
            msg = (
                f"the header of {reused[0].file} cannot be looked at from here, and libvirt does "
                "not look. Let libvirt make the overlay, or connect with local=True if the files "
                "are here"
            )
            raise Refused(msg, reused[0].device)
        made = [overlay for overlay in script.overlays if overlay.create]
        self._only_noted = not place.local
        both = await asyncio.gather(
            self._connect(), claiming.claim(made, place, receipt), return_exceptions=True
        )
        # Both have come to their end, so that all of it can be undone.
        for failure in filter(None, both):
            raise failure
        if reused:
            receipt.reused[:] = [MadeFile(overlay.file, None) for overlay in reused]
            receipt.prepared = True
            await claiming.measure(place, receipt)
        bases = [overlay.backing_file for overlay in script.overlays]
        self._owners = await asyncio.to_thread(_owners, bases) if place.local else {}

    async def _connect(self) -> None:
        """Connect for writing, and note what libvirt remembers already."""
        self._writer = await self._manager.running.writer()
        self._known = frozenset(await self._manager.names())

    async def confirm(self, script: Script, receipt: Receipt) -> None:
        """Raises Refused if a file of the receipt is another one under its name now."""
        await claiming.confirm(script, self._manager.place, receipt)

    async def switch(self, script: Script) -> None:
        """Send the one call. Raises Refused (nothing moved) or LinkLost (unknown)."""
        writer = self._writer
        if writer is None or not writer.alive:
            msg = "the connection was lost before libvirt was asked"
            raise Refused(msg)
        arguments: Any = script.switch.arguments
        self._only_noted = False
        try:
            await self._manager.running.change(
                writer,
                lambda libvirt, domain: domain.snapshotCreateXML(
                    arguments["xml"], _flags(libvirt, arguments["flags"])
                ),
                self._switch_seconds,
            )
        except Refused as err:
            if await asyncio.to_thread(self._has_taken_back, script):
                raise
            graph = await self._look_after(err)
            # libvirt can fail after its transaction, as when it cannot save what it remembers.
            if any(is_on(graph, overlay) for overlay in script.overlays):
                raise LinkLost(str(err)) from err
            device = libvirt_errors.blamed(str(err), script.overlays, graph.devices)
            raise Refused(str(err), device) from err
        else:
            self._owners, self._known = {}, None
        finally:
            await self._close_writer()

    def _has_taken_back(self, script: Script) -> bool:
        """Whether libvirt, asked of a domain that has ended, has removed all the overlays."""
        if not (self._manager.place.local and self._manager.gone):
            return False
        return not any(os.path.lexists(overlay.file) for overlay in script.overlays)

    async def _look_after(self, err: Refused) -> Graph:
        """The graph after a refusal. Raises LinkLost where it cannot be looked at."""
        try:
            return await self._manager.observe()
        except (Refused, ConnectError):
            raise LinkLost(str(err)) from err

    async def _close_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.close()

    async def leftovers(self, overlays: Sequence[Overlay], receipt: Receipt) -> Receipt:
        """What there still is of what an earlier run made: files, for libvirt keeps its own.

        Raises Refused where QEMU and libvirt do not agree what the disks are.
        """
        made = [made for made in receipt.files if made.path in {o.file for o in overlays}]
        ours = await asyncio.to_thread(lambda: [m for m in made if claims.is_ours(m)])
        if ours:
            await self._manager.make_sure(await self._manager.observe())
        return Receipt(files=ours)

    async def discard(self, receipt: Receipt) -> list[str]:
        """Remove what the receipt names and nobody uses; say what could not be removed."""
        await self._close_writer()
        try:
            return await self._discard(receipt)
        finally:
            # What is known of this run says nothing about another.
            self._owners, self._known, self._only_noted = {}, None, False

    async def _discard(self, receipt: Receipt) -> list[str]:
        place = self._manager.place
        if not place.local and self._only_noted:
            return []
        remarks: list[str] = []
        in_use: set[tuple[int, int]] = set()
        if not self._manager.gone:
            held = await asyncio.to_thread(_held, place)
            try:
                disks = await self._files_in_use()
                if await self._close_strays(receipt, (held or set()) - disks):
                    held = await asyncio.to_thread(_held, place)
                in_use = disks | (held or set())
                remarks += _left_open(receipt, in_use - disks)
            except (Refused, ConnectError):
                if held is None and not self._manager.gone:
                    what = f"libvirt could not be asked, and may have left {receipt}"
                    return [what] if receipt else []
                in_use = held or set()
        for made in receipt.files:
            if place.local:
                remark = await asyncio.to_thread(claims.remove, made, in_use)
            else:
                remark = f"{made.path} may have been made: look where QEMU runs, and remove it"
            remarks += [remark] if remark else []
        remarks += await self._forget(receipt)
        return remarks + await asyncio.to_thread(_changes, self._owners)

    async def _files_in_use(self) -> set[tuple[int, int]]:
        graph = await self._manager.observe()
        files = [node.file for node in graph.nodes.values() if node.file.startswith("/")]
        return await asyncio.to_thread(_identities, files)

    async def _close_strays(self, receipt: Receipt, held: set[tuple[int, int]]) -> bool:
        """Have QEMU close what is ours, in no chain, and open still.

        A daemon that was ended before its transaction has left that behind, and another one
        does not know of it. Says whether there was anything. Raises Refused or ConnectError.
        """
        ours = [m for m in receipt.files if m.identity in held and claims.is_ours(m)]
        if not ours:
            return False
        files = {made.path for made in ours}
        writer = await self._manager.running.writer()
        try:
            await self._manager.running.change(
                writer, lambda _, domain: libvirt_truth.close(domain, files)
            )
        finally:
            await writer.close()
        return True

    async def _forget(self, receipt: Receipt) -> list[str]:
        """Have libvirt forget what it remembers of a run that switched nothing, never a file.

        That is a snapshot that was not there before, and whose overlays are the run's.
        """
        mine = {made.path for made in receipt.files}
        if not mine or self._known is None or self._manager.gone:
            return []
        try:
            known, _ = await self._manager.moments()
            graph = await self._manager.observe()
            layers = {x.file for d in graph.devices.values() for x in d.layers}
            names = [
                moment.name
                for moment in known
                if moment.name not in self._known
                and mine & (files := {file for _, file in moment.disks})
                and not files & layers
            ]
            if not names:
                return []
            writer = await self._manager.running.writer()
        except (Refused, ConnectError):
            return []
        try:
            await self._manager.running.change(writer, lambda lib, dom: _forget(lib, dom, names))
        except (Refused, LinkLost) as err:
            return [f"libvirt still remembers the snapshot {', '.join(names)}: {err}"]
        finally:
            await writer.close()
        return []


def _flags(libvirt: Any, names: Sequence[str]) -> int:
    found = 0
    for name in names:
        found |= getattr(libvirt, f"VIR_DOMAIN_SNAPSHOT_CREATE_{name}")
    return found


def _forget(libvirt: Any, domain: Any, names: Sequence[str]) -> None:
    for name in names:
        snapshot = domain.snapshotLookupByName(name)
        snapshot.delete(libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)


def _held(place: Place) -> set[tuple[int, int]] | None:
    """The files that QEMU has open; None if that cannot be told."""
    found = processes.open_files(place.pid) if place.pid is not None else None
    return None if found is None else set(found)


def _left_open(receipt: Receipt, held: Collection[tuple[int, int]]) -> list[str]:
    """The reused overlays that no disk is on and QEMU has open, in words.

    libvirt does not close a file in QEMU when the image in it could not be opened.
    """
    return [
        f"libvirt has left {made.path} open in QEMU, which lets it go when the VM ends"
        for made in receipt.reused
        if made.identity in held
    ]


def _identities(files: Sequence[str]) -> set[tuple[int, int]]:
    return {found for found in map(processes.identity, files) if found}


def _owners(files: Sequence[str]) -> _Owners:
    """Whose the files are, and with which permission bits."""
    return {file: found for file in files if (found := _owner(file))}


def _owner(file: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(file)
    except (OSError, ValueError):
        return None
    return status.st_uid, status.st_gid, status.st_mode & 0o7777


def _changes(before: _Owners) -> list[str]:
    """What libvirt has changed about who may use the disks' images, in words."""
    return [
        f"libvirt has changed the owner or the rights of {file}: they were "
        f"{old[0]}:{old[1]} {old[2]:o} and are {new[0]}:{new[1]} {new[2]:o}"
        for file, old in before.items()
        if (new := _owner(file)) and new != old
    ]
