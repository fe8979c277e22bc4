"""The wire to libvirt is cut at any byte: all disks are switched or none is, and that is told."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

import snapkit
from tests.conftest import chain_of
from tests.faults.shears import NEVER, Way
from tests.faults.wires import Link
from tests.libvirt.world import Seed
from tests.libvirtd import PrivateLibvirt

SPREAD = 12
"""At how many places the conversation is cut, and the call, each way."""


class Bench:
    """The seed's domain behind a wire. Each run puts its disks on new overlays, or does not.

    ``has_cut`` says whether the wire was cut within the last run, and ``passed`` how many
    bytes it has let pass.
    """

    def __init__(self, daemon: PrivateLibvirt) -> None:
        self.seed = Seed(daemon)
        self.link = Link(daemon.uri.partition("socket=")[2], daemon.directory)
        self.number = 0
        self.before = self.seed.images()
        self.vm = self.connect()

    def connect(self) -> snapkit.VirtualMachine:
        uri = f"qemu+unix:///session?socket={self.link.path}"
        return snapkit.connect(uri, self.seed.name)

    def close(self) -> None:
        self.vm.close()
        self.link.close()

    def run(self, way: Way = "up", after: int = NEVER, *, call: bool) -> str:
        """One run, cut after so many bytes of it or of its call: what is told is so."""
        if not self.vm.connected:
            self.vm.close()
            self.vm = self.connect()
        self.number += 1
        targets = {disk: self.seed.file(f"{disk}-{self.number}.snap") for disk in ("vda", "vdb")}
        disks = self.seed.disks()
        plan = self.vm.plan(targets, metadata="no")
        self.link.arm(way, after, at_transaction=call)
        said = _told(plan)
        self.has_cut, self.passed = self.link.has_cut, dict(self.link.passed)
        self.link.arm("up", NEVER)
        found = self.state(disks, targets)
        assert (said, str(snapkit.journal()["state"].iloc[-1])) == (found, found), (way, after)
        return found

    def state(self, disks: dict[str, str], targets: dict[str, str]) -> str:
        """Which it is, as virsh and the files tell; nothing is left, and nothing has changed."""
        now, kept = self.seed.disks(), self.seed.images()
        assert {name: kept.get(name) for name in self.before} == self.before
        if now == disks:
            assert not [file for file in targets.values() if os.path.lexists(file)]
            return "not switched"
        assert now == targets
        for disk, file in targets.items():
            assert chain_of(file)[1]["filename"] == disks[disk]
        return "switched"


def _told(plan: snapkit.Plan) -> str:
    try:
        outcome = plan.run()
    except (snapkit.SnapshotError, snapkit.ConnectError):
        return "not switched"
    assert outcome.ok
    return "switched"


@pytest.fixture
def bench(libvirt: PrivateLibvirt) -> Iterator[Bench]:
    made = Bench(libvirt)
    yield made
    made.close()


@pytest.mark.parametrize("way", ["up", "down"])
def test_cut_anywhere_before_the_call(bench: Bench, way: Way) -> None:
    assert bench.run(way, call=False) == "switched"
    length = bench.passed[way]
    for after in range(1, length, length // SPREAD):
        bench.run(way, after, call=False)
        assert bench.has_cut


def test_cut_within_the_call_and_after_it(bench: Bench) -> None:
    """libvirt has the whole call, and may carry it out, only from its last byte on."""
    assert bench.run(call=True) == "switched"
    length = bench.link.message
    for after in (1, *range(4, length, length // SPREAD), length - 1):
        assert bench.run("up", after, call=True) == "not switched"
    for after in (length, length, length + 1, length + 30, length + 100):
        assert bench.run("up", after, call=True) == "switched"
        assert bench.has_cut


def test_cut_within_the_answer_and_after_it(bench: Bench) -> None:
    for after in (*range(0, 4 * SPREAD, 4), 200, 1000, 3000):
        assert bench.run("down", after, call=True) == "switched"
        assert bench.has_cut
