"""What is known about a VM behind a QMP monitor besides its block graph."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from snapkit.backends import files, processes
from snapkit.backends.locality import Place
from snapkit.backends.qmp_json import rows, text
from snapkit.facts import Facts, FileFacts
from snapkit.model import Graph

__all__ = ["Vm", "gather", "probe"]

Execute = Callable[[str], Awaitable[Any]]
Look = Callable[
    [Sequence[str], Sequence[str], Mapping[str, FileFacts]], Awaitable[dict[str, FileFacts]]
]


@dataclass(frozen=True, slots=True)
class Vm:
    """Whom to ask. ``execute`` sends one command, ``commands`` are those that the VM knows.

    ``look`` asks QEMU what cannot be looked at from here; None where it shall not be asked.
    """

    execute: Execute
    commands: frozenset[str]
    place: Place
    look: Look | None = None


async def gather(vm: Vm, graph: Graph, paths: Sequence[str], images: Sequence[str]) -> Facts:
    """What is known about a reading: ``paths`` and every file of the graph are probed.

    Of ``images`` the headers are read too. Raises Malformed, Refused or LinkLost.
    """
    place = vm.place
    layers = (layer.file for device in graph.devices.values() for layer in device.layers)
    wanted = dict.fromkeys(path for path in (*paths, *layers) if path.startswith("/"))
    # A name with a NUL is none that the kernel could be asked about.
    askable = [path for path in wanted if "\0" not in path]
    found = await asyncio.to_thread(probe, place, askable, images)
    if vm.look is not None:
        found |= await vm.look(paths, images, found)
    limit, used = (None, None) if place.pid is None else processes.descriptors(place.pid)
    return Facts(
        graph=graph,
        files=found,
        local=place.local,
        locality=place.why,
        qemu_directory=place.directory,
        qemu_user=place.user,
        commands=vm.commands,
        fd_limit=limit,
        fd_used=used,
        tpm=await _tpms(vm.execute) if "query-tpm" in vm.commands else (),
    )


async def _tpms(execute: Execute) -> tuple[str, ...]:
    """The ids of the VM's TPMs (``query-tpm``)."""
    answer = rows(await execute("query-tpm"), "query-tpm")
    return tuple(text(row, "id") for row in answer)


def probe(
    place: Place, paths: Collection[str], images: Collection[str] = ()
) -> dict[str, FileFacts]:
    """What is at ``paths`` where QEMU is; of ``images`` also what their headers say. Blocks."""
    if not place.local:
        return {path: FileFacts(path) for path in paths}
    looker, headers = files.Looker(place.owner), frozenset(images)
    held = processes.open_files(place.pid) if place.pid else None
    found = {path: looker.look(path, header=path in headers) for path in paths}
    places = {os.path.dirname(path) for path in found}
    shared = {x: files.is_shared(x, place.pid) if place.pid else None for x in places}
    for path, seen in found.items():
        there = shared[os.path.dirname(path)]
        found[path] = replace(seen, held=files.is_held(seen, held), shared=there)
    for facts in tuple(found.values()):
        below = facts.image.full_backing_file if facts.image else None
        if below and below.startswith("/"):
            found.setdefault(below, looker.look(below))
    return found
