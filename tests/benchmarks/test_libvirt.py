"""snapkit beside virsh and libvirt's own call: a whole run, and the tables of a host."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from functools import partial

import pytest

import snapkit
from snapkit.backends.libvirt_link import load
from tests.benchmarks.report import Spread
from tests.libvirtd import PrivateLibvirt

ROUNDS = 15
DOMAINS, DISKS, LAYERS = 20, 8, 10

pytestmark = pytest.mark.benchmark


def timed(action: Callable[[], object]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1000


def test_a_run_beside_virsh(libvirt: PrivateLibvirt) -> None:
    images = libvirt.image("a.img", "raw"), libvirt.image("b.qcow2")
    runs: list[float] = []
    calls: list[float] = []
    for number in range(ROUNDS):
        # Each on a domain that was just started: a deep chain takes longer to look at.
        for times in (runs, calls) if number % 2 else (calls, runs):
            name = libvirt.paused(*images)
            with snapkit.connect(libvirt.uri, name) as vm:
                plan = vm.plan(["vda", "vdb"])
                shown = vm.plan(["vda", "vdb"]).preview("virsh")
                action = plan.run if times is runs else partial(_in_a_shell, shown)
                times.append(timed(action))
            libvirt.virsh("destroy", name)
    ratio = Spread(runs).over(Spread(calls))
    print(f"\nplan.run(): {Spread(runs)} ms; virsh: {Spread(calls)} ms; ratio {ratio}")


def _in_a_shell(command: str) -> None:
    subprocess.run(["sh", "-c", command], check=True, capture_output=True)


def test_tables_of_a_host_beside_the_bare_call(libvirt: PrivateLibvirt) -> None:
    names = [f"vm{number}" for number in range(DOMAINS)]
    for name in names:
        images = []
        for disk in range(DISKS):
            image = libvirt.image(f"{name}-{disk}-0.qcow2", size="1M")
            for layer in range(1, LAYERS):
                below = {"backing": image, "backing_format": "qcow2"}
                image = libvirt.image(f"{name}-{disk}-{layer}.qcow2", **below)
            images.append(image)
        libvirt.paused(*images, name=name)
    module = load()
    bare = module.openReadOnly(libvirt.uri)
    machines = [snapkit.connect(libvirt.uri, name, timeout=30) for name in names]
    tables, calls = [], []
    for _ in range(ROUNDS):
        tables.append(timed(lambda: [vm.layers() for vm in machines]))
        calls.append(
            timed(
                lambda: bare.getAllDomainStats(
                    module.VIR_DOMAIN_STATS_BLOCK,
                    module.VIR_CONNECT_GET_ALL_DOMAINS_STATS_BACKING,
                )
            )
        )
    for vm in machines:
        vm.close()
    bare.close()
    ratio = Spread(tables).over(Spread(calls))
    print(f"\n{DOMAINS} tables: {Spread(tables)} ms; bare: {Spread(calls)} ms; ratio {ratio}")
