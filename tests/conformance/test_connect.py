"""Connections: what they say of themselves, their end, and what is said where there is none."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import snapkit
from tests.conformance.conftest import KINDS, Kind
from tests.conformance.machines import ROOT, Machine
from tests.conftest import wait_until

of_every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)


def test_a_connection_says_what_it_is_connected_to(
    machine: Machine, vm: snapkit.VirtualMachine
) -> None:
    told = machine.ask("query-version")["qemu"]
    assert vm.version == f"{told['major']}.{told['minor']}.{told['micro']}"
    assert (vm.uri, vm.domain, vm.name) == (machine.uri, machine.domain, machine.call())
    assert vm.connected
    name = f" {vm.name!r}" if vm.name else ""
    what = f"<VirtualMachine{name} at {machine.uri}; QEMU {vm.version};"
    assert repr(vm) == f"{what} may change>"
    vm.readonly = True
    assert repr(vm) == f"{what} read-only>"
    vm.close()
    assert repr(vm) == f"{what} closed>"


def test_that_the_files_are_this_host_s_is_found_out_or_taken_as_said(machine: Machine) -> None:
    with machine.connect() as vm:
        assert vm.local
        assert re.search(rf"\b{machine.pid}\b", vm.locality)
    for said in (True, False):
        with machine.connect(local=said) as vm:
            assert vm.local is said
            assert "said beforehand" in vm.locality


def test_a_connection_may_be_closed_twice_and_then_does_nothing(machine: Machine) -> None:
    vm = machine.connect()
    plan = vm.plan(machine.names)
    before = machine.state()
    vm.close()
    vm.close()
    assert not vm.connected
    for use in (vm.devices, vm.layers, vm.stats, plan.run, lambda: vm.plan(machine.names)):
        with pytest.raises(snapkit.ConnectError, match="closed"):
            use()
    assert machine.state() == before


def test_a_block_that_fails_closes_its_connection(machine: Machine) -> None:
    with pytest.raises(ZeroDivisionError), machine.connect() as vm:
        raise ZeroDivisionError
    assert not vm.connected


def test_one_connection_comes_after_another(machine: Machine) -> None:
    for number in range(5):
        with machine.connect() as vm:
            assert sorted(vm.devices().index) == machine.names
            assert vm.snapshot({machine.names[0]: machine.file(f"{number}.snap")}).ok
    assert machine.active()[machine.names[0]] == machine.file("4.snap")


def test_a_read_only_connection_refuses_every_change_until_it_is_none(machine: Machine) -> None:
    before, tap = machine.state(), machine.tap()
    with machine.connect(tap, readonly=True) as vm:
        plan = vm.plan(machine.targets())
        assert plan.ok
        with pytest.raises(snapkit.PlanError, match="read-only"):
            plan.run()
        with pytest.raises(snapkit.PlanError, match="read-only"):
            vm.snapshot(machine.names)
        assert machine.sent(tap) == []
        assert machine.state() == before
        assert snapkit.journal().empty
        vm.readonly = False
        assert plan.run().ok


def test_a_connection_that_was_cut_says_so_and_a_new_one_works(machine: Machine) -> None:
    tap = machine.tap()
    vm = machine.connect(tap)
    tap.cut()
    wait_until(lambda: not vm.connected, "the end is noticed")
    with pytest.raises(snapkit.ConnectError):
        vm.devices()
    vm.close()
    with machine.connect(tap) as again:
        assert again.snapshot(machine.targets()).ok


def test_a_machine_that_has_ended_is_no_connection_any_more(
    machine: Machine, vm: snapkit.VirtualMachine
) -> None:
    machine.end()
    wait_until(lambda: not vm.connected, "the end is noticed")
    for use in (vm.devices, lambda: vm.plan(machine.names)):
        with pytest.raises(snapkit.ConnectError):
            use()
    machine.restart()
    with machine.connect() as again:
        assert again.devices()["file"].to_dict() == machine.first()


FORK = """
import gc, os, sys, warnings
import snapkit
warnings.simplefilter("ignore")
vm = snapkit.connect(sys.argv[1], *filter(None, sys.argv[2:]))
child = os.fork()
if child == 0:
    connected = vm.connected
    try:
        vm.devices()
    except snapkit.ConnectError:
        refused = True
    del vm
    gc.collect()
    os._exit(0 if refused and not connected else 1)
print(os.waitpid(child, 0)[1], vm.connected, len(vm.devices()))
"""


def test_a_forked_process_leaves_the_connection_to_its_parent(machine: Machine) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK, machine.uri, machine.domain or ""],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout == "0 True 3\n"


@of_every_kind
def test_where_nothing_listens_that_is_said(directory: Path, kind: Kind) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(f"{directory}/dead.sock")
    for name in ("dead.sock", "none.sock"):
        path = f"{directory}/{name}"
        with pytest.raises(snapkit.ConnectError, match=re.escape(path)):
            snapkit.connect(kind.address(path))


@of_every_kind
def test_who_does_not_answer_is_given_up_in_time(directory: Path, kind: Kind) -> None:
    path = f"{directory}/silent.sock"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(path)
        silent.listen()
        with pytest.raises(snapkit.ConnectError, match=r"within 0\.3 s"):
            snapkit.connect(kind.address(path), timeout=0.3)


def test_a_time_limit_has_to_be_one(standing: Machine) -> None:
    for timeout in (0, -1, "x", float("nan")):
        with pytest.raises(snapkit.SnapkitError, match="timeout"):
            standing.connect(timeout=timeout)
