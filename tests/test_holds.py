"""Which runs a process is at: a hold ends with its process, and with nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from snapkit.holds import Holds
from tests.conftest import wait_until
from tests.journals import answer, python

HOLD = """
import sys
from snapkit.holds import Holds
print(Holds(sys.argv[1]).take(int(sys.argv[2])), flush=True)
sys.stdin.readline()
"""
LOOK = """
import sys
from snapkit.holds import Holds
holds = Holds(sys.argv[1])
print([number for number in range(1, 4) if holds.is_taken(number)])
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "x.lock")


def seen(path: str) -> str:
    """What another process sees as taken."""
    return answer(python(LOOK, path)).strip()


def test_a_run_is_held_once_and_each_by_itself(path: str) -> None:
    holds = Holds(path)
    assert holds.take(1)
    assert holds.take(3)
    assert not holds.take(1)
    assert not Holds(path).take(3)
    assert [holds.is_taken(number) for number in (1, 2, 3)] == [True, False, True]
    assert seen(path) == "[1, 3]"
    holds.drop(1)
    assert seen(path) == "[3]"
    assert holds.take(1)
    for number in (1, 3):
        holds.drop(number)
    assert seen(path) == "[]"


def test_what_another_process_holds_cannot_be_taken_until_that_ends(path: str) -> None:
    holds, process = Holds(path), python(HOLD, path, "2")
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    assert holds.is_taken(2)
    assert not holds.take(2)
    # What is not held cannot be dropped either.
    holds.drop(2)
    assert holds.is_taken(2)
    process.kill()
    process.communicate()
    assert not holds.is_taken(2)
    assert holds.take(2)
    holds.drop(2)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_holds_nothing_and_takes_nothing_away(path: str) -> None:
    holds = Holds(path)
    holds.take(1)
    dropped, drop = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            good = holds.is_taken(1) and not holds.take(1) and holds.take(2)
            os.read(dropped, 1)
            # Nor does it believe that it holds what its parent had.
            os._exit(0 if good and holds.take(1) else 1)
        finally:
            os._exit(99)
    wait_until(lambda: holds.is_taken(2), "the child is at work")
    assert holds.is_taken(1)
    holds.drop(1)
    os.write(drop, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert seen(path) == "[]"
    os.close(dropped)
    os.close(drop)


@pytest.mark.parametrize("how", ["removed", "moved"])
def test_a_file_that_went_is_made_anew_once_nothing_is_held(path: str, how: str) -> None:
    holds = Holds(path)
    holds.take(1)
    if how == "removed":
        os.unlink(path)
    else:
        os.rename(path, f"{path}.old")
    # What is held stays held: the file is still the one that it was taken in.
    assert holds.is_taken(1)
    holds.drop(1)
    assert holds.take(1)
    assert os.path.exists(path)
    assert seen(path) == "[1]"
    holds.drop(1)


def test_nobody_else_may_read_the_file(path: str) -> None:
    old = os.umask(0)
    try:
        Holds(path).is_taken(1)
    finally:
        os.umask(old)
    assert os.stat(path).st_mode & 0o777 == 0o600
