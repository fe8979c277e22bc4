"""The journal and recovery: the same columns and words, whatever snapkit reaches a machine by."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import snapkit
from snapkit.journaling import Journal
from tests.conformance.conftest import every_engine
from tests.conformance.machines import Machine
from tests.conftest import contents
from tests.journals import answer, python, rows, snapshot_that_dies

BEFORE = "the disks are as they were before the run"
ENDED = "the VM has ended; nothing was written to its overlays"


def die(machine: Machine, phase: str) -> None:
    """Run a snapshot in a process of its own that is killed when a phase begins."""
    snapshot_that_dies(machine.uri, machine.targets(2), phase, domain=machine.domain)


def recovered(**options: Any) -> dict[str, Any]:
    """The one row that recover has, which says what the journal then says too."""
    (row,) = rows(snapkit.recover(**options))
    (entry,) = rows(snapkit.journal())
    if not options.get("dry_run") and row["state"] != "unknown":
        assert entry["state"] == row["state"]
        assert row["found"] in entry["message"]
        assert snapkit.recover().empty
    return row


def left(machine: Machine) -> list[str]:
    return [file for file in machine.targets().values() if os.path.exists(file)]


def test_a_run_is_a_row_of_the_journal(machine: Machine, vm: snapkit.VirtualMachine) -> None:
    targets = machine.targets(2)
    vm.snapshot(targets)
    table = snapkit.journal()
    assert table.index.name == "number"
    assert list(table.columns) == (
        "started ended uri domain vm devices engine state files message".split()
    )
    (row,) = rows(table)
    started, ended = row.pop("started"), row.pop("ended")
    assert pd.Timedelta(0) <= ended - started < pd.Timedelta("1h")
    assert started.tzname() == "UTC"
    if machine.domain is None:
        assert pd.isna(row.pop("domain"))
        row["domain"] = None
    assert row == {
        "number": 1,
        "uri": machine.uri,
        "domain": machine.domain,
        "vm": machine.call(),
        "devices": ", ".join(targets),
        "engine": "prepared",
        "state": "switched",
        "files": ", ".join(targets.values()),
        "message": "",
    }
    assert snapkit.recover().empty


def test_the_whole_of_a_run_can_be_read_afterwards(
    machine: Machine, vm: snapkit.VirtualMachine, journal_path: Path
) -> None:
    plan = vm.plan(machine.targets())
    assert plan.run().ok
    entry = Journal(str(journal_path)).entry(1)
    assert [name for _, name in entry.steps] == (
        "journal observe check prepare flush switch verify".split()
    )
    assert [made.path for made in entry.receipt.files] == list(machine.targets().values())
    # What libvirt makes, it makes within the switch.
    assert entry.receipt.prepared == (machine.backend == "qmp")
    assert entry.start.fingerprint == plan.fingerprint
    assert list(entry.start.commands) == [command.to_json() for command in plan.script.commands]
    assert entry.start.instance


def test_a_plan_that_was_refused_at_the_last_moment_says_so(
    machine: Machine, vm: snapkit.VirtualMachine
) -> None:
    plan = vm.plan(machine.targets())
    Path(machine.targets()[machine.names[1]]).touch()
    with pytest.raises(snapkit.PlanError, match="already exists"):
        plan.run()
    (row,) = rows(snapkit.journal())
    assert row["state"] == "not switched"
    assert "already exists" in row["message"]


def test_a_plan_whose_machine_could_not_be_looked_at_has_an_end_too(machine: Machine) -> None:
    with machine.connect() as vm:
        plan = vm.plan(machine.targets())
    with pytest.raises(snapkit.ConnectError, match="closed"):
        plan.run()
    (row,) = rows(snapkit.journal())
    assert row["state"] == "not switched"
    assert "is closed" in row["message"]


@pytest.mark.parametrize("phase", ["prepare", "flush", "switch"])
def test_before_the_switch_all_of_it_is_removed(machine: Machine, phase: str) -> None:
    before = machine.state()
    die(machine, phase)
    assert list(snapkit.journal()["state"]) == ["interrupted"]
    there = machine.state()
    would = recovered(dry_run=True)
    assert machine.state() == there
    assert list(snapkit.journal()["state"]) == ["interrupted"]
    row = recovered()
    assert (row["number"], row["uri"], row["vm"]) == (1, machine.uri, machine.call())
    nothing_sent = "it ended before anything was sent"
    found = nothing_sent if phase == "prepare" else BEFORE
    assert (row["state"], row["found"], would["found"]) == ("not switched", found, found)
    assert would["done"].replace("would remove", "removed") == row["done"]
    assert ("removed" in row["done"]) == (there != before)
    assert machine.state() == before
    with machine.connect() as vm:
        assert vm.snapshot(machine.targets()).ok


def test_after_the_switch_nothing_is_touched(machine: Machine) -> None:
    die(machine, "verify")
    after = machine.state()
    assert recovered(dry_run=True)["state"] == "switched"
    row = recovered()
    assert (row["state"], row["done"]) == ("switched", "nothing")
    names = ", ".join(machine.names[:2])
    assert row["found"] == f"the VM has the overlays in its chains ({names})"
    assert machine.state() == after
    assert {**machine.first(), **machine.targets(2)} == machine.active()


@pytest.mark.parametrize("phase", ["flush", "switch", "verify"])
def test_where_the_machine_has_ended_unused_overlays_are_removed(
    machine: Machine, phase: str
) -> None:
    die(machine, phase)
    machine.end()
    row = recovered()
    if phase == "verify":
        assert row["state"] == "switched"
        assert row["found"].startswith("the VM has ended; it was switched, and its disks are ")
        assert left(machine) == list(machine.targets(2).values())
    else:
        assert (row["state"], row["found"]) == ("not switched", ENDED)
        assert left(machine) == []


def test_a_machine_that_was_started_anew_is_not_taken_for_it(machine: Machine) -> None:
    before = machine.state()
    die(machine, "switch")
    machine.restart()
    row = recovered()
    assert (row["state"], row["found"]) == ("not switched", ENDED)
    after = machine.state()
    assert (after["files"], after["chains"]) == (before["files"], before["chains"])


def test_the_connection_that_this_process_has_is_used(
    machine: Machine, vm: snapkit.VirtualMachine
) -> None:
    # Nothing else may be connected while the other process is.
    vm.close()
    before = machine.state()
    die(machine, "switch")
    with machine.connect() as again:
        assert recovered(timeout=0.5)["state"] == "not switched"
        assert again.connected
        assert machine.state() == before
        assert again.snapshot(machine.targets()).ok


def test_a_file_that_somebody_else_has_put_there_is_left_and_the_rest_removed(
    machine: Machine,
) -> None:
    die(machine, "flush")
    second = machine.targets()[machine.names[1]]
    os.unlink(second)
    Path(second).write_text("precious")
    row = recovered()
    assert row["state"] == "not switched"
    assert second not in row["done"]
    assert Path(second).read_text() == "precious"
    assert left(machine) == [second]


@every_engine
def test_overlays_that_were_there_before_are_never_removed(machine: Machine, engine: str) -> None:
    targets = {name: machine.overlay(f"over-{name}", name) for name in machine.names}
    before = machine.state()
    for ended in (False, True):
        snapshot_that_dies(
            machine.uri, targets, "switch", domain=machine.domain, mode="existing", engine=engine
        )
        if ended:
            machine.end()
        (row,) = rows(snapkit.recover())
        assert row["state"] == "not switched"
        assert "the file" not in row["done"]
        if not ended:
            assert machine.state() == before
    assert contents(machine.directory) == before["files"]


RECOVER = """
import snapkit
for row in snapkit.recover(timeout=5).itertuples():
    print(row.Index, row.state)
