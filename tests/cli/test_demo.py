"""``snapkit demo``: the main job, and the proof."""

from __future__ import annotations

import pytest

from snapkit.cli.demo import of_one_instant, proof
from tests.cli.conftest import RunCommand


def test_the_demo_shows_every_step_and_proves_one_instant(run_snapkit: RunCommand) -> None:
    done = run_snapkit("demo")
    assert done.status == 0
    steps = [
        "Devices before",
        "Plan",
        "The switch",
        "Devices after",
        "Outcome",
        "The last sequence",
    ]
    places = [done.out.index(f"\n{step}") for step in steps]
    assert places == sorted(places)
    assert '{"execute": "transaction", "arguments": {"actions": [' in done.out
    assert "Both images are of one instant." in done.out


@pytest.mark.parametrize(
    ("engine", "action"), [("classic", "blockdev-snapshot-sync"), ("prepared", "blockdev-snapshot")]
)
def test_the_demo_as_json_has_the_numbers_and_the_verdict(
    engine: str, action: str, run_snapkit: RunCommand
) -> None:
    done = run_snapkit("demo", "--json", "--engine", engine, "--disks", 4)
    assert done.status == 0
    found = done.json
    assert (found["ok"], found["one_instant"]) == (True, True)
    assert list(found["sequence"]) == ["drive0", "drive1", "drive2", "drive3"]
    numbers = list(found["sequence"].values())
    assert 0 <= numbers[0] - numbers[-1] <= 1
    assert [row["depth"] for row in found["after"] if row["snapshotable"]] == [1] * 4
    assert [row["depth"] for row in found["before"] if row["snapshotable"]] == [0] * 4
    switch = found["commands"][-1]
    assert {step["type"] for step in switch["arguments"]["actions"]} == {action}


def test_a_demo_with_more_disks_than_a_lab_has_is_refused(run_snapkit: RunCommand) -> None:
    done = run_snapkit("demo", "--disks", 9)
    assert (done.status, done.out) == (1, "")
    assert "1 to 8" in done.err


@pytest.mark.parametrize(
    ("numbers", "verdict"),
    [
        ([7, 7], True),
        ([8, 7], True),
        ([9, 7], False),
        ([7, 8], False),
        ([8, 8, 7, 7], True),
        ([8, 7, 8, 7], False),
        ([7, 8, 8, 7], False),
        ([0, 0], False),
        ([1, 0], False),
        ([5], True),
        ([], False),
    ],
)
def test_images_are_of_one_instant_if_the_numbers_fall_by_one_at_most(
    numbers: list[int], verdict: bool
) -> None:
    assert of_one_instant({f"drive{n}": number for n, number in enumerate(numbers)}) is verdict


def test_the_proof_says_what_is_not_so_too() -> None:
    assert "drive0, then to drive1" in proof({"drive0": 9, "drive1": 7})
    assert "Here it is 2. The images are NOT of one instant." in proof({"drive0": 9, "drive1": 7})
    assert "All 3 images are of one instant." in proof({"a": 9, "b": 9, "c": 8})
    assert "The image is of one instant." in proof({"a": 9})
