"""The connection is cut at any byte: all disks are switched or none is, and that is told."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import snapkit
from snapkit import undo
from tests.conftest import MIB, Process, StartQemu, blockdev, create_image
from tests.faults.shears import NEVER, Shears, Way
from tests.faults.view import Disks, Offline, files_of, look, position

NOTHING_SWITCHED = re.compile("no device was switched|switched no device")
SPREAD = 24
"""At how many places the whole conversation is cut, each way."""
IMAGES = 8
"""After which of the cuts the images are looked at too: one of so many."""
STATES = {"new": "switched", "old": "not switched"}


class Bench:
    """A storage daemon with two disks behind a wire, set up anew where a run has changed it."""

    def __init__(self, directory: Path, start: StartQemu) -> None:
        self.directory = directory
        self.start = start
        self.targets = {f"e{n}": str(directory / f"over{n}.snap") for n in range(2)}
        self.daemon: Process | None = None

    def fresh(self) -> None:
        """The two disks as they were, and a VM connected to them over a new wire."""
        self.close()
        arguments: list[str] = []
        for number in range(2):
            Path(self.targets[f"e{number}"]).unlink(missing_ok=True)
            image = create_image(self.directory / f"disk{number}.qcow2", MIB)
            arguments += blockdev(f"node{number}", image)
            arguments += ["--export", f"type=nbd,id=e{number},node-name=node{number},writable=on"]
        self.daemon = self.start(*arguments)
        self.disks = Disks(self.files(), look(self.daemon), self.targets)
        self.wire = Shears(self.daemon.uri, self.directory)
        self.vm = snapkit.connect(self.wire.uri, local=True)

    def files(self) -> dict[str, str]:
        return files_of(self.directory)

    def close(self) -> None:
        if self.daemon:
            self.vm.close()
            self.wire.close()
            self.daemon.stop()
            self.daemon = None

    def run(self, way: Way = "up", after: int = NEVER, **where: bool) -> str:
        """Take a snapshot with a cut. What was told, as a state of the journal."""
        plan = self.vm.plan(self.targets)
        self.wire.arm(way, after, **where)
        try:
            outcome = plan.run()
        except (snapkit.SnapshotError, snapkit.OutcomeUnknown, snapkit.ConnectError) as err:
            return told(err)
        assert outcome.ok
        return "switched"

    def state(self, *, images: bool = True) -> str:
        """Which it is, from outside; all that has to be so in either is looked at.

        Without ``images``, qemu-img is left out: it takes longer than the run.
        """
        assert self.daemon is not None
        view, now = look(self.daemon), self.files()
        found = position(view, self.targets)
        assert found != "mixed"
        assert self.disks.changed(now) == []
        assert self.disks.lost(view) == []
        assert not images or self.disks.unsound(now, view, Offline()) == []
        return STATES[found]

    def left(self) -> list[str]:
        assert self.daemon is not None
        return self.disks.left(self.files(), look(self.daemon))


def told(err: snapkit.SnapkitError) -> str:
    """What an error says, in the journal's words."""
    if isinstance(err, snapkit.OutcomeUnknown):
        assert f"{err.number}" in str(err)
        return "unknown"
    # A connection that goes before anything was sent that changes something is no more.
    assert isinstance(err, snapkit.ConnectError) or NOTHING_SWITCHED.search(str(err))
    return "not switched"


@pytest.fixture
def bench(directory: Path, start_daemon: StartQemu) -> Iterator[Bench]:
    made = Bench(directory, start_daemon)
    made.fresh()
    yield made
    made.close()


def last_state() -> str:
    return str(snapkit.journal()["state"].iloc[-1])


