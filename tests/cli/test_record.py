"""``snapkit journal`` and ``snapkit recover``: what was started, and finishing it."""

from __future__ import annotations

import csv
import io
import os
import re
import signal
from pathlib import Path

import pytest

import snapkit
from snapkit.backends.qmp import QmpBackend
from snapkit.journaling import Journal
from snapkit.script import Script
from tests.cli.conftest import RunCommand
from tests.conftest import Process, Qmp, StartQemu
from tests.journals import START, snapshot_that_dies
from tests.outside import drives, overlays, state


@pytest.fixture
def qemu(directory: Path, start_qemu: StartQemu) -> Process:
    return start_qemu(*drives(directory, 2), "-name", "win2003")


@pytest.fixture
def targets(directory: Path) -> dict[str, str]:
    return overlays(directory, 2)


def test_an_empty_journal_is_said_to_be_empty(run_snapkit: RunCommand, journal_path: Path) -> None:
    done = run_snapkit("journal")
    assert (done.status, done.out) == (0, "")
    assert done.err == f"No plan has been started yet. The journal is {journal_path}.\n"
    assert run_snapkit("journal", "--json").json == []
    assert run_snapkit("journal", "--csv").out == (
        "number,started,ended,uri,domain,vm,devices,engine,state,files,message\n"
    )
    assert not journal_path.exists()


def test_the_journal_shows_every_run_and_how_it_ended(
    qemu: Process, targets: dict[str, str], run_snapkit: RunCommand
) -> None:
    assert run_snapkit("snapshot", qemu.uri, f"drive0={targets['drive0']}").status == 0
    snapshot_that_dies(qemu.uri, {"drive1": targets["drive1"]}, "flush", engine="classic")
    done = run_snapkit("journal")
    header, first, second = done.out.splitlines()
    assert header.split() == "number started vm devices engine state".split()
    assert re.search(
        r"1  \d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ  win2003  drive0   prepared  switched$", first
    )
    assert second.endswith("win2003  drive1   classic   interrupted")
    assert done.err == ""
    rows = run_snapkit("journal", "--json").json
    assert [(row["number"], row["uri"], row["files"]) for row in rows] == [
        (1, qemu.uri, targets["drive0"]),
        (2, qemu.uri, targets["drive1"]),
    ]
    assert (rows[0]["ended"] > rows[0]["started"], rows[1]["ended"]) == (True, None)
    (row,) = csv.DictReader(io.StringIO(run_snapkit("journal", "--csv", "--limit", 1).out))
    assert (row["number"], row["state"], row["domain"]) == ("2", "interrupted", "")
    assert len(run_snapkit("journal", "--limit", 1).out.splitlines()) == 2
    assert targets["drive0"] in run_snapkit("journal", "--wide").out


def test_a_vm_without_a_name_is_shown_by_its_address(
    seed_qemu: Process, run_snapkit: RunCommand
) -> None:
    run_snapkit("snapshot", seed_qemu.uri, "--all")
    assert seed_qemu.uri in run_snapkit("journal").out
    assert run_snapkit("journal", "--json").json[0]["vm"] == ""


def test_what_a_message_quotes_cannot_control_the_terminal(
    qemu: Process, directory: Path, run_snapkit: RunCommand
) -> None:
    file = directory / "\x1b[2J.snap"

    def appear(phase: str) -> None:
        if phase == "prepare":
            file.touch()

    with snapkit.connect(qemu.uri) as vm, pytest.raises(snapkit.SnapshotError):
        vm.snapshot({"drive0": str(file)}, progress=appear)
    for words in (["journal"], ["journal", "--wide"]):
        out = run_snapkit(*words).out
        assert "\x1b" not in out
        assert "not switched" in out


def test_with_nothing_to_recover_that_is_said(run_snapkit: RunCommand) -> None:
    for words in (["recover"], ["recover", "--dry-run"]):
        done = run_snapkit(*words)
        assert (done.status, done.out) == (0, "")
        assert done.err == "Nothing to recover: every plan that was started has ended.\n"
    assert run_snapkit("recover", "--json").json == []


