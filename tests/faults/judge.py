"""Plays one cell of the matrix and judges it from outside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.faults.causes import Fault
from tests.faults.cell import Cell, Client, Report

__all__ = ["assert_truth", "play"]

STATES = {"new": "switched", "old": "not switched"}
ENDS = {"Outcome": "new", "SnapshotError": "old", "PlanError": "old", "ConnectError": "old"}
ADVICE = "shut the guest down"
"""What has to be done first, where libvirt does not know what its QEMU did."""
DONE = "The switch was done"


def play(cell: Cell, fault: Fault, moment: str, client: Client, recoverer: Client) -> str:
    """Run to a moment, let the fault strike, and judge. Returns where it ended, and how."""
    cell.run_to(client, moment, patience=fault.patience)
    fault.strike(cell, client)
    report = _carry_on(cell, fault, client)
    fault.mend(cell)
    found = _assert_nothing_lost(cell)
    left = _left(cell)
    if report:
        assert_truth(report, found)
        _assert_named(cell, report, left)
    told = _recovered(cell, recoverer)
    if ADVICE in str(told["second"]):
        return _followed(cell, recoverer, found, told)
    state = _assert_closed(told)
    assert _assert_nothing_lost(cell) == found
    assert found in {"gone", *(end for end, said in STATES.items() if said == state)}, told
    _assert_nothing_left(cell, state)
    return f"{_end(found, state)}: {_how(report, told)}"


def _carry_on(cell: Cell, fault: Fault, client: Client) -> Report:
    """Let the run go on to its end; empty where there is nobody who could."""
    if not fault.word:
        cell.settle()
        return {}
    cell.say(fault.word)
    report = cell.hear()
    client.wait()
    assert report, "the client ended without a word"
    return report


def _assert_nothing_lost(cell: Cell) -> str:
    """All or none, no byte of others changed, every image sound. "gone": QEMU is no more."""
    now, view = cell.files(), cell.view()
    same([], cell.disks.changed(now))
    same([], cell.disks.unsound(now, view, cell.offline))
    if view is None:
        return "gone"
    found = cell.position(view)
    assert found != "mixed", view
    same([], cell.disks.lost(view))
    return found


def same(wanted: object, found: object) -> None:
    assert found == wanted, json.dumps(found, indent=1, default=str)


def _left(cell: Cell) -> list[str]:
    return cell.disks.left(cell.files(), cell.view())


def assert_truth(report: Report, found: str) -> None:
    """What the client was told is what somebody else sees."""
    end, said = report["end"], report["message"]
    if end == "OutcomeUnknown":
        assert str(report["number"]) in said, report
        told = "new" if DONE in said else found
    else:
        told = "new" if DONE in said else ENDS[end]
        assert report["switched"] in {None, told == "new"}, report
    assert found in {told, "gone"}, report


def _followed(cell: Cell, recoverer: Client, found: str, told: Report) -> str:
    """A guest that has to be shut down first, and is: then the run can be finished."""
    assert told["first"] == told["second"], told
    assert _assert_nothing_lost(cell) == found
    cell.qemu.stop()
    cell.alive = False
    state = _assert_closed(_recovered(cell, recoverer))
    assert _assert_nothing_lost(cell) == "gone"
    _assert_nothing_left(cell, state)
    return f"{found}: unknown, until shut down"


def _assert_named(cell: Cell, report: Report, left: list[str]) -> None:
    """What is left, and not in use by a switched VM, is named in what the client was told."""
    said = report["message"]
    assert [thing for thing in left if not cell.is_named(thing, said)] == [], report
    if left and report["end"] == "SnapshotError" and DONE not in said:
        assert "Everything was undone" not in said, report


def _recovered(cell: Cell, recoverer: Client) -> Report:
    """What recover says in a process of its own, which removes nothing that is in use."""
    before, view = cell.files(), cell.view()
    cell.start(recoverer, "recover", timeout=5.0)
    told = cell.hear()
    recoverer.wait()
    assert told, "recover ended without a word"
    gone = before.keys() - cell.files().keys()
    used = view.in_use() if view else set()
    same(set(), gone & (cell.disks.files.keys() | cell.disks.others.keys() | used))
    return told


def _assert_closed(told: Mapping[str, Any]) -> str:
    """The journal has one run, with an end; the second recovery found nothing to do.

    A client that was killed before it began has none.
    """
    same([], told["second"])
    if not told["after"]:
        return STATES["old"]
    (row,) = told["after"]
    assert row["state"] in STATES.values(), told
    assert row["ended"] is not None, told
    return str(row["state"])


def _assert_nothing_left(cell: Cell, state: str) -> None:
    """Of the run's making, only the disks of a VM that was switched and is no more."""
    left, view = _left(cell), cell.view()
    same([], cell.contradictions(state))
    if view is None and state == "switched":
        same(sorted(cell.targets.values()), sorted(left))
        same([], [said for path in left if (said := cell.offline.check(path))])
        for path in left:
            chain = cell.offline.chain(path)
            assert isinstance(chain, list), chain
    else:
        same([], left)


def _end(found: str, state: str) -> str:
    if found != "gone":
        return found
    return next(end for end, said in STATES.items() if said == state)


def _how(report: Report, told: Mapping[str, Any]) -> str:
    if not told["before"]:
        return "not begun"
    (row,) = told["before"]
    if told["first"]:
        return f"{row['state']}, recovered"
    if report.get("end") == "SnapshotError" and row["state"] == STATES["new"]:
        return "done, with findings"
    return "done" if row["state"] == STATES["new"] else "undone"
