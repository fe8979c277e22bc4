"""``snapkit snapshot``: the main job in a terminal."""

from __future__ import annotations

import csv
import io
import os
import signal
import threading
from pathlib import Path

import pytest

from snapkit.cli.console import Console
from tests.cli.conftest import RunCommand
from tests.conftest import SECONDS, Process, chain_of, contents


def active_files(process: Process) -> dict[str, str]:
    """Drive id -> the image that QEMU writes to, by QEMU's word."""
    return {row["device"]: row["inserted"]["file"] for row in process.ask("query-block")}


@pytest.fixture
def overlays(directory: Path) -> dict[str, str]:
    return {"drive0": f"{directory}/win2003.snap", "drive1": f"{directory}/data=new.snap"}


def pairs(overlays: dict[str, str]) -> list[str]:
    return [f"{device}={file}" for device, file in overlays.items()]


@pytest.mark.parametrize("engine", ["prepared", "classic"])
def test_both_disks_are_switched_and_the_outcome_is_shown(
    engine: str, seed_qemu: Process, overlays: dict[str, str], run_snapkit: RunCommand
) -> None:
    done = run_snapkit("snapshot", seed_qemu.uri, *pairs(overlays), "--engine", engine)
    assert done.status == 0
    assert "2 disks switched at one instant" in done.out
    assert "Plan" in done.out
    assert "Switching all devices at one instant" in done.err
    assert active_files(seed_qemu) == overlays
    assert len(chain_of(overlays["drive1"])) == 2


def test_json_is_one_object_with_all_of_the_run(
    seed_qemu: Process, overlays: dict[str, str], run_snapkit: RunCommand
) -> None:
    done = run_snapkit("snapshot", seed_qemu.uri, *pairs(overlays), "--json")
    found = done.json
    assert done.status == 0
    assert (found["ok"], found["switched"], found["error"]) == (True, True, None)
    assert [row["snapshot_file"] for row in found["plan"]] == list(overlays.values())
    assert found["commands"][-1]["execute"] == "transaction"
    assert [row["depth_after"] for row in found["outcome"]] == [1, 1]
    assert 0 < found["switch_seconds"] < SECONDS


def test_csv_is_the_outcome(
    seed_qemu: Process, overlays: dict[str, str], run_snapkit: RunCommand
) -> None:
    done = run_snapkit("snapshot", seed_qemu.uri, *pairs(overlays), "--csv")
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert [row["file_after"] for row in rows] == list(overlays.values())


def test_options_may_stand_between_the_targets(
    seed_qemu: Process, overlays: dict[str, str], run_snapkit: RunCommand
) -> None:
    first, second = pairs(overlays)
    done = run_snapkit("snapshot", "--json", seed_qemu.uri, first, "--format", "qed", second)
    assert done.status == 0
    assert [row["format"] for row in done.json["plan"]] == ["qed", "qed"]


@pytest.mark.parametrize("which", [["--all"], ["--devices", "drive0,drive1"]])
def test_devices_can_be_named_by_a_template(
    which: list[str], seed_qemu: Process, directory: Path, run_snapkit: RunCommand
) -> None:
    words = ["--template", "{directory}/{device}-{tag}.{format}", "--tag", "monday"]
    done = run_snapkit("snapshot", seed_qemu.uri, *which, *words)
    assert done.status == 0
    assert active_files(seed_qemu) == {
        "drive0": f"{directory}/drive0-monday.qcow2",
        "drive1": f"{directory}/drive1-monday.qcow2",
    }


