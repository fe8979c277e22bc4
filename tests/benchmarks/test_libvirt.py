"""snapkit on libvirt: a run beside virsh, the tables of a host, and the list of its domains."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

import snapkit
from snapkit.backends.libvirt_link import load
from tests.benchmarks.report import Bars, Report, Spread
from tests.conftest import SECONDS
from tests.libvirtd import PrivateLibvirt

RUNS = {2: 25, 8: 15}
RUN_LIMIT = 1.0
TABLE_ROUNDS = 11
DOMAINS, DISKS, LAYERS = 20, 8, 10
TABLE_LIMIT = 1.5
RUN_NOTES = (
    "Milliseconds, median and (middle half), on a domain just started, in turns. `run` is",
    "`plan.run()`: with its journal, its checks, its looks at the block graph before and after,",
    "and the offline look at every overlay. `virsh` is `virsh snapshot-create` with the plan's own",
    "XML, which starts a process, makes the same snapshot, and looks at nothing.",
)
TABLE_NOTES = (
    f"Milliseconds, median and (middle half), in turns: {DOMAINS} domains with {DISKS} disks of",
    f"{LAYERS} layers. `bare` is one call of `getAllDomainStats` with all layers; `layers` and",
    "`devices` make that table of each domain, one after the other, over a connection for each.",
)

pytestmark = pytest.mark.benchmark


def timed(action: Callable[[], object]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1000


@contextmanager
def fresh(libvirt: PrivateLibvirt, images: list[str]) -> Iterator[str]:
    """A domain that was just started: a deep chain takes longer to look at."""
    name = libvirt.paused(*images)
    try:
        yield name
    finally:
        libvirt.virsh("destroy", name)


def run(libvirt: PrivateLibvirt, images: list[str]) -> float:
    with fresh(libvirt, images) as name, snapkit.connect(libvirt.uri, name) as vm:
        plan = vm.plan(list(vm.devices().index))
        return timed(plan.run)


def virsh(libvirt: PrivateLibvirt, images: list[str]) -> float:
    with fresh(libvirt, images) as name:
        with snapkit.connect(libvirt.uri, name) as vm:
            plan = vm.plan(list(vm.devices().index))
        file = libvirt.directory / "snapshot.xml"
        file.write_text(str(plan.preview("xml")))
        words = ["virsh", "-c", libvirt.uri, "snapshot-create", name, "--xmlfile", str(file)]
        command = [*words, "--disk-only", "--atomic", "--validate"]
        return timed(lambda: subprocess.run(command, check=True, capture_output=True))


def test_a_run_beside_virsh(libvirt: PrivateLibvirt) -> None:
    columns = ["disks", "run", "virsh", "run/virsh"]
    report = Report("libvirt-run", "plan.run() beside virsh", RUN_NOTES, columns)
    bars: list[Bars] = []
    for count, rounds in RUNS.items():
        images = [libvirt.image(f"{count}-{n}.qcow2", size="1M") for n in range(count)]
        times: dict[Callable[[PrivateLibvirt, list[str]], float], list[float]]
        times = {run: [], virsh: []}
        for number in range(rounds):
            for way in (run, virsh) if number % 2 else (virsh, run):
                times[way].append(way(libvirt, images))
        ours, theirs = Spread(times[run]), Spread(times[virsh])
        report.rows.append([count, ours, theirs, ours.over(theirs)])
        report.expect(f"{count} disks: run / virsh", ours.over(theirs).median, RUN_LIMIT)
        bars.append(Bars(f"{count} disks", [ours, theirs]))
    report.picture("libvirt-run", ("run", "virsh"), bars, "ms")
    report.end()


def deep(libvirt: PrivateLibvirt, name: str) -> str:
    """Start a domain whose disks have backing chains."""
    tops: list[str] = []
    for disk in range(DISKS):
        image = libvirt.image(f"{name}-{disk}-0.qcow2", size="1M")
        for layer in range(1, LAYERS):
            below = {"backing": image, "backing_format": "qcow2"}
            image = libvirt.image(f"{name}-{disk}-{layer}.qcow2", **below)
        tops.append(image)
    return libvirt.paused(*tops, name=name)


def test_tables_of_a_host_beside_the_bare_call(libvirt: PrivateLibvirt) -> None:
    names = [deep(libvirt, f"vm{number}") for number in range(DOMAINS)]
    module = load()
    with ExitStack() as stack:
        bare = module.openReadOnly(libvirt.uri)
        stack.callback(bare.close)
        machines = [
            stack.enter_context(snapkit.connect(libvirt.uri, name, timeout=SECONDS))
            for name in names
        ]
        ways: Mapping[str, Callable[[], Any]] = {
            "bare": lambda: bare.getAllDomainStats(
                module.VIR_DOMAIN_STATS_BLOCK,
                module.VIR_CONNECT_GET_ALL_DOMAINS_STATS_BACKING,
            ),
            "layers": lambda: [vm.layers() for vm in machines],
            "devices": lambda: [vm.devices() for vm in machines],
        }
        for way in ways.values():
            # The first call loads pandas, which is not what is measured here.
            way()
        times = [
            {name: timed(ways[name]) for name in order(number)} for number in range(TABLE_ROUNDS)
        ]
    spreads = {name: Spread([row[name] for row in times]) for name in ways}
    columns = ["domains", *ways, "layers/bare", "devices/bare"]
    report = Report("libvirt-tables", "The tables of a libvirt host", TABLE_NOTES, columns)
    ratios = [spreads[name].over(spreads["bare"]) for name in ("layers", "devices")]
    report.rows.append([DOMAINS, *spreads.values(), *ratios])
    for what, ratio in zip(("layers()", "devices()"), ratios, strict=True):
        report.expect(f"{what} / bare", ratio.median, TABLE_LIMIT)
    bars = [Bars(f"{DOMAINS} domains", [*spreads.values()])]
    report.picture("libvirt-tables", tuple(ways), bars, "ms")
    report.end()


def order(number: int) -> tuple[str, ...]:
    """The three ways, each of them first in its turn."""
    names = ("bare", "layers", "devices")
    return names[number % 3 :] + names[: number % 3]
