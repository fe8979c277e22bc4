"""The machines of the suite: every test runs on each of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import snapkit
from tests.conformance.domains import Domain
from tests.conformance.machines import Machine
from tests.conformance.monitors import Qemu, StorageDaemon
from tests.conftest import MIB
from tests.libvirtd import PrivateLibvirt, private_libvirt

Kind = type[Qemu | StorageDaemon | Domain]
KINDS: tuple[Kind, ...] = (Qemu, StorageDaemon, Domain)
of_guests = pytest.mark.parametrize(
    "blank", [Qemu, Domain], indirect=True, ids=lambda kind: kind.kind
)
"""For what a disk that is exported does not allow: to be given another size."""
_ENGINES = [(kind, engine) for kind in KINDS for engine in kind.engines()]
every_engine = pytest.mark.parametrize(
    ("blank", "engine"),
    _ENGINES,
    indirect=["blank"],
    ids=[f"{kind.kind}-{engine}" for kind, engine in _ENGINES],
)
"""For what each engine does in its own way, where the backend has it."""


@pytest.fixture(scope="session")
def suite_libvirt() -> Iterator[PrivateLibvirt]:
    """A libvirtd for all tests of this process; each has a domain of its own there."""
    with private_libvirt() as daemon:
        yield daemon


@contextmanager
def made(kind: Kind, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine that does not run yet. Nothing of it is left afterwards."""
    if issubclass(kind, Domain):
        machine: Machine = kind(request.getfixturevalue("suite_libvirt"))
    else:
        machine = kind()
    try:
        yield machine
    finally:
        machine.close()


def boot_three(machine: Machine) -> None:
    """Start it with a raw disk, a qcow2 disk, and one that has a backing file."""
    base = machine.image("base", size=2 * MIB)
    machine.boot(
        machine.image("system", "raw", 4 * MIB),
        machine.image("data"),
        machine.image("top", below=base),
    )


@pytest.fixture(params=KINDS, ids=lambda kind: kind.kind)
def blank(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine that does not run yet."""
    with made(request.param, request) as machine:
        yield machine


@pytest.fixture
def machine(blank: Machine) -> Machine:
    """A machine with three small disks."""
    boot_three(blank)
    return blank


@pytest.fixture
def vm(machine: Machine) -> Iterator[snapkit.VirtualMachine]:
    """snapkit, connected to it."""
    with machine.connect() as connected:
        yield connected


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.kind)
def standing(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine for all tests of a module that change nothing."""
    with made(request.param, request) as machine:
        boot_three(machine)
        yield machine
