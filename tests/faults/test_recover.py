"""Recovering after a client that was killed: what is in use, or holds data, stays."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import snapkit
from tests.conftest import Qmp, StartQemu, blockdev, wait_until
from tests.faults.causes import ClientKilled, ConnectionCut, FileAppears, QemuKilled
from tests.faults.cell import Cell
from tests.faults.conftest import NewClient, StartCell, StartDomainCell
from tests.faults.domain_causes import DaemonRestarted
from tests.faults.view import look, position

StartKilled = Callable[[str], Cell]


@pytest.fixture
def killed_at(start_cell: StartCell, new_client: NewClient) -> StartKilled:
    """A cell whose client was killed at a moment."""
    return lambda moment: killed(start_cell, new_client, moment)


@pytest.fixture(params=["start_cell", "start_domain_cell"])
def any_killed_at(request: pytest.FixtureRequest, new_client: NewClient) -> StartKilled:
    """The same, of a QEMU or of a libvirt domain."""
    return lambda moment: killed(request.getfixturevalue(request.param), new_client, moment)


def killed(start: StartCell, new_client: NewClient, moment: str) -> Cell:
    cell = start(ClientKilled())
    client = new_client(cell)
    cell.run_to(client, moment)
    client.kill()
    cell.settle()
    return cell


def left(cell: Cell) -> list[str]:
    return cell.disks.left(cell.files(), cell.view())


def write_as_a_guest(cell: Cell, device: str) -> None:
    command = f'qemu-io -d {cell.prefix}{device} "write -P 90 0 4k"'
    cell.qemu.ask("human-monitor-command", command_line=command)
    wait_until(lambda: "wrote 4096" in cell.qemu.log.read_text(), "the guest has written")


def kill_qemu(cell: Cell) -> None:
    cell.qemu.stop()
    cell.alive = False


def state() -> str:
    return str(snapkit.journal().loc[1, "state"])


def prepared(cell: Cell, device: str) -> str:
    """The node of an overlay that is not on its disk yet."""
    files = look(cell.qemu).files.items()
    names = [node for node, file in files if file == cell.targets[device]]
    (name,) = (node for node in names if f"{node}-file" in names)
    return name


def test_an_overlay_that_somebody_has_taken_into_use_stays(killed_at: StartKilled) -> None:
    cell = killed_at("before the switch")
    overlay = cell.targets["disk1"]
    cell.qemu.ask("blockdev-snapshot", node="node1", overlay=prepared(cell, "disk1"))
    snapkit.recover()
    view = look(cell.qemu)
    assert view.files[view.devices["disk1"]] == overlay
    assert Path(overlay).exists()
    assert cell.disks.changed(cell.files()) == []
    assert cell.disks.unsound(cell.files(), view, cell.offline) == []


def export(cell: Cell, node: str) -> None:
    """A second client gives a prepared overlay to clients of its own."""
    address = {"type": "unix", "data": {"path": str(cell.directory / "nbd.sock")}}
    cell.qemu.ask("nbd-server-start", addr=address)
    cell.qemu.ask("block-export-add", type="nbd", id="e", node_name=node, writable=True)


def test_an_overlay_that_somebody_exports_stays(killed_at: StartKilled) -> None:
    cell = killed_at("before the switch")
    node, overlay = prepared(cell, "disk1"), cell.targets["disk1"]
    export(cell, node)
    snapkit.recover()
    assert look(cell.qemu).files[node] == overlay
    assert Path(overlay).exists()


def test_an_overlay_that_somebody_exports_meanwhile_stays_and_is_named(
    start_cell: StartCell, new_client: NewClient
) -> None:
    cell = start_cell(ConnectionCut())
    client = new_client(cell)
    cell.run_to(client, "before the switch")
    node, overlay = prepared(cell, "disk1"), cell.targets["disk1"]
    export(cell, node)
    cell.say("go")
    report = cell.hear()
    client.wait()
    assert report["end"] == "SnapshotError"
    assert f"{overlay} is in use" in report["message"]
    assert [path for path in cell.targets.values() if Path(path).exists()] == [overlay]
    assert look(cell.qemu).files[node] == overlay
    assert position(look(cell.qemu), cell.targets) == "old"


def test_an_overlay_that_another_process_has_open_stays(
    killed_at: StartKilled, start_daemon: StartQemu
) -> None:
    cell = killed_at("before the switch")
    kill_qemu(cell)
    overlay = cell.targets["disk1"]
    options = ["--export", "type=nbd,id=e,node-name=n,writable=on"]
    start_daemon(*blockdev("n", overlay, backing=""), *options)
    snapkit.recover()
    assert Path(overlay).exists()


def test_a_file_in_the_place_of_an_overlay_stays_and_the_nodes_go(
    any_killed_at: StartKilled, new_client: NewClient
) -> None:
    cell = any_killed_at("before the switch")
    FileAppears().strike(cell, new_client(cell))
    snapkit.recover()
    assert cell.disks.changed(cell.files()) == []
    assert left(cell) == []


def test_what_a_dry_run_would_do_is_not_done(any_killed_at: StartKilled) -> None:
    cell = any_killed_at("before the switch")
    before = cell.files(), look(cell.qemu), state()
    (row,) = snapkit.recover(dry_run=True).itertuples()
    assert row.state == "not switched"
    assert all(file in str(row.done) for file in cell.targets.values())
    assert (cell.files(), look(cell.qemu), state()) == before
    assert "interrupted" in before
    (again,) = snapkit.recover().itertuples()
    assert again.state == "not switched"
    assert left(cell) == []


def test_while_somebody_else_has_the_monitor_the_run_stays_open(killed_at: StartKilled) -> None:
    cell = killed_at("before the switch")
    before = cell.files(), look(cell.qemu)
    with Qmp(cell.qemu.uri.removeprefix("unix:")):
        (row,) = snapkit.recover(timeout=0.5).itertuples()
    assert row.state == "unknown"
    assert (cell.files(), look(cell.qemu)) == before
    assert state() == "interrupted"
    assert list(snapkit.recover()["state"]) == ["not switched"]
    assert left(cell) == []


def test_two_recoveries_at_once_do_it_once(any_killed_at: StartKilled) -> None:
    cell = any_killed_at("before the switch")
    script = "import snapkit; print(*snapkit.recover()['state'])"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    ends = [process.communicate(timeout=60) for process in both]
    assert [stderr for _, stderr in ends] == ["", ""]
    states = sorted(stdout.strip() for stdout, _ in ends)
    assert states[-1] in {"not switched", "running"}
    assert "not switched" in states
    assert states.count("not switched") == 1
    assert left(cell) == []
    assert state() == "not switched"


@pytest.mark.parametrize("moment", ["switch sent, no reply", "after the switch"])
def test_data_that_a_guest_has_written_is_kept_where_qemu_has_ended(
    any_killed_at: StartKilled, moment: str
) -> None:
    cell = any_killed_at(moment)
    write_as_a_guest(cell, "disk1")
    kill_qemu(cell)
    before = cell.files()
    assert list(snapkit.recover()["state"]) == ["switched"]
    assert cell.files() == before
    assert snapkit.recover().empty


def test_data_is_kept_too_where_the_run_itself_sees_qemu_end(
    start_cell: StartCell, new_client: NewClient
) -> None:
    fault = QemuKilled()
    cell = start_cell(fault)
    client = new_client(cell)
    cell.run_to(client, "switch sent, no reply")
    write_as_a_guest(cell, "disk0")
    before = cell.files()
    fault.strike(cell, client)
    cell.say(fault.word)
    report = cell.hear()
    client.wait()
    assert "The switch was done" in report["message"]
    assert cell.files() == before
    assert state() == "switched"


def test_a_vm_that_was_started_again_from_the_overlays_keeps_them(
    killed_at: StartKilled, start_qemu: StartQemu
) -> None:
    cell = killed_at("switch sent, no reply")
    kill_qemu(cell)
    arguments = ["-device", "virtio-scsi-pci,id=scsi"]
    for device, overlay in cell.targets.items():
        arguments += blockdev(f"again-{device}", overlay)
        arguments += ["-device", f"scsi-hd,id={device},drive=again-{device}"]
    again = start_qemu(*arguments)
    before = cell.files()
    snapkit.recover()
    assert cell.files() == before
    assert position(look(again), cell.targets) == "new"
    assert state() in {"switched", "unknown"}


def test_a_vm_that_was_started_again_without_the_overlays_loses_nothing(
    killed_at: StartKilled, start_qemu: StartQemu
) -> None:
    cell = killed_at("before the switch")
    kill_qemu(cell)
    disk = cell.directory / "disk1.qcow2"
    again = start_qemu(*blockdev("node1", disk))
    view = look(again)
    assert list(snapkit.recover()["state"]) == ["not switched"]
    assert cell.disks.changed(cell.files()) == []
    assert left(cell) == []
    assert look(again) == view


def test_a_run_after_one_that_was_cut_short_is_not_confused_by_it(
    any_killed_at: StartKilled,
) -> None:
    cell = any_killed_at("before the switch")
    targets = {device: f"{file}.second" for device, file in cell.targets.items()}
    with snapkit.connect(**cell.address) as vm:
        assert vm.snapshot({f"{cell.prefix}{disk}": file for disk, file in targets.items()}).ok
        snapkit.recover()
        assert list(snapkit.journal()["state"]) == ["not switched", "switched"]
    view = look(cell.qemu)
    assert position(view, targets) == "new"
    assert [path for path in cell.targets.values() if Path(path).exists()] == []
    assert all(Path(path).exists() for path in targets.values())


def test_what_a_daemon_has_left_open_does_not_stand_in_the_next_one_s_way(
    start_domain_cell: StartDomainCell, new_client: NewClient
) -> None:
    fault = DaemonRestarted()
    cell = start_domain_cell(fault)
    client = new_client(cell)
    cell.run_to(client, "within the switch")
    fault.strike(cell, client)
    cell.say(fault.word)
    assert "Everything was undone" in cell.hear()["message"]
    client.wait()
    with snapkit.connect(**cell.address) as vm:
        assert vm.snapshot({f"{cell.prefix}{disk}": file for disk, file in cell.targets.items()}).ok
    assert cell.domain.images() == cell.targets
    assert left(cell) == []


def test_overlays_that_a_domain_is_to_be_started_from_are_kept(
    start_domain_cell: StartDomainCell, new_client: NewClient
) -> None:
    cell = start_domain_cell(ClientKilled())
    client = new_client(cell)
    cell.run_to(client, "switch sent, no reply")
    client.kill()
    kill_qemu(cell)
    before = cell.files()
    assert list(snapkit.recover()["state"]) == ["switched"]
    assert cell.files() == before
    cell.domain.start()
    assert position(look(cell.qemu), cell.targets) == "new"


def test_of_a_domain_that_has_ended_nothing_is_done_until_libvirt_can_be_asked(
    start_domain_cell: StartDomainCell, new_client: NewClient
) -> None:
    cell = start_domain_cell(ClientKilled())
    client = new_client(cell)
    cell.run_to(client, "switch sent, no reply")
    client.kill()
    kill_qemu(cell)
    before = cell.files()
    cell.domain.kill_daemon()
    assert list(snapkit.recover()["state"]) == ["unknown"]
    assert (cell.files(), state()) == (before, "interrupted")
    cell.domain.daemon.restart()
    assert list(snapkit.recover()["state"]) == ["switched"]


def test_an_answer_that_is_lost_together_with_the_domain_is_found_in_its_definition(
    start_domain_cell: StartDomainCell, new_client: NewClient
) -> None:
    cell = start_domain_cell(QemuKilled())
    client = new_client(cell)
    cell.run_to(client, "switch sent, no reply")
    before = cell.files()
    kill_qemu(cell)
    cell.domain.link.cut()
    report = cell.hear()
    client.wait()
    assert "The switch was done" in report["message"]
    assert (cell.files(), state()) == (before, "switched")
    cell.domain.start()
    assert position(look(cell.qemu), cell.targets) == "new"


def test_a_cut_connection_alone_leaves_nothing_to_recover(
    start_cell: StartCell, new_client: NewClient
) -> None:
    fault = ConnectionCut()
    cell = start_cell(fault)
    client = new_client(cell)
    cell.run_to(client, "before the switch")
    cell.say(fault.word)
    assert cell.hear()["end"] == "SnapshotError"
    client.wait()
    assert left(cell) == []
    assert snapkit.recover().empty