def test_a_dry_run_shows_plan_checks_and_commands_and_changes_nothing(
    seed_qemu: Process, overlays: dict[str, str], directory: Path, run_snapkit: RunCommand
) -> None:
    before = contents(directory), active_files(seed_qemu), seed_qemu.ask("query-named-block-nodes")
    done = run_snapkit("snapshot", seed_qemu.uri, *pairs(overlays), "--dry-run")
    assert done.status == 0
    for heading in ("Plan", "Checks", "The switch"):
        assert f"\n{heading}" in done.out
    assert '{"execute": "transaction"' in done.out
    assert "nothing was changed" in done.err
    found = run_snapkit("snapshot", seed_qemu.uri, *pairs(overlays), "--dry-run", "--json").json
    assert (found["ok"], found["outcome"], found["switch_seconds"]) == (True, None, None)
    assert {row["device"] for row in found["checks"]} == set(overlays)
    assert run_snapkit("snapshot", seed_qemu.uri, *pairs(overlays), "--dry-run", "--csv").out
    after = contents(directory), active_files(seed_qemu), seed_qemu.ask("query-named-block-nodes")
    assert after == before


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_refused_plan_names_every_problem_and_changes_nothing(
    dry: list[str], seed_qemu: Process, directory: Path, run_snapkit: RunCommand
) -> None:
    before = contents(directory)
    words = ["drive0=/nowhere/a.snap", f"drive9={directory}/b.snap", *dry]
    done = run_snapkit("snapshot", seed_qemu.uri, *words)
    assert done.status == 1
    assert "error: drive0: " in done.out
    assert "error: drive9: " in done.out
    assert "The plan is refused" in done.err
    found = run_snapkit("snapshot", seed_qemu.uri, *words, "--json")
    assert found.status == 1
    assert (found.json["ok"], found.json["commands"], found.json["outcome"]) == (False, [], None)
    assert {"drive0", "drive9"} <= {problem["device"] for problem in found.json["problems"]}
    assert contents(directory) == before


def test_a_device_that_is_named_twice_is_refused(
    seed_qemu: Process, directory: Path, run_snapkit: RunCommand
) -> None:
    done = run_snapkit(
        *("snapshot", seed_qemu.uri, f"drive0={directory}/a.snap", f"drive0={directory}/b.snap")
    )
    assert done.status == 1
    assert "drive0" in done.out


def test_a_hostile_file_name_is_shown_escaped(
    seed_qemu: Process, directory: Path, run_snapkit: RunCommand
) -> None:
    done = run_snapkit("snapshot", seed_qemu.uri, f"drive0={directory}/\x1b[2J.snap", "--dry-run")
    assert "\x1b" not in done.out + done.err
    assert r"\x1b[2J.snap" in done.out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_before_the_switch_everything_is_undone(
    number: signal.Signals,
    seed_qemu: Process,
    overlays: dict[str, str],
    directory: Path,
    run_snapkit: RunCommand,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = contents(directory), active_files(seed_qemu)
    done = interrupted_at(
        "Creating and opening", number, seed_qemu, overlays, run_snapkit, monkeypatch
    )
    assert done[0] == 128 + number
    assert "undone" in done[1]
    assert "Traceback" not in done[1]
    assert (contents(directory), active_files(seed_qemu)) == before


def test_interrupted_after_the_switch_the_run_is_finished_and_that_is_said(
    seed_qemu: Process,
    overlays: dict[str, str],
    run_snapkit: RunCommand,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    status, err = interrupted_at(
        "Looking at", signal.SIGINT, seed_qemu, overlays, run_snapkit, monkeypatch
    )
    assert status == 128 + signal.SIGINT
    assert "the snapshot was taken" in err
    assert active_files(seed_qemu) == overlays


def interrupted_at(
    phase: str,
    number: signal.Signals,
    qemu: Process,
    overlays: dict[str, str],
    run_snapkit: RunCommand,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[int, str]:
    """Status and messages of a run that gets a signal as this phase begins."""
    stopping = threading.Event()
    say = Console.say

    def say_and_interrupt(self: Console, text: str) -> None:
        say(self, text)
        if text.startswith("Stopping"):
            stopping.set()
        elif text.startswith(phase):
            os.kill(os.getpid(), number)
            assert stopping.wait(SECONDS)

    monkeypatch.setattr(Console, "say", say_and_interrupt)
    done = run_snapkit("snapshot", qemu.uri, *pairs(overlays))
    return done.status, done.err
