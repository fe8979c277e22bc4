"""Asking a monitor for its block graph, and asking again where the answers do not fit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from snapkit.backends import qmp_graph
from snapkit.backends.base import Refused
from snapkit.backends.qmp_json import rows
from snapkit.model import Graph

__all__ = ["NEEDED", "observe"]

Execute = Callable[[str, dict[str, object] | None], Awaitable[Any]]

NEEDED = frozenset(("query-block", "query-named-block-nodes", "x-debug-query-block-graph"))
"""Without these commands there is no block graph to see."""

_READINGS = 8
_CREATION_SECONDS = 30.0
_POLL_SECONDS = 0.05
_FEW = 64
"""Nodes of which a graph is built in less time than another thread is woken."""
_FLAT: dict[str, dict[str, object]] = {"query-named-block-nodes": {"flat": True}}


async def observe(execute: Execute, commands: Collection[str], directory: str) -> Graph:
    """One consistent reading. Where the graph changed between the queries, they are repeated.

    Raises Refused when that never ends or when QEMU would not survive it, Malformed for an
    answer that is no QMP, and what ``execute`` raises.
    """
    ask = _Asker(execute, commands)
    for _ in range(_READINGS):
        await _refuse_danger(ask, await _jobs_without_creation(ask))
        reading = await _read(ask, directory)
        try:
            if len(rows(reading.nodes, "query-named-block-nodes")) < _FEW:
                return qmp_graph.build(reading)
            return await asyncio.to_thread(qmp_graph.build, reading)
        except qmp_graph.Inconsistent:
            continue
    msg = "the block graph changes faster than it can be read. Try again"
    raise Refused(msg)


class _Asker:
    """Sends queries together; those that the VM does not know have an empty answer."""

    def __init__(self, execute: Execute, commands: Collection[str]) -> None:
        self._execute = execute
        self._commands = commands

    async def __call__(self, *names: str) -> list[Any]:
        return await asyncio.gather(*map(self._one, names))

    async def _one(self, name: str) -> Any:
        return await self._execute(name, _FLAT.get(name)) if name in self._commands else []


async def _jobs_without_creation(ask: _Asker) -> Any:
    """The jobs, once no client creates an image, which for a while is a half-open node.

    QEMU (7.2, and the same lines are in 10) crashes when it describes a half-open qcow2 node.
    """
    deadline = time.monotonic() + _CREATION_SECONDS
    while True:
        (jobs,) = await ask("query-jobs")
        if not (busy := qmp_graph.creating(jobs)):
            return jobs
        if time.monotonic() > deadline:
            msg = (
                f"the job {busy} is creating an image, and until it ends QEMU can crash when its "
                "nodes are read. Wait for it, then try again"
            )
            raise Refused(msg)
        await asyncio.sleep(_POLL_SECONDS)


async def _refuse_danger(ask: _Asker, jobs: Any) -> None:
    if qmp_graph.ended(jobs):
        (graph,) = await ask("x-debug-query-block-graph")
        if danger := qmp_graph.danger(graph, jobs):
            raise Refused(danger)


async def _read(ask: _Asker, directory: str) -> qmp_graph.Reading:
    block, nodes, graph, stats, jobs, exports = await ask(
        "query-block",
        "query-named-block-nodes",
        "x-debug-query-block-graph",
        "query-blockstats",
        "query-jobs",
        "query-block-exports",
    )
    return qmp_graph.Reading(block, nodes, graph, stats, jobs, exports, directory)