"""


def test_two_recoveries_at_once_do_it_once(machine: Machine) -> None:
    before = machine.state()
    die(machine, "flush")
    both = [python(RECOVER) for _ in range(2)]
    said = [line for process in both for line in answer(process).splitlines()]
    assert said.count("1 not switched") == 1, said
    assert set(said) <= {"1 not switched", "1 running", "1 unknown"}
    assert machine.state() == before
    assert list(snapkit.journal()["state"]) == ["not switched"]


def test_of_a_machine_out_of_reach_recovery_claims_nothing_until_it_can_look(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snapkit.undo.RECONNECT_SECONDS", 0.2)
    tap, targets = machine.tap(), machine.targets()

    def vanish(phase: str) -> None:
        if phase == "switch":
            tap.refuse()
            tap.lose_reply(lambda: machine.active() == targets)

    with machine.connect(tap) as vm, pytest.raises(snapkit.OutcomeUnknown, match="number 1"):
        vm.plan(targets).run(vanish)
    (row,) = rows(snapkit.recover(timeout=0.5))
    assert row["state"] == "unknown"
    assert row["done"].startswith("nothing; recover again when it can be reached")
    assert list(snapkit.journal()["state"]) == ["unknown"]
    tap.mend()
    assert recovered()["state"] == "switched"
    assert machine.active() == targets
