"""What becomes of a run when the daemon, QEMU, the domain or the connection goes."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable

import pytest

import snapkit
from snapkit import loop
from snapkit.backends import processes
from snapkit.errors import ConnectError, OutcomeUnknown, PlanError, SnapkitError, SnapshotError
from tests.conftest import wait_until
from tests.libvirt.world import Seed
from tests.libvirtd import domain_xml


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


def test_a_daemon_that_is_started_anew_within_the_switch_is_asked_what_it_did(
    seed: Seed, vm: snapkit.VirtualMachine
) -> None:
    plan = vm.plan(seed.targets)

    def replace_daemon() -> None:
        # The call waits in its socket, and goes with it.
        os.kill(seed.daemon.pid, signal.SIGSTOP)
        os.kill(seed.daemon.pid, signal.SIGKILL)
        seed.daemon.restart()

    with pytest.raises(SnapshotError, match="Everything was undone"):
        plan.run(at("switch", replace_daemon))
    untouched(seed)
    assert state() == "not switched"
    assert snapkit.recover().empty


def test_a_daemon_that_stays_away_leaves_the_run_to_recovery(
    seed: Seed, vm: snapkit.VirtualMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snapkit.undo.RECONNECT_SECONDS", 0.5)
    plan = vm.plan(seed.targets)
    with pytest.raises((OutcomeUnknown, SnapshotError), match=r"snapkit\.recover\(\)"):
        plan.run(at("switch", lambda: os.kill(seed.daemon.pid, signal.SIGKILL)))
    assert list(snapkit.recover()["state"]) == ["unknown"]
    seed.daemon.restart()
    assert list(snapkit.recover()["state"]) == ["not switched"]
    untouched(seed)
    assert state() == "not switched"


def test_a_daemon_that_ends_after_the_switch_does_not_change_the_outcome(
    seed: Seed, vm: snapkit.VirtualMachine
) -> None:
    def replace_daemon() -> None:
        os.kill(seed.daemon.pid, signal.SIGKILL)
        seed.daemon.restart()

    outcome = vm.plan(seed.targets).run(at("verify", replace_daemon))
    assert outcome.ok, outcome.findings
    assert seed.disks() == seed.targets


@pytest.mark.parametrize("phase", ["prepare", "flush", "switch"])
def test_a_qemu_that_ends_before_its_switch_leaves_nothing(
    seed: Seed, vm: snapkit.VirtualMachine, phase: str
) -> None:
    plan = vm.plan(seed.targets)
    with pytest.raises(SnapshotError, match=r"Everything was undone|the overlays were removed"):
        plan.run(at(phase, lambda: end(seed.pid())))
    assert not {"w.snap", "d.snap"} & set(os.listdir(seed.directory))
    assert state() == "not switched"


def test_a_qemu_that_ends_after_its_switch_is_told_with_its_disks(
    seed: Seed, vm: snapkit.VirtualMachine
) -> None:
    plan = vm.plan(seed.targets)
    with pytest.raises(SnapshotError, match="start it again from these") as caught:
        plan.run(at("verify", lambda: end(seed.pid())))
    assert caught.value.outcome is not None
    assert caught.value.outcome.switched
    assert set(seed.targets.values()) <= {seed.file(name) for name in os.listdir(seed.directory)}
    assert state() == "switched"


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


def test_a_domain_that_is_started_anew_within_the_run_is_not_switched(
    seed: Seed, vm: snapkit.VirtualMachine
) -> None:
    def start_anew() -> None:
        seed.daemon.virsh("destroy", seed.name)
        seed.start()

    with pytest.raises(SnapshotError, match="the overlays were removed"):
        vm.plan(seed.targets).run(at("switch", start_anew))
    untouched(seed)


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


def test_a_claimed_file_that_was_replaced_is_left_and_named(
    seed: Seed, vm: snapkit.VirtualMachine
) -> None:
    def replace() -> None:
        os.unlink(seed.targets["vdb"])
        os.mkdir(seed.targets["vdb"])

    with pytest.raises(SnapshotError, match=r"vdb: .*is no longer the file.*was left alone"):
        vm.plan(seed.targets).run(at("switch", replace))
    assert os.path.isdir(seed.targets["vdb"])
    assert not os.path.exists(seed.targets["vda"])
    assert seed.disks() == {"vda": seed.raw, "vdb": seed.data}


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


def test_what_libvirt_was_ended_before_it_wrote_down_is_asked_of_qemu(
    seed: Seed, vm: snapkit.VirtualMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snapkit.undo.RECONNECT_SECONDS", 0.5)
    node = vm.devices().loc["vda", "node"]
    behind_its_back = (
        '{"execute": "blockdev-snapshot-sync", "arguments": {"node-name": "%s", '
        '"snapshot-node-name": "behind", "snapshot-file": "%s", "mode": "existing"}}'
    )

    def switch_without_libvirt() -> None:
        file = seed.targets["vda"]
        seed.shell(f"qemu-img create -q -f qcow2 -b {seed.raw} -F raw {file}")
        said = seed.daemon.virsh("qemu-monitor-command", seed.name, behind_its_back % (node, file))
        assert "error" not in said
        os.kill(seed.daemon.pid, signal.SIGSTOP)
        os.kill(seed.daemon.pid, signal.SIGKILL)
        seed.daemon.restart()

    with pytest.raises(SnapshotError, match=r"w\.snap is in use by the VM, and was left alone"):
        vm.plan(seed.targets).run(at("switch", switch_without_libvirt))
    assert os.path.exists(seed.targets["vda"])
    (row,) = snapkit.recover().to_dict("records")
    assert row["state"] == "unknown"
    assert "QEMU has vda on" in row["found"]
    assert os.path.exists(seed.targets["vda"])


def test_a_plan_of_an_undefined_domain_still_runs_while_it_runs(seed: Seed) -> None:
    seed.daemon.virsh("destroy", seed.name)
    seed.daemon.define(domain_xml(seed.raw, seed.data, name="kept"))
    seed.daemon.virsh("start", "kept", "--paused")
    with snapkit.connect(seed.uri, "kept") as vm:
        plan = vm.plan(seed.targets)
        seed.daemon.virsh("undefine", "kept")
        assert plan.run().ok
    listed = seed.daemon.virsh("domblklist", "kept").split()
    assert set(seed.targets.values()) <= set(listed)


def test_events_of_an_end_are_heard_of(seed: Seed, vm: snapkit.VirtualMachine) -> None:
    end(seed.pid())
    wait_until(lambda: not vm.connected, "the end is heard of")
    with pytest.raises((ConnectError, PlanError), match="has ended"):
        vm.plan(seed.targets)
