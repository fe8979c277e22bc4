"""What was interrupted is finished: told as it is, what is left removed, and nothing else."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import snapkit
from snapkit.backends import processes
from snapkit.backends.base import MadeFile, Receipt
from snapkit.backends.qmp import QmpBackend
from snapkit.entries import Start
from snapkit.journaling import Journal, JournalError, Record
from snapkit.script import Overlay
from tests.conftest import (
    MIB,
    Process,
    Qmp,
    StartQemu,
    chain_of,
    contents,
    create_image,
    digest,
    wait_until,
)
from tests.journals import answer, python, rows, snapshot_that_dies
from tests.outside import drives, graph, overlays, state

engines = pytest.mark.parametrize("engine", ["prepared", "classic"])
BEFORE = "the disks are as they were before the run"


@pytest.fixture
def qemu(directory: Path, start_qemu: StartQemu) -> Process:
    return start_qemu(*drives(directory, 2))


@pytest.fixture
def targets(directory: Path) -> dict[str, str]:
    return overlays(directory, 2)


def recovered(**options: Any) -> dict[str, Any]:
    """The one row that recover has, which says what the journal then says too."""
    (row,) = rows(snapkit.recover(**options))
    (entry,) = rows(snapkit.journal())
    if not options.get("dry_run") and row["state"] in {"switched", "not switched"}:
        assert entry["state"] == row["state"]
        assert row["found"] in entry["message"]
        assert snapkit.recover().empty
    return row


def kept(journal_path: Path) -> list[str]:
    """All that the journal holds."""
    connection = sqlite3.connect(journal_path)
    try:
        return list(connection.iterdump())
    finally:
        connection.close()


def files(qemu: Process) -> list[str]:
    return [file for file, _ in graph(qemu)["devices"].values()]


def replace_at(qemu: Process, start_qemu: StartQemu, count: int = 2) -> Process:
    """Another VM at the same address."""
    for socket in qemu.directory.glob("*.sock"):
        socket.unlink()
    return start_qemu(*drives(qemu.directory / "second", count))


def test_where_nothing_was_started_there_is_nothing_to_do(journal_path: Path) -> None:
    table = snapkit.recover()
    assert table.empty
    assert table.index.name == "number"
    assert list(table.columns) == "uri domain vm state found done".split()
    assert not journal_path.exists()


@pytest.mark.parametrize("timeout", [0, -1, "x", float("nan"), float("inf")])
def test_a_time_limit_has_to_be_one(timeout: float) -> None:
    with pytest.raises(snapkit.SnapkitError, match="timeout"):
        snapkit.recover(timeout=timeout)


@pytest.mark.parametrize(
    ("engine", "end"),
    [
        ("prepared", {"before": "blockdev-create"}),
        ("prepared", {"before": "job-dismiss"}),
        ("prepared", {"before": "blockdev-add"}),
        ("prepared", {"phase": "flush"}),
        ("prepared", {"before": "transaction"}),
        ("classic", {"before": "transaction"}),
    ],
)
def test_before_the_switch_all_of_it_is_removed(
    qemu: Process, targets: dict[str, str], journal_path: Path, engine: str, end: dict[str, Any]
) -> None:
    before = state(qemu)
    snapshot_that_dies(qemu.uri, targets, **end, engine=engine)
    left, journal = state(qemu), kept(journal_path)
    would = recovered(dry_run=True)
    assert (state(qemu), kept(journal_path)) == (left, journal)
    row = recovered()
    assert (row["state"], row["found"], would["found"]) == ("not switched", BEFORE, BEFORE)
    assert would["done"].replace("would remove", "removed") == row["done"]
    assert ("removed" in row["done"]) == (left != before)
    assert state(qemu) == before
    with snapkit.connect(qemu.uri) as vm:
        assert vm.snapshot(targets, engine=engine).ok


@pytest.mark.parametrize("phase", ["observe", "check", "prepare"])
def test_before_anything_was_sent_nobody_has_to_look(
    qemu: Process, targets: dict[str, str], phase: str
) -> None:
    snapshot_that_dies(qemu.uri, targets, phase)
    qemu.stop()
    row = recovered()
    assert (row["state"], row["done"]) == ("not switched", "nothing")
    assert row["found"] == "it ended before anything was sent"


@engines
@pytest.mark.parametrize("end", [{"after": "transaction"}, {"phase": "verify"}])
def test_after_the_switch_nothing_is_touched(
    qemu: Process,
    targets: dict[str, str],
    journal_path: Path,
    end: dict[str, Any],
    engine: str,
) -> None:
    snapshot_that_dies(qemu.uri, targets, **end, engine=engine)
    after, journal = state(qemu), kept(journal_path)
    assert recovered(dry_run=True)["state"] == "switched"
    assert (state(qemu), kept(journal_path)) == (after, journal)
    row = recovered()
    assert (row["state"], row["done"]) == ("switched", "nothing")
    assert row["found"] == "the VM has the overlays in its chains (drive0, drive1)"
    assert state(qemu) == after
    assert files(qemu) == list(targets.values())


def commit(qemu: Process, device: str) -> None:
    """Merge the active overlay of a device into the image below."""
    with qemu.qmp() as qmp:
        qmp.execute("block-commit", device=device, job_id="theirs")
        wait_until(lambda: qmp.execute("query-block-jobs")[0]["ready"], "it is ready")
        qmp.execute("job-complete", id="theirs")
        wait_until(lambda: not qmp.execute("query-block-jobs"), "it is merged")


@pytest.mark.parametrize("count", [1, 2])
def test_a_switched_run_whose_overlays_were_merged_since_is_still_switched(
    qemu: Process, targets: dict[str, str], count: int
) -> None:
    snapshot_that_dies(qemu.uri, targets, "verify")
    for number in range(count):
        commit(qemu, f"drive{number}")
    before = state(qemu)
    row = recovered()
    assert row["state"] == "switched"
    found = {
        1: "the VM has the overlays in its chains (drive1, 1 of the set no more)",
        2: "it was switched, and the VM has none of the overlays in its chains any more",
    }
    assert row["found"] == found[count]
    assert state(qemu) == before


@engines
def test_the_connection_that_this_process_has_is_used(
    qemu: Process, targets: dict[str, str], engine: str
) -> None:
    before = state(qemu)
    snapshot_that_dies(qemu.uri, targets, before="transaction", engine=engine)
    with snapkit.connect(qemu.uri) as vm:
        row = recovered(timeout=0.1)
        assert row["state"] == "not switched"
        assert vm.connected
        assert state(qemu) == before


def test_a_vm_that_somebody_else_talks_to_is_looked_at_later(
    qemu: Process, targets: dict[str, str], journal_path: Path
) -> None:
    before = state(qemu)
    snapshot_that_dies(qemu.uri, targets, "flush")
    left, journal = state(qemu), kept(journal_path)
    with Qmp(qemu.uri.removeprefix("unix:")):
        row = recovered(timeout=0.2)
        assert row["state"] == "unknown"
        assert "cannot be looked at" in row["found"]
        assert (state(qemu), kept(journal_path)) == (left, journal)
        assert rows(snapkit.journal())[0]["state"] == "interrupted"
    assert recovered()["state"] == "not switched"
    assert state(qemu) == before


@pytest.mark.parametrize(
    ("engine", "phase"),
    [("prepared", "flush"), ("prepared", "switch"), ("classic", "switch")],
)
def test_where_the_vm_has_ended_unused_overlays_are_removed(
    qemu: Process, targets: dict[str, str], phase: str, engine: str
) -> None:
    before = contents(qemu.directory)
    snapshot_that_dies(qemu.uri, targets, phase, engine=engine)
    qemu.stop()
    left = contents(qemu.directory)
    assert "would remove" in recovered(dry_run=True)["done"] or left == before
    assert contents(qemu.directory) == left
    row = recovered()
    assert row["state"] == "not switched"
    assert row["found"] == "the VM has ended; nothing was written to its overlays"
    assert contents(qemu.directory) == before


def write(file: str) -> None:
    """What a guest writes to its disk."""
    subprocess.run(["qemu-io", "-c", "write 0 64k", file], check=True, capture_output=True)


@engines
@pytest.mark.parametrize("end", [{"after": "transaction"}, {"phase": "verify"}])
def test_where_the_vm_has_ended_the_disks_that_its_guest_wrote_to_are_kept(
    qemu: Process, targets: dict[str, str], end: dict[str, Any], engine: str
) -> None:
    snapshot_that_dies(qemu.uri, targets, **end, engine=engine)
    qemu.stop()
    write(targets["drive1"])
    before = contents(qemu.directory)
    row = recovered()
    assert (row["state"], row["done"]) == ("switched", "nothing")
    assert row["found"].startswith("the VM has ended; it was switched, and its disks are ")
    assert contents(qemu.directory) == before
    assert len(chain_of(targets["drive0"])) == 2


def test_where_the_vm_has_ended_and_runs_again_from_its_overlays_they_are_its_disks(
    qemu: Process, targets: dict[str, str], start_qemu: StartQemu
) -> None:
    snapshot_that_dies(qemu.uri, targets, after="transaction")
    qemu.stop()
    for socket in qemu.directory.glob("*.sock"):
        socket.unlink()
    disks = [f"if=virtio,file={file},format=qcow2" for file in targets.values()]
    again = start_qemu(*("-drive", disks[0]), *("-drive", disks[1]))
    again.ask("query-status")
    row = recovered()
    assert row["state"] == "switched"
    assert row["found"].startswith("the VM has ended; its overlays are in use as disks: ")
    assert files(again) == list(targets.values())


@pytest.mark.parametrize("end", [{"phase": "flush"}, {"before": "transaction"}])
def test_another_vm_at_the_address_is_left_alone(
    qemu: Process, targets: dict[str, str], start_qemu: StartQemu, end: dict[str, Any]
) -> None:
    (qemu.directory / "second").mkdir()
    snapshot_that_dies(qemu.uri, targets, **end)
    qemu.stop()
    other = replace_at(qemu, start_qemu)
    before = graph(other)
    row = recovered()
    assert row["state"] == "not switched"
    assert row["found"] == "the VM has ended; nothing was written to its overlays"
    assert graph(other) == before
    assert not list(qemu.directory.glob("*.snap"))


def test_a_vm_that_still_runs_is_not_taken_for_ended_when_another_is_at_its_address(
    qemu: Process, targets: dict[str, str], start_qemu: StartQemu, journal_path: Path
) -> None:
    (qemu.directory / "second").mkdir()
    snapshot_that_dies(qemu.uri, targets, "verify")
    replace_at(qemu, start_qemu)
    journal = kept(journal_path)
    row = recovered()
    assert row["state"] == "unknown"
    assert "it still runs, but there is another at its address" in row["found"]
    assert kept(journal_path) == journal
    assert len(list(qemu.directory.glob("*.snap"))) == 2


def test_a_vm_that_ends_while_it_is_recovered_is_finished_with_the_next_look(
    qemu: Process, targets: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot_that_dies(qemu.uri, targets, "flush")
    discard = QmpBackend.discard

    async def too_late(backend: QmpBackend, receipt: Receipt) -> list[str]:
        qemu.stop()
        return await discard(backend, receipt)

    monkeypatch.setattr(QmpBackend, "discard", too_late)
    assert recovered()["state"] == "unknown"
    assert recovered()["state"] == "not switched"
    assert not list(qemu.directory.glob("*.snap"))


def test_a_vm_that_stops_answering_stays_open(
    qemu: Process, targets: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state(qemu)
    snapshot_that_dies(qemu.uri, targets, "flush")

    async def refuse(*_: object) -> Receipt:
        raise snapkit.ConnectError("It did not answer.")

    with monkeypatch.context() as patched:
        patched.setattr(QmpBackend, "leftovers", refuse)
        row = recovered()
    assert row["state"] == "unknown"
    assert "It did not answer" in row["found"]
    assert recovered()["state"] == "not switched"
    assert state(qemu) == before


def test_a_journal_that_fails_is_said_and_the_run_stays_open(
    qemu: Process, targets: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state(qemu)
    snapshot_that_dies(qemu.uri, targets, "flush")

    def fail(*_: object, **__: object) -> None:
        raise JournalError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(Record, "end", fail)
        with pytest.raises(JournalError, match="disk full"):
            snapkit.recover()
    assert rows(snapkit.journal())[0]["state"] == "interrupted"
    assert recovered()["state"] == "not switched"
    assert state(qemu) == before


def test_a_file_that_somebody_else_has_put_there_is_left_and_the_rest_removed(
    qemu: Process, targets: dict[str, str]
) -> None:
    before = graph(qemu)
    snapshot_that_dies(qemu.uri, targets, before="blockdev-create")
    theirs = Path(targets["drive1"])
    theirs.rename(qemu.directory / "moved")
    theirs.write_text("precious")
    row = recovered()
    assert row["state"] == "not switched"
    assert f"the file {targets['drive0']}" in row["done"]
    assert str(theirs) not in row["done"]
    assert theirs.read_text() == "precious"
    assert not Path(targets["drive0"]).exists()
    assert graph(qemu) == before


def test_where_the_vm_has_ended_a_file_of_somebody_else_s_is_left_too(
    qemu: Process, targets: dict[str, str]
) -> None:
    snapshot_that_dies(qemu.uri, targets, "flush")
    qemu.stop()
    theirs = Path(targets["drive1"])
    theirs.unlink()
    theirs.write_text("precious")
    row = recovered()
    assert row["done"] == f"removed the file {targets['drive0']}"
    assert theirs.read_text() == "precious"


def test_a_file_that_was_written_to_since_is_left_and_named(
    qemu: Process, targets: dict[str, str]
) -> None:
    before = graph(qemu)
    snapshot_that_dies(qemu.uri, targets, "flush")
    with open(targets["drive1"], "r+b") as file:
        file.seek(MIB)
        file.write(b"precious")
    was = digest(targets["drive1"])
    would, row = recovered(dry_run=True), recovered()
    said = f"{targets['drive1']} has been written to, and was left alone"
    assert said in would["done"]
    assert said in row["done"]
    assert digest(targets["drive1"]) == was
    assert not Path(targets["drive0"]).exists()
    assert graph(qemu) == before


def test_a_node_that_a_second_client_uses_is_left_and_named(
    qemu: Process, targets: dict[str, str]
) -> None:
    snapshot_that_dies(qemu.uri, targets, "flush")
    theirs = create_image(qemu.directory / "theirs", "1M")
    with qemu.qmp() as qmp:
        file = {"driver": "file", "filename": theirs}
        qmp.execute(
            "blockdev-add", driver="qcow2", node_name="theirs", file=file, backing="drive1-snap1"
        )
        row = recovered()
        nodes = {node["node-name"] for node in qmp.execute("query-named-block-nodes", flat=True)}
    assert row["state"] == "not switched"
    removed, _, left = row["done"].partition("; ")
    assert removed.startswith("removed ")
    assert "drive0-snap1" in removed
    assert "drive1-snap1" not in removed
    assert "drive1-snap1" in left
    assert f"{targets['drive1']} is in use by the VM, and was left alone" in left
    assert {"drive1-snap1", "drive1-snap1-file", "theirs"} <= nodes
    assert not {"drive0-snap1", "drive0-snap1-file"} & nodes
    assert Path(targets["drive1"]).exists()
    assert not Path(targets["drive0"]).exists()


def test_a_disk_that_a_second_client_has_put_onto_an_overlay_stays_there(
    qemu: Process, targets: dict[str, str]
) -> None:
    """The run itself has sent no switch: it is not said to have switched."""
    snapshot_that_dies(qemu.uri, targets, "flush")
    node = graph(qemu)["devices"]["drive1"][1]
    qemu.ask("blockdev-snapshot", node=node, overlay="drive1-snap1")
    row = recovered()
    assert row["state"] == "not switched"
    assert targets["drive1"] in row["done"]
    assert files(qemu) == [f"{qemu.directory}/disk0.qcow2", targets["drive1"]]
    assert Path(targets["drive1"]).exists()
    assert not Path(targets["drive0"]).exists()


def existing(directory: Path) -> dict[str, str]:
    """Overlays that were there before."""
    targets = overlays(directory, 2)
    for number, file in enumerate(targets.values()):
        create_image(file, backing=f"{directory}/disk{number}.qcow2", backing_format="qcow2")
    return targets


def test_an_existing_overlay_that_its_guest_wrote_to_tells_that_it_was_switched(
    qemu: Process,
) -> None:
    targets = existing(qemu.directory)
    snapshot_that_dies(qemu.uri, targets, after="transaction", mode="existing")
    qemu.stop()
    write(targets["drive0"])
    assert recovered()["state"] == "switched"


@engines
@pytest.mark.parametrize("phase", ["flush", "switch"])
def test_of_files_out_of_reach_it_is_said_where_they_are(
    qemu: Process, targets: dict[str, str], phase: str, engine: str
) -> None:
    before = graph(qemu)
    snapshot_that_dies(qemu.uri, targets, phase, local=False, engine=engine)
    there = engine == "prepared"
    assert Path(targets["drive0"]).exists() == there
    would, row = recovered(dry_run=True), recovered()
    assert row["state"] == "not switched"
    assert f"{targets['drive0']} may be left" in would["done"]
    assert "would remove the file" not in would["done"]
    assert "removed the file" not in row["done"]
    assert ("remove it where QEMU runs" in row["done"]) == there
    assert graph(qemu) == before
    assert Path(targets["drive0"]).exists() == there


def test_where_the_vm_has_ended_and_its_files_are_elsewhere_it_is_not_known(
    qemu: Process, targets: dict[str, str], journal_path: Path
) -> None:
    snapshot_that_dies(qemu.uri, targets, "switch", local=False)
    qemu.stop()
    row = recovered()
    assert row["state"] == "unknown"
    assert row["done"].startswith("its files are not on this host: look at ")
    # Nobody will ever know more.
    assert snapkit.recover().empty
    assert len(list(qemu.directory.glob("*.snap"))) == 2


@pytest.fixture
def ended() -> str:
    """The instance of a process that has ended."""
    with subprocess.Popen(["sleep", "60"]) as process:
        instance = processes.instance(process.pid)
        process.kill()
    return instance


def written_down(journal_path: Path, instance: str, receipt: Receipt, phase: str) -> None:
    """An entry of a run that nobody is at."""
    overlay = Overlay(
        device="drive0",
        file=receipt.files[0].path,
        format="qcow2",
        create=True,
        virtual_size=MIB,
        base_node="n",
        backing_file="/imgs/a",
        backing_format="qcow2",
    )
    start = Start(
        *("unix:/nowhere/qmp.sock", None, "vm", instance, True, None, "classic", "f"),
        (overlay,),
        (),
    )
    record = Journal(str(journal_path)).begin(start)
    record.keep(receipt)
    record.step(phase)
    record.release()


@pytest.mark.parametrize(("phase", "wanted"), [("switch", "unknown"), ("prepare", "not switched")])
def test_where_nothing_is_known_of_a_file_it_is_left_and_named(
    journal_path: Path, tmp_path: Path, ended: str, phase: str, wanted: str
) -> None:
    """QEMU has made it, as a user whose files are not ours."""
    file = create_image(tmp_path / "x.snap", "1M")
    written_down(journal_path, ended, Receipt(files=[MadeFile(file, None)]), phase)
    row = recovered()
    assert row["state"] == wanted
    assert ("cannot be told" in row["done"]) == (phase == "switch")
    assert Path(file).exists()


def test_a_vm_of_which_nothing_is_known_and_that_is_not_there_is_unknown(
    journal_path: Path,
) -> None:
    written_down(journal_path, "", Receipt(files=[MadeFile("/imgs/x", None)]), "switch")
    row = recovered()
    assert row["state"] == "unknown"
    assert "There is no socket /nowhere/qmp.sock" in row["found"]


def test_an_undo_that_was_not_finished_is_finished(
    qemu: Process, targets: dict[str, str], journal_path: Path
) -> None:
    before, node = state(qemu), "drive1-snap1"
    theirs = create_image(qemu.directory / "theirs", "1M")

    def use(phase: str) -> None:
        if phase == "switch":
            file = {"driver": "file", "filename": theirs}
            qemu.ask("blockdev-add", driver="qcow2", node_name="t", file=file, backing=node)
            qemu.ask("blockdev-del", node_name="drive0-snap1")

    with snapkit.connect(qemu.uri) as vm, pytest.raises(snapkit.SnapshotError) as caught:
        vm.snapshot(targets, progress=use)
    assert "The journal has it as number 1" in str(caught.value)
    (row,) = rows(snapkit.journal())
    assert row["state"] == "not switched"
    qemu.ask("blockdev-del", node_name="t")
    os.unlink(theirs)
    row = recovered()
    assert row["state"] == "not switched"
    assert f"the file {targets['drive1']}" in row["done"]
    assert state(qemu) == before


def test_a_run_of_this_process_is_left_to_it(qemu: Process, targets: dict[str, str]) -> None:
    at_it, go_on = threading.Event(), threading.Event()

    def progress(phase: str) -> None:
        if phase == "flush":
            at_it.set()
            assert go_on.wait(20)

    with snapkit.connect(qemu.uri) as vm:
        # The loop is held up in the meantime, so another process has to look.
        run = vm.plan(targets).start(progress)
        assert at_it.wait(20)
        before = state(qemu)
        said = answer(python(RECOVER))
        assert said == "1 running a process is at it: nothing\n"
        assert state(qemu) == before
        go_on.set()
        assert run.result().ok
    assert snapkit.recover().empty
    assert files(qemu) == list(targets.values())


RECOVER = """
import snapkit
for row in snapkit.recover(timeout=0.5).itertuples():
    print(row.Index, row.state, f"{row.found}: {row.done}")
