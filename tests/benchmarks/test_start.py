"""What snapkit costs before it does anything: its import, the first table, a thousand events."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

import snapkit
from tests.benchmarks.bare import Bare
from tests.benchmarks.disks import Disks
from tests.benchmarks.report import Bars, Report, Spread
from tests.conftest import Qmp, wait_until

ROUNDS = 15
TURNS = 500
"""Each makes two events, one when QEMU starts its processors and one when it stops them."""
LIMIT = 1.5
NOTES = (
    "Milliseconds and MiB, median and (middle half). Programs are started in turns; `user` is the",
    "processor time that they spend in user mode and `memory` the most that they hold. The first",
    "table is `devices()` of a VM with one disk, and what it is compared with is a program that",
    "imports pandas. Events are read by `events()`, after all of them have come, beside a client",
    "that reads the same lines and parses them as JSON.",
)
# What wait4 tells of memory includes that of the process that started the program.
TELL_MEMORY = "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
BARE = "import asyncio, json"
PROGRAMS = {
    BARE: BARE,
    "import snapkit": "import snapkit",
    "import asyncio, json, pandas": f"{BARE}, pandas",
    "the first table": "import snapkit, sys; snapkit.connect(sys.argv[1]).devices()",
}

pytestmark = pytest.mark.benchmark


@dataclass
class Cost:
    """What programs took, a value a round."""

    user: list[float]
    memory: list[float]


def run(program: str, uri: str, cost: Cost) -> None:
    command = [sys.executable, "-c", f"{program}\n{TELL_MEMORY}", uri]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as told:
        cost.memory.append(int(told.read()) / 1024)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    cost.user.append(used.ru_utime * 1000)


def test_the_import_and_the_first_table(directory: Path) -> None:
    columns = ["what", "user", "memory", "beside", "user / its", "memory / its"]
    report = Report("start", "What snapkit costs at its start", NOTES, columns)
    costs = {name: Cost([], []) for name in PROGRAMS}
    with Disks(directory / "one", 1).machine() as qemu:
        for _ in range(ROUNDS):
            for name, program in PROGRAMS.items():
                run(program, qemu.uri, costs[name])
    bars: list[Bars] = []
    bare = ""
    for name, cost in costs.items():
        user, memory = Spread(cost.user), Spread(cost.memory)
        bars.append(Bars(name, [user, memory]))
        if name.startswith(BARE):
            bare = name
        beside = costs[bare]
        ratios = user.over(Spread(beside.user)), memory.over(Spread(beside.memory))
        report.rows.append([f"`{name}`", user, memory, f"`{bare}`", *ratios])
    ratio = Spread(costs["import snapkit"].user).over(Spread(costs[BARE].user)).median
    report.expect(f"user time: import snapkit / {BARE}", ratio, LIMIT)
    report.picture("start", ["user time, ms", "memory, MiB"], bars, "ms and MiB")
    report.notes = (*report.notes, "", *events(directory))
    report.end()


def events(directory: Path) -> list[str]:
    """A thousand events: what they took to arrive and to be shown, in words."""
    with (
        Disks(directory / "events", 1).machine() as qemu,
        snapkit.connect(qemu.uri) as vm,
        Bare(qemu.outside) as client,
    ):
        # The first table loads pandas, which is no part of this.
        vm.events()
        before = resident()
        lines = turn(client)
        wait_until(lambda: len(vm.events()) >= 2 * TURNS, "every event arrives")
        grown = resident() - before
        shown, parsed = Spread(shows(vm)), Spread(parses(lines))
    return [
        f"{2 * TURNS} events: `events()` takes {shown} ms, and parsing their lines {parsed} ms,",
        f"a ratio of {shown.over(parsed)}. The process grew by {grown:.1f} MiB.",
    ]


def turn(client: Qmp) -> list[str]:
    """Start and stop QEMU's processors; its messages meanwhile, as lines."""
    lines: list[str] = []
    for command in ("cont", "stop") * TURNS:
        client.stream.write(json.dumps({"execute": command}).encode() + b"\n")
        client.stream.flush()
        while True:
            lines.append(client.stream.readline().decode())
            if "event" not in json.loads(lines[-1]):
                break
    return [line for line in lines if "event" in json.loads(line)]


def shows(vm: snapkit.VirtualMachine) -> list[float]:
    times: list[float] = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        assert len(vm.events()) >= 2 * TURNS
        times.append((time.perf_counter() - began) * 1000)
    return times


def parses(lines: list[str]) -> list[float]:
    times: list[float] = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        assert all(json.loads(line) for line in lines)
        times.append((time.perf_counter() - began) * 1000)
    return times


def resident() -> float:
    """The memory of this process, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
