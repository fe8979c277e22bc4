"""A snapkit that is killed within a run, and what recovery makes of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import snapkit
from tests.libvirt.world import Seed

ROOT = Path(__file__).parents[2]
KILLED = """
import os, signal, sys
import snapkit
uri, domain, phase, *files = sys.argv[1:]
vm = snapkit.connect(uri, domain)
plan = vm.plan(dict(zip(("vda", "vdb"), files)))
plan.run(lambda now: now == phase and os.kill(os.getpid(), signal.SIGKILL))
"""


def kill_in(phase: str, seed: Seed) -> None:
    """Run a snapshot in a process of its own that kills itself when a phase begins."""
    words = [seed.uri, seed.name, phase, *seed.targets.values()]
    done = subprocess.run([sys.executable, "-c", KILLED, *words], cwd=ROOT, check=False)
    assert done.returncode == -9


def left(seed: Seed) -> set[str]:
    return {"w.snap", "d.snap"} & set(os.listdir(seed.directory))


@pytest.mark.parametrize("phase", ["switch", "verify"])
def test_of_a_domain_that_has_ended_since_the_files_tell(seed: Seed, phase: str) -> None:
    kill_in(phase, seed)
    seed.daemon.virsh("destroy", seed.name)
    (row,) = snapkit.recover().to_dict("records")
    assert "has ended" in row["found"]
    assert row["state"] == ("switched" if phase == "verify" else "not switched")
    assert left(seed) == (set() if phase == "switch" else {"w.snap", "d.snap"})


def test_a_domain_of_the_same_name_is_not_taken_for_it(seed: Seed) -> None:
    kill_in("switch", seed)
    seed.daemon.virsh("destroy", seed.name)
    seed.start()
    (row,) = snapkit.recover().to_dict("records")
    assert "has ended" in row["found"]
    assert row["state"] == "not switched"
    assert left(seed) == set()


def test_a_recovery_uses_the_connection_that_there_is(
    seed: Seed, vm: snapkit.VirtualMachine
) -> None:
    kill_in("switch", seed)
    assert list(snapkit.recover()["state"]) == ["not switched"]
    assert vm.connected
    assert vm.snapshot(seed.targets).ok