def test_what_was_interrupted_is_shown_and_then_finished(
    qemu: Process, targets: dict[str, str], run_snapkit: RunCommand
) -> None:
    before = state(qemu)
    snapshot_that_dies(qemu.uri, targets, "flush")
    left = state(qemu)
    dry = run_snapkit("recover", "--dry-run")
    assert dry.status == 0
    assert f"would remove the file {targets['drive0']}" in dry.out
    assert dry.err == "Dry run: nothing was changed, not even the journal.\n"
    assert state(qemu) == left
    done = run_snapkit("recover", "--json")
    assert (done.status, done.err) == (0, "")
    (row,) = done.json
    assert (row["number"], row["vm"], row["state"]) == (1, "win2003", "not switched")
    assert state(qemu) == before
    assert "Nothing to recover" in run_snapkit("recover").err


def test_what_cannot_be_looked_at_stays_open_and_is_status_3(
    qemu: Process, targets: dict[str, str], run_snapkit: RunCommand
) -> None:
    snapshot_that_dies(qemu.uri, targets, "flush")
    with Qmp(qemu.uri.removeprefix("unix:")):
        for words in ([], ["--dry-run"], ["--json"], ["--csv"]):
            done = run_snapkit("recover", "--timeout", 0.2, *words)
            assert done.status == 3
            assert "unknown" in done.out
            assert "How it ended is not known of 1: the table says why." in done.err
    assert run_snapkit("recover").status == 0
    assert not [*qemu.directory.glob("*.snap")]


def test_a_run_that_a_process_is_at_is_named_and_no_error(
    run_snapkit: RunCommand, journal_path: Path
) -> None:
    record = Journal(str(journal_path)).begin(START)
    done = run_snapkit("recover", "--json")
    assert (done.status, done.err) == (0, "")
    (row,) = done.json
    assert (row["state"], row["found"], row["done"]) == (
        *("running", "a process is at it", "nothing"),
    )
    record.release()


@pytest.mark.parametrize("verb", ["journal", "recover"])
def test_a_journal_that_cannot_be_used_is_one_sentence(
    verb: str, journal_path: Path, run_snapkit: RunCommand
) -> None:
    journal_path.parent.mkdir()
    journal_path.write_text("precious " * 100)
    done = run_snapkit(verb)
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(f"snapkit: The journal {journal_path} cannot be used: ")
    assert "Set SNAPKIT_JOURNAL" in done.err


def test_a_snapshot_tells_every_phase(
    qemu: Process, targets: dict[str, str], run_snapkit: RunCommand
) -> None:
    done = run_snapkit("snapshot", qemu.uri, *(f"{name}={file}" for name, file in targets.items()))
    assert [line for line in done.err.splitlines() if line.endswith(" ...")] == [
        "Writing the plan into the journal ...",
        "Reading the block graph ...",
        "Checking every target again ...",
        "Creating and opening the overlays ...",
        "Writing out what the host's cache holds of the disks ...",
        "Switching all devices at one instant ...",
        "Looking at what the VM shows now ...",
    ]


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_an_unknown_outcome_names_the_number_and_what_finishes_it(
    qemu: Process,
    targets: dict[str, str],
    run_snapkit: RunCommand,
    monkeypatch: pytest.MonkeyPatch,
    form: list[str],
) -> None:
    switch = QmpBackend.switch

    async def switch_and_hang(backend: QmpBackend, script: Script) -> None:
        os.kill(qemu.pid, signal.SIGSTOP)
        backend.read_seconds = 0.2
        await switch(backend, script)

    monkeypatch.setattr(QmpBackend, "switch", switch_and_hang)
    monkeypatch.setattr(QmpBackend, "switch_seconds", 0.2)
    monkeypatch.setattr("snapkit.undo.RECONNECT_SECONDS", 0.2)
    done = run_snapkit("snapshot", qemu.uri, f"drive0={targets['drive0']}", *form)
    os.kill(qemu.pid, signal.SIGCONT)
    assert done.status == 3
    assert "The journal has it as number 1" in done.err
    assert "`snapkit recover`" in done.err
    if form:
        assert "The journal has it as number 1" in done.json["error"]
    assert "unknown" in run_snapkit("journal").out
