"""Looking at what a run has brought about: before its switch, and after it."""

from __future__ import annotations

import asyncio
import os
import posixpath
from collections.abc import Awaitable, Sequence

from snapkit import compare, disk_image
from snapkit.backends.base import Backend, Refused, Unseen
from snapkit.model import Graph, Outcome
from snapkit.script import Script

__all__ = ["gone", "not_switched", "reused_overlays", "verify"]


async def verify(
    backend: Backend,
    before: Graph,
    after: Graph,
    script: Script,
    headers: Awaitable[Sequence[str | Unseen]],
) -> tuple[list[str], list[str]]:
    """What is wrong after the switch, and what could not be looked at, in words.

    ``headers`` is what ``Backend.headers`` says of the script's overlays.
    """
    notes: list[str] = []
    places = [(compare.switched(before, after, o), o) for o in script.overlays]
    changes = compare.changes(before, after)
    asked = {device.device for device, _ in places}
    wrong = [text for device, o in places if (text := compare.misplaced(after, device, o))]
    wrong += [text for name, text in changes.items() if name not in asked]
    wrong += await _headers(headers, after, script, notes)
    wrong += await _replaced(backend, after, script, notes)
    return wrong, notes


async def _headers(
    headers: Awaitable[Sequence[str | Unseen]], after: Graph, script: Script, notes: list[str]
) -> list[str]:
    """What is wrong with the overlays' headers, read offline or else from the live nodes."""
    found: Sequence[str | Unseen]
    try:
        found = await headers
    except Exception as err:  # noqa: BLE001  the switch is done, whatever this look says
        found = [Unseen(str(err)) for _ in script.overlays]
    wrong = []
    for overlay, said in zip(script.overlays, found, strict=True):
        if isinstance(said, Unseen):
            notes.append(f"{overlay.file} was not opened offline: {said}")
        wrong.append(compare.header(after, overlay) if isinstance(said, Unseen) else said)
    return [text for text in wrong if text]


async def _replaced(backend: Backend, after: Graph, script: Script, notes: list[str]) -> list[str]:
    """Which files of the new chains are not those that QEMU has open, in words."""
    names = {overlay.device for overlay in script.overlays}
    devices = [device for name, device in after.devices.items() if name in names]
    paths = {x.file for d in devices for x in d.layers if x.file.startswith("/")}
    try:
        files = await backend.probe(sorted(paths))
    except Exception as err:  # noqa: BLE001  the switch is done, whatever this look says
        notes.append(f"the files of the chains were not looked at: {err}")
        return []
    found = ((d.name, disk_image.replaced(after, d, files)) for d in devices)
    return [f"{name}: {words}" for name, texts in found for words in texts]


async def reused_overlays(backend: Backend, script: Script) -> None:
    """Look at overlays that were there before, once they are open. Raises Refused.

    QEMU checks neither size nor header; the opened node shows both.
    """
    reused = [overlay for overlay in script.overlays if not overlay.create]
    if not reused or not script.prepare:
        return
    nodes = (await backend.observe()).nodes
    for overlay in reused:
        node = nodes[overlay.node]
        if node.virtual_size != overlay.virtual_size:
            msg = f"{overlay.file} has {node.virtual_size} bytes, the disk {overlay.virtual_size}"
            raise Refused(msg, overlay.device)
        real = _real if backend.local else posixpath.normpath
        if wrong := await asyncio.to_thread(compare.header_of, node, overlay, real):
            raise Refused(wrong, overlay.device)


def _real(name: str) -> object:
    """What tells whether two names of this host are one file."""
    try:
        found = os.stat(name)
    except OSError:
        return posixpath.normpath(name)
    return found.st_dev, found.st_ino


def not_switched(before: Graph, after: Graph, script: Script, remarks: list[str]) -> Outcome:
    """The outcome of a run that was undone."""
    return Outcome(
        devices=tuple(compare.switched(before, after, o) for o in script.overlays),
        switched=False,
        ok=False,
        findings=tuple(remarks),
    )


def gone(before: Graph, script: Script, finding: str) -> Outcome:
    """The outcome of a run whose VM was switched and has ended since: read from its files."""
    return Outcome(
        devices=tuple(compare.put_on(before, overlay) for overlay in script.overlays),
        switched=True,
        ok=False,
        findings=(finding,),
    )
