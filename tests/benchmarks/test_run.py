"""How long ``plan.run()`` takes, beside the same commands sent by a client that only sends."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest

import snapkit
from tests.benchmarks.bare import Bare, Message, messages, recorded
from tests.benchmarks.disks import Disks
from tests.benchmarks.report import Bars, Report, Spread

ROUNDS = {1: 9, 2: 9, 8: 9, 32: 7, 128: 5}
LIMIT, FROM = 1.3, 8
NOTES = (
    "Milliseconds, median and (middle half). Every value is of a storage daemon just started,",
    "with qcow2 disks that have no backing file and nothing to do. `run` is `plan.run()`: with",
    "its journal, its two looks at the block graph, and the offline look at every overlay.",
    "`same` are all the commands that it sent, recorded once and replayed to an equal daemon, and",
    "`script` are those of them that make the snapshot. Both are sent back to back wherever one",
    "does not need another's answer, and the replies are parsed as JSON and thrown away.",
)
WAYS = ("run", "same", "script")

pytestmark = pytest.mark.benchmark


def record(disks: Disks) -> tuple[list[Message], list[Message]]:
    """All that a run sends, and its script."""
    with disks.running() as daemon, snapkit.connect(daemon.uri) as vm:
        plan = vm.plan(disks.targets())
        with recorded() as sent:
            assert plan.run().ok
        return sent, messages(plan.script)


def run(disks: Disks) -> tuple[float, tuple[tuple[str, float], ...]]:
    """The time of a run and of its phases, in milliseconds."""
    with disks.running() as daemon, snapkit.connect(daemon.uri) as vm:
        plan = vm.plan(disks.targets())
        began = time.perf_counter()
        outcome = plan.run()
        took = (time.perf_counter() - began) * 1000
        assert outcome.ok
    return took, outcome.phases


def replay(disks: Disks, commands: list[Message]) -> float:
    with disks.running() as daemon, Bare(daemon.outside) as client:
        return client.replay(commands) * 1000


def test_a_run_beside_its_bare_commands(directory: Path) -> None:
    columns = ["disks", *WAYS, "run/same", "run/script"]
    report = Report("run", "The time of plan.run() beside its bare commands", NOTES, columns)
    bars: list[Bars] = []
    phases: dict[int, list[tuple[tuple[str, float], ...]]] = {}
    for count, rounds in ROUNDS.items():
        disks = Disks(directory / str(count), count)
        same, script = record(disks)
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(rounds):
            took, parts = run(disks)
            phases.setdefault(count, []).append(parts)
            times["run"].append(took)
            times["same"].append(replay(disks, same))
            times["script"].append(replay(disks, script))
        found = [Spread(times[way]) for way in WAYS]
        report.rows.append([count, *found, found[0].over(found[1]), found[0].over(found[2])])
        bars.append(Bars(f"{count} disks", found))
        if count >= FROM:
            ratio = found[0].over(found[1]).median
            report.expect(f"{count} disks: run / same", ratio, LIMIT)
    report.picture("run", WAYS, bars, "ms")
    tell_phases(report, phases)
    report.end()


def tell_phases(report: Report, found: dict[int, list[tuple[tuple[str, float], ...]]]) -> None:
    """Where the time of a run goes."""
    names = [name for name, _ in next(itertools.chain(*found.values()))]
    lines = [f"| disks | {' | '.join(names)} |", f"|{' ---: |' * (len(names) + 1)}"]
    for count, rounds in found.items():
        spreads = (Spread([dict(one)[name] * 1000 for one in rounds]) for name in names)
        cells = (f"{spread.median:.1f}" for spread in spreads)
        lines.append(f"| {count} | {' | '.join(cells)} |")
    report.notes = (*report.notes, "", "The phases of a run, medians in milliseconds:", "", *lines)
