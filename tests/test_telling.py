"""What a failed run says: one message for people, with a device and what to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from snapkit import telling
from snapkit.backends.base import Refused
from snapkit.errors import ConnectError
from snapkit.script import Command, Script
from tests.journals import OVERLAY

SECOND = replace(
    OVERLAY, device="drive1", file="/imgs/b.snap", backing_file="/imgs/b.qcow2", node="drive1-snap1"
)
BOTH = Script((OVERLAY, SECOND), (), Command("transaction", {"actions": []}))
ONE = Script((OVERLAY,), (), Command("transaction", {"actions": []}))


@pytest.mark.parametrize(
    ("cause", "wanted"),
    [
        (Refused("No such file."), "No such file"),
        (OSError(5, "Input/output error"), "OSError: [Errno 5] Input/output error"),
        (TimeoutError(), "TimeoutError"),
        (ConnectError("Is the VM running?"), "Is the VM running?"),
    ],
)
def test_an_error_of_snapkit_s_speaks_for_itself_and_any_other_has_its_type(
    cause: BaseException, wanted: str
) -> None:
    assert telling.words(cause) == wanted
    assert telling.ended(wanted) == wanted + ("" if wanted.endswith("?") else ".")


@pytest.mark.parametrize(
    ("said", "device"),
    [
        ("Could not create '/imgs/b.snap': Permission denied", "drive1"),
        ("Node 'drive1-snap1' is busy", "drive1"),
        ("Cannot find device='drive0' nor node-name=''", "drive0"),
        ("Something is wrong", "one of drive0, drive1"),
        # An empty name is no name.
        ("Cannot find ''", "one of drive0, drive1"),
    ],
)
def test_a_transaction_s_refusal_is_about_whom_it_names(said: str, device: str) -> None:
    assert telling.blamed(said, BOTH) == device


def test_where_there_is_one_disk_it_is_that_one() -> None:
    assert telling.blamed("Something is wrong", ONE) == "drive0"


def test_a_failure_says_what_was_undone() -> None:
    said = telling.failure(Refused("No space left on device.", "drive1"), [], 7)
    assert said == (
        "The snapshot failed. drive1: No space left on device. Everything was undone: "
        "no device was switched, and no file of this run is left."
    )


def test_where_the_vm_has_ended_it_is_not_said_that_nothing_was_switched() -> None:
    said = telling.failure(telling.Ended("The VM has ended within the switch"), [], 7)
    assert "The VM has ended within the switch." in said
    assert "no device was switched" not in said
    assert "the overlays were removed" in said


def test_a_failure_that_left_something_names_it_and_what_finishes_it() -> None:
    said = telling.failure(telling.Cancelled("The run was cancelled"), ["/a is in use", "/b"], 7)
    assert said.startswith("The run was cancelled. This run switched no device, but: /a is in use")
    assert "Everything was undone" not in said
    assert "number 7" in said
    assert "`snapkit recover`" in said
    assert ".." not in said


def test_a_message_is_bounded_and_holds_nothing_that_a_terminal_acts_on() -> None:
    said = telling.short("\x1b[2J" + "x" * 100_000)
    assert said.startswith("\\x1b[2J")
    assert len(said) < 21_000
