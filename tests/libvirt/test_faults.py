"""What a connected VM says when the daemon, the domain or the connection goes.

What becomes of the disks, whatever goes and whenever, is in ``tests/faults``.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable

import pytest

import snapkit
from snapkit import loop
from snapkit.backends import processes
from snapkit.errors import ConnectError, PlanError, SnapkitError, SnapshotError
from tests.conftest import wait_until
from tests.libvirt.world import Seed


def at(phase: str, action: Callable[[], object]) -> Callable[[str], None]:
    """A progress function that acts when a phase begins."""

    def progress(now: str) -> None:
        if now == phase:
            action()

    return progress


def end(pid: int) -> None:
    """Kill a process and wait until it is no more."""
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: processes.has_ended(pid), f"{pid} ends")


def state(number: int = -1) -> str:
    return str(snapkit.journal()["state"].iloc[number])


def untouched(seed: Seed) -> None:
    """The domain is on its own images, and nothing is left beside them."""
    assert seed.disks() == {"vda": seed.raw, "vdb": seed.data}
    assert not {"w.snap", "d.snap"} & set(os.listdir(seed.directory))


def test_a_daemon_that_is_gone_before_the_run_ends_it_with_nothing_sent(
    seed: Seed, vm: snapkit.VirtualMachine
) -> None:
    plan = vm.plan(seed.targets)
    os.kill(seed.daemon.pid, signal.SIGKILL)
    with pytest.raises(ConnectError, match="was lost"):
        plan.run()
    assert not vm.connected
    assert state() == "not switched"
    seed.daemon.restart()
    untouched(seed)
    with snapkit.connect(seed.uri, seed.name) as again:
        assert again.snapshot(seed.targets).ok


def test_a_domain_that_was_started_anew_is_another_vm(
    seed: Seed, vm: snapkit.VirtualMachine
) -> None:
    plan = vm.plan(seed.targets)
    seed.daemon.virsh("destroy", seed.name)
    seed.start()
    with pytest.raises(ConnectError, match=r"has ended\. Start it, and connect again"):
        plan.run()
    assert not vm.connected
    untouched(seed)


def test_a_transient_domain_that_ends_just_before_the_switch_is_known_no_more(
    seed: Seed, vm: snapkit.VirtualMachine
) -> None:
    plan = vm.plan(seed.targets)
    with pytest.raises(SnapshotError, match=r"Everything was undone|the overlays were removed"):
        plan.run(at("switch", lambda: end(seed.pid())))
    assert not {"w.snap", "d.snap"} & set(os.listdir(seed.directory))
    assert state() == "not switched"


def test_of_two_snapkits_at_once_one_takes_its_snapshot(
    seed: Seed, vm: snapkit.VirtualMachine
) -> None:
    others = {name: f"{file}.other" for name, file in seed.targets.items()}
    with snapkit.connect(seed.uri, seed.name) as second:
        plans = (
            vm.plan(seed.targets, metadata="no"),
            second.plan(others, metadata="no"),
        )
        runs = [plan.start() for plan in plans]
        errors = [run.future.exception(60) for run in runs]
    assert sorted(error is None for error in errors) == [False, True]
    taken = seed.targets if errors[0] is None else others
    assert seed.disks() == taken
    refused = next(error for error in errors if error)
    assert isinstance(refused, SnapkitError)
    assert re.search("the disk is on another image now|has changed since", str(refused))
    left = seed.targets if errors[0] is not None else others
    assert not [file for file in left.values() if os.path.exists(file)]


def test_somebody_else_s_snapshot_just_before_the_switch_is_not_stacked_upon(
    seed: Seed, vm: snapkit.VirtualMachine
) -> None:
    theirs = ["snapshot-create-as", seed.name, "--disk-only", "--no-metadata"]

    def take() -> None:
        only = ["--diskspec", "vda,snapshot=no", "--diskspec", f"vdb,file={seed.file('theirs')}"]
        seed.daemon.virsh(*theirs, *only)

    with pytest.raises(SnapshotError, match=r"vdb: .*is on another image now"):
        vm.plan(seed.targets).run(at("switch", take))
    assert seed.disks()["vdb"] == seed.file("theirs")
    assert not {"w.snap", "d.snap"} & set(os.listdir(seed.directory))


def test_a_connection_that_is_closed_within_the_run_is_made_again(
    seed: Seed, vm: snapkit.VirtualMachine
) -> None:
    closing = at("switch", lambda: loop.submit(vm.aclose()))
    outcome = vm.plan(seed.targets).run(closing)
    assert outcome.ok, outcome.findings
    assert seed.disks() == seed.targets


def test_what_libvirt_refuses_for_one_disk_leaves_all_as_they_were(
    seed: Seed, vm: snapkit.VirtualMachine
) -> None:
    before = seed.images()

    def fill() -> None:
        # libvirt takes only an empty file for a new overlay.
        with open(seed.targets["vdb"], "w") as file:
            file.write("not empty")

    words = r"vdb: .*already exists.*To cure it, choose a name that is free"
    with pytest.raises(SnapshotError, match=words):
        vm.plan(seed.targets).run(at("switch", fill))
    assert seed.images() == before
    assert seed.disks() == {"vda": seed.raw, "vdb": seed.data}


def test_events_of_an_end_are_heard_of(seed: Seed, vm: snapkit.VirtualMachine) -> None:
    end(seed.pid())
    wait_until(lambda: not vm.connected, "the end is heard of")
    with pytest.raises((ConnectError, PlanError), match="has ended"):
        vm.plan(seed.targets)
