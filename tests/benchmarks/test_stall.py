"""How long a snapshot keeps writers waiting: classic, prepared, and the least there can be.

NBD writers write to every disk of a storage daemon throughout. The longest write that was
under way during ``plan.run()`` is the stall that a guest would feel. The limit is the same
script, sent by a client that does nothing else but flush the disks' files before the switch.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import snapkit
from tests.benchmarks.bare import Bare, message
from tests.benchmarks.disks import SLOW_MICROSECONDS, Disks, build
from tests.benchmarks.report import Bars, Report, Spread
from tests.conftest import Process
from tests.nbd import Writers, writers

WAYS = ("classic", "prepared", "limit")
ROUNDS = {"fast": {2: 7, 8: 9, 32: 5}, "slow": {2: 7, 8: 9, 32: 3}}
SOURCE = Path(__file__).parent / "slow.c"
QUIET_SECONDS = 0.2
NOTES = (
    "The longest write in milliseconds, median and (middle half): of the disk that the switch",
    "lists first, which waits longest, of the one that it lists last, and of whichever disk had",
    "the longest. `idle` is the longest write of any disk while nothing else was done, which is",
    "what the measurement itself adds. Every value is of a daemon just started, with qcow2 disks",
    "of 1 GiB, which the writers fill. `limit` is the script of `prepared`, sent by a client that",
    "does nothing else but flush the disks' files before the switch, as `prepared` does.",
    "",
    "On the slow store each call that opens for writing, writes, resizes or flushes an overlay",
    f"takes {SLOW_MICROSECONDS / 1000:g} ms more.",
)

pytestmark = pytest.mark.benchmark


@dataclass
class Felt:
    """What the writers felt, in milliseconds, a value a round."""

    first: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)
    worst: list[float] = field(default_factory=list)
    idle: list[float] = field(default_factory=list)


def longest(running: Writers, work: Callable[[], object]) -> list[float]:
    """The longest write to each disk, in milliseconds, while ``work`` is done."""
    began = time.perf_counter()
    work()
    return [seconds * 1000 for seconds in running.longest(began, time.perf_counter())]


def measure(disks: Disks, way: str, slow: Path | None, felt: Felt) -> None:
    """One snapshot of all disks, and what the writers felt of it."""
    with disks.running(slow) as daemon, snapkit.connect(daemon.uri) as vm:
        plan = vm.plan(disks.targets(), engine="classic" if way == "classic" else "prepared")
        work = limit(daemon, plan) if way == "limit" else plan.run
        gap = max(len(disks.names) / 8, 1) / 1000
        with writers(disks.nbd, disks.names, gap) as running:
            felt.idle.append(
                max(longest(running, lambda: select.select([], [], [], QUIET_SECONDS)))
            )
            found = dict(zip(disks.names, longest(running, work), strict=True))
        order = [overlay.device for overlay in plan.script.overlays]
        felt.first.append(found[order[0]])
        felt.last.append(found[order[-1]])
        felt.worst.append(max(found.values()))
        assert {row.file for row in vm.devices().itertuples()} == set(disks.targets().values())


def limit(daemon: Process, plan: snapkit.Plan) -> Callable[[], object]:
    """The same script, sent by a client that does nothing else."""
    prepare = [message(command) for command in plan.script.prepare]
    switch = message(plan.script.switch)
    client = Bare(daemon.outside)

    def work() -> None:
        client.replay(prepare)
        for overlay in plan.script.overlays:
            flush(overlay.backing_file)
        client.replay([switch])
        client.close()

    return work


def flush(file: str) -> None:
    """Write out what the host's cache holds of a file: the switch has to wait for it else."""
    handle = os.open(file, os.O_RDONLY)
    os.fdatasync(handle)
    os.close(handle)


def test_the_stall_that_writers_feel(directory: Path) -> None:
    library = build(SOURCE, directory / "slow.so")
    columns = "store disks way first last worst idle first/classic first/limit".split()
    report = Report("stall", "How long a snapshot keeps writers waiting", NOTES, columns)
    bars: list[Bars] = []
    for store, sizes in ROUNDS.items():
        for count, rounds in sizes.items():
            disks = Disks(directory / f"{store}{count}", count)
            felt = {way: Felt() for way in WAYS}
            for number in range(rounds):
                # In turns, so that whatever else the machine does favours none.
                for way in WAYS[number % 3 :] + WAYS[: number % 3]:
                    measure(disks, way, library if store == "slow" else None, felt[way])
            add(report, store, count, felt)
            bars.append(
                Bars(f"{store} store, {count} disks", [Spread(felt[w].first) for w in WAYS])
            )
    report.picture("stall", WAYS, bars, "longest write to the first disk, ms")
    report.end()


def add(report: Report, store: str, count: int, felt: dict[str, Felt]) -> None:
    first = {way: Spread(felt[way].first) for way in WAYS}
    for way in WAYS:
        mine = felt[way]
        ratios = first[way].over(first["classic"]), first[way].over(first["limit"])
        spreads = map(Spread, (mine.first, mine.last, mine.worst, mine.idle))
        report.rows.append([store, count, way, *spreads, *ratios])
    if (store, count) == ("slow", 8):
        ratio = first["prepared"].over(first["classic"]).median
        report.expect("slow store, 8 disks: prepared / classic", ratio, 0.1)
        ratio = first["prepared"].over(first["limit"]).median
        report.expect("slow store, 8 disks: prepared / limit", ratio, 1.2)
