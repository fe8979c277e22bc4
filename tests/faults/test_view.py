"""What judges the matrix sees it when something is wrong."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.conftest import create_image, qemu_img, wait_until
from tests.faults.causes import ConnectionCut
from tests.faults.cell import Cell
from tests.faults.conftest import StartCell, StartDomainCell
from tests.faults.judge import assert_truth
from tests.faults.machine import World
from tests.faults.matrix import MOMENTS, table
from tests.faults.view import look, position


@pytest.fixture
def cell(start_cell: StartCell) -> Cell:
    return start_cell(ConnectionCut())


def snapshot_by_hand(cell: Cell, number: int) -> None:
    overlay = cell.targets[f"disk{number}"]
    options = {"snapshot_file": overlay, "snapshot_node_name": f"new{number}"}
    cell.qemu.ask("blockdev-snapshot-sync", node_name=f"node{number}", **options)


def test_old_new_and_what_must_never_be(cell: Cell) -> None:
    found = [position(look(cell.qemu), cell.targets)]
    for number in range(3):
        snapshot_by_hand(cell, number)
        found.append(position(look(cell.qemu), cell.targets))
    assert found == ["old", "mixed", "mixed", "new"]
    view = look(cell.qemu)
    assert position(replace(view, devices={"disk1": "node1"}), cell.targets) == "mixed"


def test_a_changed_byte_and_a_missing_file_are_seen(cell: Cell) -> None:
    assert cell.disks.changed(cell.files()) == []
    base = cell.directory / "base0.qcow2"
    with base.open("r+b") as image:
        image.seek(-1, os.SEEK_END)
        image.write(b"X")
    os.unlink(cell.directory / "disk2.img")
    found = {f"{base} has changed", f"{cell.directory / 'disk2.img'} is gone"}
    assert set(cell.disks.changed(cell.files())) == found


def test_files_nodes_and_jobs_that_are_left_are_seen(cell: Cell) -> None:
    def left() -> list[str]:
        return cell.disks.left(cell.files(), look(cell.qemu))

    assert left() == []
    overlay = create_image(cell.targets["disk1"])
    assert left() == [overlay]
    cell.qemu.ask("blockdev-add", driver="file", node_name="x", filename=overlay)
    assert left() == [overlay, "x"]
    options = {"driver": "file", "filename": cell.targets["disk2"], "size": 0}
    cell.qemu.ask("blockdev-create", job_id="j", options=options)
    wait_until(lambda: cell.qemu.ask("query-jobs")[0]["status"] == "concluded", "the job ends")
    assert set(left()) == {overlay, cell.targets["disk2"], "x", "job j"}


def test_an_overlay_in_use_is_not_left(cell: Cell) -> None:
    snapshot_by_hand(cell, 0)
    assert cell.disks.left(cell.files(), look(cell.qemu)) == []
    assert cell.disks.left(cell.files(), None) == [cell.targets["disk0"]]


def test_a_corrupt_image_and_a_wrong_header_are_seen(cell: Cell) -> None:
    snapshot_by_hand(cell, 0)
    view, overlay = look(cell.qemu), cell.targets["disk0"]
    cell.qemu.stop()

    def unsound() -> list[str]:
        return cell.disks.unsound(cell.files(), view, cell.offline)

    assert unsound() == []
    disk = cell.directory / "disk1.qcow2"
    qemu_img("rebase", "-u", "-b", disk, "-F", "qcow2", overlay)
    (wrong,) = unsound()
    assert wrong.startswith(f"disk0 is on ['{overlay}'")
    with disk.open("r+b") as image:
        # Where a new image has its table of reference counts.
        image.seek(65536)
        image.write(bytes(8))
    assert any(text.startswith(f"{disk}: ") for text in unsound())


def test_a_chain_that_is_not_whole_is_seen(cell: Cell) -> None:
    view = look(cell.qemu)
    assert cell.disks.lost(view) == []
    without = replace(view, devices=view.devices | {"disk0": view.chain("disk0")[1]})
    assert [text.partition(":")[0] for text in cell.disks.lost(without)] == ["disk0"]


def test_what_libvirt_does_not_know_is_seen(start_domain_cell: StartDomainCell) -> None:
    cell = start_domain_cell(ConnectionCut())
    assert cell.contradictions("not switched") == []
    overlay = create_image(cell.directory / "theirs.snap", "1M")
    cell.domain.daemon.give(overlay)
    node = look(cell.qemu).devices["disk1"]
    options = {"node_name": node, "snapshot_node_name": "x", "mode": "existing"}
    cell.qemu.ask("blockdev-snapshot-sync", snapshot_file=overlay, **options)
    (wrong,) = cell.contradictions("not switched")
    assert overlay in wrong
    cell.qemu.stop()
    cell.alive = False
    assert cell.contradictions("not switched") == []
    assert cell.contradictions("switched") != []


SAID = {
    "Outcome": ("", True, "new"),
    "SnapshotError": ("The snapshot failed.", False, "old"),
    "OutcomeUnknown": ("The switch was done, but nobody can look. Number 7.", None, "new"),
}


@pytest.mark.parametrize("end", SAID)
def test_what_is_not_true_is_seen(end: str) -> None:
    message, switched, found = SAID[end]
    report = {"end": end, "message": message, "switched": switched, "number": 7}
    assert_truth(report, found)
    assert_truth(report, "gone")
    with pytest.raises(AssertionError):
        assert_truth(report, "old" if found == "new" else "new")
    with pytest.raises(AssertionError):
        assert_truth({**report, "switched": found != "new", "number": 8}, found)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World()
    yield made
    made.close()


def test_what_the_machine_looks_at_can_be_wrong(world: World) -> None:
    assert world.wrong() == []
    theirs = create_image(world.directory / "theirs.snap")
    world.daemon.ask("blockdev-add", driver="file", node_name="x", filename=theirs)
    assert set(world.wrong()) == {f"{theirs} is left", "x is left"}
    world.daemon.ask("blockdev-del", node_name="x")
    os.unlink(theirs)
    disk = world.chains["e1"][0]
    world.chains["e1"] = [theirs]
    assert world.wrong() == [f"e1 is on ['{disk}'], not on ['{theirs}']"]
    world.chains["e1"] = [disk]
    with open(disk, "ab") as image:
        image.write(bytes(512))
    assert world.wrong() == [f"{disk} has changed"]


def test_a_guest_that_reads_something_else_than_it_wrote_is_seen(world: World) -> None:
    world.write("e0", 3, 7)
    assert world.unsound() == []
    world.written["e0"][3] = 8
    with pytest.raises(AssertionError, match="verification failed"):
        world.unsound()


def test_the_table_has_every_cell_in_its_place() -> None:
    cells = {("disk full", MOMENTS[1]): "old: undone", ("QEMU killed", MOMENTS[6]): "FAILED"}
    header, first, second = table(cells)
    assert [name for name in MOMENTS if name in header] == list(MOMENTS)
    assert (first.split()[:2], first.split()[-1]) == (["QEMU", "killed"], "FAILED")
    assert second.index("old: undone") == header.index(MOMENTS[1])
