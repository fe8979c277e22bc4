"""No backend is left out of the suite, and what the suite says of a machine is so."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import snapkit
from snapkit import backends
from snapkit.backends import abilities
from tests.conformance.conftest import KINDS
from tests.conformance.domains import Domain
from tests.conformance.machines import Machine
from tests.conformance.monitors import Monitored


def found() -> dict[str, type]:
    """Every class of the package that can be opened as a backend, by its module's name."""
    modules = [
        importlib.import_module(f"{backends.__name__}.{module.name}")
        for module in pkgutil.iter_modules(backends.__path__)
    ]
    return {
        module.__name__.rpartition(".")[2]: each
        for module in modules
        for _, each in inspect.getmembers(module, inspect.isclass)
        if each.__module__ == module.__name__ and hasattr(each, "open") and hasattr(each, "forms")
    }


def test_every_backend_has_a_machine_in_the_suite() -> None:
    assert found().keys() == {kind.backend for kind in KINDS}
    assert found().keys() == {name for x in abilities.ABILITIES for name in x.backends}
    assert len({kind.kind for kind in KINDS}) == len(KINDS)


def test_a_machine_is_reached_over_the_backend_that_the_suite_says(
    machine: Machine, vm: snapkit.VirtualMachine
) -> None:
    assert type(vm._backend) is found()[machine.backend]
    assert vm._backend.abilities == abilities.of(machine.backend)
    assert vm.plan(machine.names).forms == (*vm._backend.forms, "python")


def test_virsh_and_qemu_agree_with_what_the_suite_sees(machine: Machine) -> None:
    machine.take(machine.names[1], machine.file("theirs.snap"))
    rows = machine.ask("query-named-block-nodes", flat=True)
    files = {row["file"] for row in rows}
    assert {file for chain in machine.chains().values() for file in chain} <= files
    if isinstance(machine, Domain):
        listed = machine.daemon.virsh("domblklist", machine.domain).splitlines()
        assert dict(line.split() for line in listed if line.strip()) == machine.active()
    else:
        assert isinstance(machine, Monitored)
        assert machine.active()[machine.names[1]] == machine.file("theirs.snap")
