"""Cells of the matrix, with what each of them needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from snapkit.lab.keeping import KeptProgram
from tests.conftest import StartQemu
from tests.faults.causes import Fault
from tests.faults.cell import Cell, Client, Subprocess, scsi_disks
from tests.faults.domain import Domain, DomainCell, RoomyProgram
from tests.faults.forks import Forked, Forks
from tests.faults.room import Room
from tests.libvirtd import private_libvirt

StartCell = Callable[[Fault], Cell]
StartDomainCell = Callable[[Fault], DomainCell]
NewClient = Callable[[Cell], Client]


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """What makes clients, once for all cells."""
    started = Forks()
    yield started
    started.close()


@pytest.fixture
def new_client(forks: Forks) -> NewClient:
    """A client for a cell: ``new_client(cell)``. Into a namespace it has to be started."""

    def new(cell: Cell) -> Client:
        if cell.room:
            return Subprocess(cell.directory, cell.room.prefix)
        return Forked(forks, cell.directory)

    return new


@pytest.fixture
def start_cell(directory: Path, start_qemu: StartQemu, journal_path: Path) -> Iterator[StartCell]:
    """A cell that the fault can strike: ``start_cell(fault)``."""
    cells: list[Cell] = []

    def start(fault: Fault) -> Cell:
        store = directory / "store"
        store.mkdir()
        room = Room(store) if fault.small else None
        words = fault.prefix()
        disks = scsi_disks(directory)
        if words:
            _open_to_all(directory)
        prefix = [*(room.prefix if room else ()), *words]
        qemu = start_qemu(*disks, prefix=prefix)
        cells.append(Cell(directory, qemu, journal_path, room=room))
        return cells[-1]

    yield start
    for cell in cells:
        cell.close()


@pytest.fixture
def start_domain_cell(journal_path: Path) -> Iterator[StartDomainCell]:
    """A cell with a libvirtd of its own: ``start_domain_cell(fault)``."""
    with ExitStack() as stack:

        def start(fault: Fault) -> DomainCell:
            kind = RoomyProgram if fault.small else KeptProgram
            daemon = stack.enter_context(private_libvirt(kind))
            directory = daemon.directory / "cell"
            store = directory / "store"
            store.mkdir(parents=True, exist_ok=True)
            domain = Domain(daemon, directory)
            stack.callback(domain.close)
            room = daemon.kept.room if isinstance(daemon.kept, RoomyProgram) else None
            cell = DomainCell(directory, domain, journal_path, room=room)
            stack.callback(cell.close)
            return cell

        yield start


def _open_to_all(directory: Path) -> None:
    """For a QEMU that is another user."""
    for path in (directory, *directory.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
