"""Cells of the matrix, with what each of them needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import StartQemu
from tests.faults.causes import Fault
from tests.faults.cell import Cell
from tests.faults.room import Room

StartCell = Callable[[Fault], Cell]


@pytest.fixture
def start_cell(directory: Path, start_qemu: StartQemu, journal_path: Path) -> Iterator[StartCell]:
    """A cell that the fault can strike: ``start_cell(fault)``."""
    cells: list[Cell] = []

    def start(fault: Fault) -> Cell:
        store = directory / "store"
        store.mkdir()
        room = Room(store) if fault.small else None
        words = fault.prefix()
        cells.append(Cell(directory, start_qemu, journal_path, room=room, prefix=words))
        return cells[-1]

    yield start
    for cell in cells:
        cell.close()