"""


@pytest.fixture
def second(directory: Path) -> Iterator[Process]:
    """Another VM beside the first."""
    place = directory / "2"
    place.mkdir()
    uri = f"unix:{place}/qmp.sock"
    command = [
        *("qemu-system-x86_64", "-machine", "pc", "-accel", "tcg", "-m", "16", "-S"),
        *("-display", "none", "-nodefaults", "-no-user-config"),
        *("-qmp", f"{uri},server=on,wait=off"),
        *("-qmp", f"unix:{place}/outside.sock,server=on,wait=off"),
        *drives(place, 2),
    ]
    process = Process(command, place, uri)
    yield process
    process.stop()


@pytest.mark.parametrize("same", [True, False], ids=["same VM", "another VM"])
def test_while_a_plan_runs_elsewhere_what_was_interrupted_is_finished(
    qemu: Process, second: Process, targets: dict[str, str], same: bool
) -> None:
    """Over its second monitor, where it is the same VM."""
    other = qemu if same else second
    busy = f"unix:{qemu.outside}" if same else second.uri
    images = [*qemu.directory.glob("disk*.qcow2")]
    was = {image: digest(image) for image in images}
    snapshot_that_dies(qemu.uri, targets, "flush")
    more = {
        name: file.replace("over", "more") for name, file in overlays(other.directory, 2).items()
    }
    at_it, go_on = threading.Event(), threading.Event()

    def progress(phase: str) -> None:
        if phase == "flush":
            at_it.set()
            assert go_on.wait(20)

    with snapkit.connect(busy) as vm:
        run = vm.plan(more).start(progress)
        assert at_it.wait(20)
        said = answer(python(RECOVER)).splitlines()
        go_on.set()
        assert run.result().ok
    assert said[0].startswith(f"1 not switched {BEFORE}: removed ")
    assert said[1:] == ["2 running a process is at it: nothing"]
    assert files(other) == list(more.values())
    assert not [*qemu.directory.glob("over*.snap")]
    assert {image: digest(image) for image in images} == was
    assert not [file for _, file, _ in graph(qemu)["nodes"] if "/over" in file]


def test_two_recoveries_at_once_do_it_once(
    qemu: Process, second: Process, targets: dict[str, str]
) -> None:
    before, there = state(qemu), state(second)
    snapshot_that_dies(qemu.uri, targets, "flush")
    snapshot_that_dies(second.uri, overlays(second.directory, 2), "flush")
    both = [python(RECOVER) for _ in range(2)]
    said = [line for process in both for line in answer(process).splitlines()]
    done = [line for line in said if "not switched" in line]
    assert sorted(line.split()[0] for line in done) == ["1", "2"], said
    assert all(": removed " in line for line in done)
    assert {line.split()[1] for line in said if line not in done} <= {"running", "unknown"}
    assert snapkit.journal()["state"].tolist() == ["not switched"] * 2
    assert (graph(qemu), graph(second)) == (before[0], there[0])
    assert not [*qemu.directory.rglob("*.snap")]


def test_several_runs_are_each_told(
    qemu: Process, second: Process, targets: dict[str, str]
) -> None:
    snapshot_that_dies(qemu.uri, targets, "verify")
    snapshot_that_dies(second.uri, overlays(second.directory, 2), "flush")
    shutil.copy(targets["drive0"], qemu.directory / "copy")
    second.stop()
    found = rows(snapkit.recover())
    assert [(row["number"], row["state"]) for row in found] == [
        (1, "switched"),
        (2, "not switched"),
    ]
    assert [row["uri"] for row in found] == [qemu.uri, second.uri]


def test_a_run_that_another_recovery_has_just_finished_is_not_told_again(
    qemu: Process, targets: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot_that_dies(qemu.uri, targets, "flush")
    resume = Journal.resume

    def late(journal: Journal, number: int) -> Record | None:
        monkeypatch.setattr(Journal, "resume", resume)
        answer(python(RECOVER))
        return resume(journal, number)

    monkeypatch.setattr(Journal, "resume", late)
    assert snapkit.recover().empty
    assert not [*qemu.directory.glob("*.snap")]


@engines
def test_where_the_vm_has_ended_and_its_overlays_were_moved_nothing_is_claimed(
    qemu: Process, targets: dict[str, str], engine: str
) -> None:
    snapshot_that_dies(qemu.uri, targets, after="transaction", engine=engine)
    qemu.stop()
    for file in targets.values():
        Path(file).rename(f"{file}.moved")
    row = recovered()
    assert row["state"] == "unknown"
    assert "whether it was switched cannot be told" in row["done"]
    assert all(Path(f"{file}.moved").exists() for file in targets.values())


def test_an_overlay_on_which_another_image_stands_is_left_and_named(
    qemu: Process, targets: dict[str, str]
) -> None:
    snapshot_that_dies(qemu.uri, targets, after="transaction")
    qemu.stop()
    first, *rest = targets.values()
    top = create_image(f"{first}.top", backing=first, backing_format="qcow2")
    row = recovered()
    assert f"{top} stands on {first}, which was left alone" in row["done"]
    assert Path(first).exists()
    assert not any(Path(file).exists() for file in rest)


def test_existing_overlays_that_held_data_before_prove_no_switch(
    qemu: Process, targets: dict[str, str]
) -> None:
    for number, file in enumerate(targets.values()):
        base = str(qemu.directory / f"disk{number}.qcow2")
        create_image(file, backing=base, backing_format="qcow2")
        # Without its base, which the VM has locked.
        options = f"driver=qcow2,file.filename={file},backing="
        command = ["qemu-io", "-c", "write 0 64k", "--image-opts", options]
        subprocess.run(command, check=True, capture_output=True)
    before = state(qemu)
    snapshot_that_dies(qemu.uri, targets, "switch", engine="classic", mode="existing")
    row = recovered()
    assert (row["state"], row["done"]) == ("not switched", "nothing")
    assert state(qemu) == before


def test_overlays_that_are_gone_do_not_tell_of_a_living_vm_either(
    qemu: Process, targets: dict[str, str]
) -> None:
    snapshot_that_dies(qemu.uri, targets, before="transaction")
    for file in targets.values():
        Path(file).unlink()
    nodes = {node for node, _, _ in graph(qemu)["nodes"]}
    row = recovered()
    assert row["state"] == "not switched"
    assert len(nodes - {node for node, _, _ in graph(qemu)["nodes"]}) == 2 * len(targets)
