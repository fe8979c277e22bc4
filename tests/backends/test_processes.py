"""Telling a process from every other that has, had or will have its number."""

from __future__ import annotations

import os
import subprocess

import pytest

from snapkit.backends import processes


def test_a_process_is_known_while_it_runs_and_gone_when_it_has_ended() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        known = processes.instance(child.pid)
        assert known == processes.instance(child.pid)
        assert known != processes.instance(os.getpid())
        assert not processes.is_gone(known)
        child.kill()
    assert processes.is_gone(known)
    assert processes.instance(child.pid) == ""


def test_a_number_that_another_process_has_now_does_not_hide_that_the_first_is_gone() -> None:
    known = processes.instance(os.getpid())
    rest, _, started = known.rpartition("/")
    assert processes.is_gone(f"{rest}/{int(started) - 1}")


def test_of_what_is_not_known_nothing_is_said() -> None:
    assert not processes.is_gone("")


@pytest.mark.parametrize(
    ("part", "other", "gone"),
    [
        ("machine", "another host", False),
        ("boot", "before this boot", True),
        ("namespace", "pid:[1]", False),
    ],
)
def test_a_process_of_another_host_or_container_may_be_there_and_one_before_the_boot_is_not(
    part: str, other: str, gone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal may lie in a home that several hosts share."""
    monkeypatch.setattr(processes, "_here", lambda: ("this host", "this boot", "pid:[0]"))
    with subprocess.Popen(["sleep", "60"]) as child:
        machine, boot, namespace, *rest = processes.instance(child.pid).split("/")
        child.kill()
    there = {"machine": machine, "boot": boot, "namespace": namespace} | {part: other}
    if part == "machine":
        # Another host has another boot too.
        there["boot"] = "its boot"
    assert processes.is_gone("/".join((*there.values(), *rest))) == gone
