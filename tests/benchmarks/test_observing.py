"""How long ``devices()`` and ``layers()`` take, beside the bare queries that they send."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import snapkit
from tests.benchmarks.bare import Bare, Message, recorded
from tests.benchmarks.disks import Disks
from tests.benchmarks.report import Bars, Report, Spread
from tests.conftest import SECONDS

SIZES = ((1, 0), (32, 0), (128, 0), (1, 20), (32, 20), (128, 20), (1, 100), (32, 100), (128, 100))
ROUNDS = {(128, 20): 4, (32, 100): 3}
MOST_ROUNDS = 15
LEFT_OUT = {(128, 100): "QEMU takes minutes to open them"}
LIMIT = 2.0
NOTES = (
    "Milliseconds, median and (middle half), of calls in turns to one QEMU. `bare` are",
    "the queries that `devices()` sends, recorded and sent back to back by a client that parses",
    "the replies as JSON and throws them away. The depth is the number of backing images below",
    "each disk: however many there are, the queries are as many as `queries` says, and the chains",
    "are read in one pass.",
)
WAYS = ("bare", "devices", "layers")

pytestmark = pytest.mark.benchmark


def files_needed(count: int, depth: int) -> int:
    return count * (depth + 1) + 100


def sizes(report: Report) -> Iterator[tuple[int, int]]:
    """The combinations that can be measured; the report names the others."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    left_out: list[str] = []
    for size in SIZES:
        reason = LEFT_OUT.get(size)
        if reason is None and files_needed(*size) > most:
            reason = f"a process may have only {most} files open here"
        if reason is None:
            yield size
        else:
            left_out.append(f"{size[0]} disks of depth {size[1]} ({reason})")
    report.notes = (*report.notes, "", f"Left out: {'; '.join(left_out) or 'nothing'}.")


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def measure(disks: Disks, rounds: int) -> tuple[dict[str, list[float]], int]:
    """The times, and how many queries one call sends."""
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    with disks.machine() as qemu, snapkit.connect(qemu.uri, timeout=SECONDS) as vm:
        # The first call loads pandas, which is not what is measured here.
        with recorded() as queries:
            vm.devices()
        with Bare(qemu.outside) as client:
            works = dict(zip(WAYS, (asking(client, queries), vm.devices, vm.layers), strict=True))
            for number in range(rounds):
                for way in WAYS[number % 3 :] + WAYS[: number % 3]:
                    times[way].append(timed(works[way]))
    return times, len(queries)


def asking(client: Bare, queries: list[Message]) -> Callable[[], object]:
    return lambda: client.replay(queries)


def test_looking_beside_the_bare_queries(directory: Path) -> None:
    columns = ["disks", "depth", *WAYS, "devices/bare", "layers/bare", "queries"]
    report = Report("observing", "The time of devices() and layers()", NOTES, columns)
    bars: list[Bars] = []
    for count, depth in sizes(report):
        disks = Disks(directory / f"{count}-{depth}", count, depth)
        times, queries = measure(disks, ROUNDS.get((count, depth), MOST_ROUNDS))
        bare, devices, layers = (Spread(times[way]) for way in WAYS)
        ratios = devices.over(bare), layers.over(bare)
        report.rows.append([count, depth, bare, devices, layers, *ratios, queries])
        bars.append(Bars(f"{count} disks, depth {depth}", [bare, devices, layers]))
        if count == 128:
            what = f"disks: {count}, depth: {depth}, devices() / bare"
            report.expect(what, ratios[0].median, LIMIT)
        if depth == 100:
            what = f"disks: {count}, depth: {depth}, layers() / bare"
            report.expect(what, ratios[1].median, LIMIT)
    report.picture("observing", WAYS, bars, "ms")
    report.end()