def cut_and_run(bench: Bench, way: Way, after: int, *, at_transaction: bool) -> str:
    """One run with a cut; what is told is so, and nothing is left behind."""
    said = bench.run(way, after, at_transaction=at_transaction)
    found = bench.state(images=after % IMAGES == 0)
    where = f"cut {way} after {after} bytes"
    assert (said, last_state()) == (found, found), where
    assert bench.left() == [], where
    if found == "switched":
        bench.fresh()
    elif not bench.vm.connected:
        bench.vm.close()
        bench.vm = snapkit.connect(bench.wire.uri, local=True)
    return found


@pytest.mark.parametrize("way", ["up", "down"])
def test_cut_anywhere_in_the_conversation(bench: Bench, way: Way) -> None:
    assert bench.run(way) == "switched"
    length = bench.wire.passed[way]
    bench.fresh()
    ends = []
    for number in range(SPREAD):
        wire = bench.wire
        ends.append(cut_and_run(bench, way, 1 + number * length // SPREAD, at_transaction=False))
        assert wire.has_cut or number == SPREAD - 1
    assert set(ends) == {"switched", "not switched"}


def test_cut_at_every_byte_of_the_switch(bench: Bench) -> None:
    """QEMU has the whole message, and may carry it out, only from its last byte on."""
    assert bench.run() == "switched"
    length = bench.wire.message
    bench.fresh()
    for after in range(1, length):
        assert cut_and_run(bench, "up", after, at_transaction=True) == "not switched"
    for _ in range(3):
        cut_and_run(bench, "up", length, at_transaction=True)


def test_cut_at_every_byte_of_the_reply_to_the_switch(bench: Bench) -> None:
    for after in range(64):
        assert cut_and_run(bench, "down", after, at_transaction=True) == "switched"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be reached again is given up quickly."""
    monkeypatch.setattr(undo, "RECONNECT_SECONDS", 0.2)
    monkeypatch.setattr(undo, "STUCK_SECONDS", 0.2)


PLACES: dict[str, Callable[[int], tuple[Way, int]]] = {
    "before the switch": lambda _: ("up", 1),
    "within the switch": lambda length: ("up", length // 2),
    "at the last byte of the switch": lambda length: ("up", length),
    "before the reply": lambda _: ("down", 0),
    "within the reply": lambda _: ("down", 10),
    "while verifying": lambda _: ("down", 1000),
}


@pytest.mark.parametrize("place", PLACES)
def test_where_nobody_can_look_the_outcome_is_unknown_until_recover_looks(
    bench: Bench, impatient: None, place: str
) -> None:
    assert bench.run() == "switched"
    way, after = PLACES[place](bench.wire.message)
    bench.fresh()
    assert bench.run(way, after, at_transaction=True, for_good=True) == "unknown"
    assert bench.wire.has_cut
    finished_later(bench, "unknown")


def finished_later(bench: Bench, said: str) -> None:
    """The journal says what was told, until the VM can be reached again and recover looks."""
    found = bench.state()
    assert said in {found, "unknown"}
    assert last_state() == said
    recovered = snapkit.recover(timeout=1)
    assert set(recovered["state"]) <= {"unknown"}
    assert last_state() == said
    bench.vm.close()
    bench.wire.mend()
    snapkit.recover()
    assert bench.state() == found
    assert last_state() == found
    assert bench.left() == []
    assert snapkit.recover().empty


def test_cut_off_for_good_while_looking_nothing_was_done(bench: Bench, impatient: None) -> None:
    assert bench.run("up", 1, for_good=True) == "not switched"
    finished_later(bench, "not switched")


def test_cut_off_for_good_while_preparing_recover_removes_what_is_left(
    bench: Bench, impatient: None
) -> None:
    """At the end of every message that prepares."""
    assert bench.run() == "switched"
    names = [name for name, _ in bench.wire.ends]
    first, last = names.index("blockdev-create"), names.index("transaction")
    for _, after in bench.wire.ends[first:last]:
        bench.fresh()
        assert bench.run("up", after, for_good=True) == "not switched"
        assert bench.wire.has_cut
        finished_later(bench, "not switched")
