"""The journal: durable before anything is sent, for many processes at once, for its owner only."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import snapkit
from snapkit.backends.base import MadeFile, Receipt
from snapkit.entries import Start
from snapkit.journaling import Journal, JournalError, Record
from tests.conftest import Process, StartQemu, wait_until
from tests.journals import OVERLAY, START, answer, python, rows, snapshot_that_dies
from tests.ordinary import as_ordinary_user
from tests.outside import drives, overlays, state


@pytest.fixture
def journal(journal_path: Path) -> Journal:
    return Journal(str(journal_path))


@pytest.fixture
def qemu(directory: Path, start_qemu: StartQemu) -> Process:
    return start_qemu(*drives(directory, 2))


def seen(path: Path, query: str = "SELECT number, phase, state FROM runs") -> list[tuple[Any, ...]]:
    """What another program reads in the journal."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_without_a_journal_the_table_is_empty_and_nothing_is_made(journal_path: Path) -> None:
    table = snapkit.journal()
    assert table.empty
    assert table.index.name == "number"
    assert list(table.columns) == (
        "started ended uri domain vm devices engine state files message".split()
    )
    assert not journal_path.parent.exists()


def test_the_journal_is_its_owner_s_only(journal: Journal, journal_path: Path) -> None:
    old = os.umask(0)
    try:
        record = journal.begin(START)
    finally:
        os.umask(old)
    assert mode(journal_path.parent) == 0o700
    files = list(journal_path.parent.iterdir())
    assert len(files) == 4
    assert {mode(path) for path in files} == {0o600}
    record.release()


def test_a_journal_that_was_open_to_others_is_taken_away_from_them(
    journal: Journal, journal_path: Path
) -> None:
    journal.begin(START).release()
    for path in journal_path.parent.iterdir():
        path.chmod(0o666)
    journal.begin(START).release()
    assert {mode(path) for path in journal_path.parent.iterdir()} == {0o600}


@pytest.mark.parametrize(
    ("end", "written"),
    [
        ({"phase": "check"}, "journal"),
        ({"before": "blockdev-create"}, "prepare"),
        ({"phase": "flush"}, "prepare"),
        ({"phase": "switch"}, "switch"),
        ({"before": "transaction"}, "switch"),
        ({"phase": "verify"}, "verify"),
    ],
)
def test_a_phase_is_on_the_disk_before_anything_is_sent_in_it(
    qemu: Process, journal_path: Path, end: dict[str, Any], written: str
) -> None:
    targets = overlays(qemu.directory, 2)
    snapshot_that_dies(qemu.uri, targets, **end)
    assert seen(journal_path) == [(1, written, "")]
    (start,) = seen(journal_path, "SELECT start FROM runs")
    kept = json.loads(start[0])
    assert [overlay["file"] for overlay in kept["overlays"]] == list(targets.values())
    assert kept["uri"] == qemu.uri
    assert '"transaction"' in kept["commands"][-1]
    (row,) = rows(snapkit.journal())
    assert (row["state"], row["devices"]) == ("interrupted", "drive0, drive1")


def test_what_was_made_is_on_the_disk_before_it_has_its_name(
    qemu: Process, journal_path: Path
) -> None:
    targets = overlays(qemu.directory, 2)
    snapshot_that_dies(qemu.uri, targets, before="blockdev-create")
    (made,) = seen(journal_path, "SELECT made FROM runs")
    files = json.loads(made[0])["files"]
    found = [Path(file).stat() for file in targets.values()]
    assert [tuple(file["identity"]) for file in files] == [(f.st_dev, f.st_ino) for f in found]


MANY = """
import json, sys
from dataclasses import replace
from snapkit.entries import Start
from snapkit.journaling import Journal
sys.stdin.readline()
start = Start("unix:/x", None, sys.argv[1], "", True, None, "prepared", "f", (), ())
for number in range(25):
    record = Journal(sys.argv[2]).begin(start)
    record.step("prepare")
    record.end("switched", str(number), closed=True)
    record.release()
"""


def test_of_several_processes_at_once_no_entry_is_lost(journal_path: Path) -> None:
    processes = [python(MANY, f"vm{number}", str(journal_path)) for number in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        answer(process)
    table = snapkit.journal()
    assert list(table.index) == list(range(1, 101))
    assert table["state"].unique().tolist() == ["switched"]
    for vm, found in table.groupby("vm"):
        assert found["message"].tolist() == [str(number) for number in range(25)], vm
    assert len(seen(journal_path, "SELECT * FROM steps")) == 200


def test_a_second_run_of_a_process_takes_nothing_from_the_first(
    journal: Journal, journal_path: Path
) -> None:
    """Another program's last look must not throw away what SQLite has not yet merged."""
    first = journal.begin(START)
    second = Journal(str(journal_path)).begin(START)
    for number, phase in enumerate(("observe", "prepare", "switch"), 2):
        first.step(phase)
        second.step(phase)
        assert answer(python(LOOK, str(journal_path))) == f"{[(1, phase), (2, phase)]}\n"
        assert len(seen(journal_path, "SELECT * FROM steps")) == 2 * number
    for record in (first, second):
        record.release()


LOOK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
print(connection.execute("SELECT number, phase FROM runs").fetchall())
connection.close()
"""

STATES = "import snapkit; print(*snapkit.journal()['state'])"


def test_a_run_of_this_process_is_running_in_another_s_table(journal: Journal) -> None:
    record = journal.begin(START)
    assert answer(python(STATES)) == "running\n"
    assert snapkit.journal()["state"].tolist() == ["running"]
    record.release()
    assert answer(python(STATES)) == "interrupted\n"
    assert snapkit.journal()["state"].tolist() == ["interrupted"]


HOLD = """
import sys
from snapkit.journaling import Journal
from tests.journals import START
record = Journal(sys.argv[1]).begin(START)
print("held", flush=True)
sys.stdin.readline()
"""


def test_a_run_whose_process_was_killed_is_interrupted(
    journal: Journal, journal_path: Path
) -> None:
    process = python(HOLD, str(journal_path))
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    assert [entry.state for entry in journal.entries()] == ["running"]
    assert journal.resume(1) is None
    process.kill()
    process.communicate()
    assert [entry.state for entry in journal.entries()] == ["interrupted"]
    record = journal.resume(1)
    assert record is not None
    assert journal.resume(1) is None
    record.release()


def in_a_fork(work: Callable[[], object]) -> int:
    """The exit status of a forked child that does this; 99 if it raises."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_writes_entries_of_its_own_and_holds_none_of_its_parent_s(
    journal: Journal, journal_path: Path
) -> None:
    record = journal.begin(START)

    def work() -> None:
        assert [entry.state for entry in journal.entries()] == ["running"]
        assert journal.resume(1) is None
        journal.begin(START).step("prepare")

    assert in_a_fork(work) == 0
    record.step("flush")
    assert seen(journal_path) == [(1, "flush", ""), (2, "prepare", "")]
    # The child's went with it; the parent's stays.
    assert [entry.state for entry in journal.entries()] == ["running", "interrupted"]
    record.release()


def test_the_journal_may_be_removed_between_runs(journal: Journal, journal_path: Path) -> None:
    for _ in range(2):
        record = journal.begin(START)
        record.end("switched", "", closed=True)
        record.release()
        assert snapkit.journal().index.tolist() == [1]
        assert seen(journal_path) == [(1, "journal", "switched")]
        shutil.rmtree(journal_path.parent)
    assert snapkit.journal().empty


def test_a_number_that_could_not_be_written_down_is_not_held(
    journal: Journal, journal_path: Path
) -> None:
    journal.begin(START).release()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    was = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, limit[1]))
        with pytest.raises(JournalError, match="cannot be used"):
            journal.begin(START)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, was)
    journal.begin(START).release()
    assert [number for number, _, _ in seen(journal_path)] == [1, 2]


def not_a_database(path: Path) -> str:
    path.write_text("precious " * 100)
    path.chmod(0o644)
    return "file is not a database"


def newer(path: Path) -> str:
    Journal(str(path)).begin(START).release()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    return "is of a newer snapkit"


def somebody_else_s(path: Path) -> str:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE precious (x)")
    connection.commit()
    connection.close()
    return "is a database of something else"


def a_directory(path: Path) -> str:
    path.mkdir()
    return "it is no regular file"


def a_device(path: Path) -> str:
    path.symlink_to("/dev/null")
    return "it is no regular file"


def below_a_file(path: Path) -> str:
    path.parent.rmdir()
    path.parent.write_text("precious")
    return "Not a directory|File exists"


def a_loop(path: Path) -> str:
    path.symlink_to(path.name)
    return "Too many levels of symbolic links"


UNUSABLE = [not_a_database, newer, somebody_else_s, a_directory, a_device, below_a_file, a_loop]


@pytest.mark.parametrize("kind", UNUSABLE, ids=lambda kind: kind.__name__)
def test_without_a_journal_nothing_is_sent(
    qemu: Process, journal_path: Path, kind: Callable[[Path], str]
) -> None:
    journal_path.parent.mkdir()
    words = kind(journal_path)
    modes = mode(Path("/dev/null")), journal_path.parent.exists() and mode(journal_path.parent)
    before = state(qemu)
    with snapkit.connect(qemu.uri) as vm:
        plan = vm.plan(overlays(qemu.directory, 2))
        with pytest.raises(snapkit.PlanError, match=words) as caught:
            plan.run()
    assert "nothing was sent" in str(caught.value)
    assert os.path.realpath(journal_path) in str(caught.value)
    assert ".." not in str(caught.value)
    with pytest.raises(snapkit.SnapkitError, match=words):
        snapkit.journal()
    with pytest.raises(snapkit.SnapkitError, match=words):
        snapkit.recover()
    assert state(qemu) == before
    now = mode(Path("/dev/null")), journal_path.parent.exists() and mode(journal_path.parent)
    assert now == modes
    if kind is not_a_database:
        assert journal_path.read_text().startswith("precious")
        assert mode(journal_path) == 0o644


UNWRITABLE = """
from snapkit.journaling import Journal, JournalError, Start
start = Start("unix:/x", None, "", "", True, None, "prepared", "f", (), ())
journal = Journal(sys.argv[1])
for work in (lambda: journal.begin(start), journal.check):
    try:
        work()
    except JournalError as err:
        print(err)
"""


@pytest.mark.parametrize("kind", ["no place for it", "read-only", "hidden"])
def test_where_nothing_may_be_written_that_is_said(
    directory: Path, journal_path: Path, kind: str
) -> None:
    path = directory / "state" / "journal.sqlite"
    if kind == "no place for it":
        path.parent.mkdir()
    else:
        Journal(str(path)).begin(START).release()
        # With its next journal, this process lets go of that one.
        Journal(str(journal_path)).begin(START).release()
        path.chmod(0o444)
    directory.chmod(0o755)
    path.parent.chmod(0 if kind == "hidden" else 0o555)
    done = as_ordinary_user(UNWRITABLE, str(path))
    path.parent.chmod(0o755)
    assert (done.returncode, done.stderr) == (0, "")
    said = done.stdout.splitlines()
    assert len(said) == 2
    for line in said:
        assert line.startswith(f"The journal {path} cannot be used: ")
        assert "Set SNAPKIT_JOURNAL" in line


FULL = """
import resource, signal, sys
import snapkit
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with snapkit.connect(sys.argv[1]) as vm:
    plan = vm.plan({"drive0": sys.argv[2]})
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    try:
        plan.run()
    except snapkit.PlanError as err:
        print(err)
"""


def test_on_a_full_disk_nothing_is_sent(qemu: Process, journal_path: Path) -> None:
    before = state(qemu)
    said = answer(python(FULL, qemu.uri, str(qemu.directory / "x.snap")))
    assert "The plan is refused; nothing was sent." in said
    assert str(journal_path) in said
    assert state(qemu) == before


def fail_at(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    """The journal can no longer be written to from a phase on."""
    note = Record.note

    def fail(*_: object, **__: object) -> None:
        raise JournalError("The journal cannot be used: disk full")

    def failing(record: Record, phase: str) -> None:
        if phase == wanted:
            monkeypatch.setattr(Record, "_writing", fail)
        note(record, phase)

    monkeypatch.setattr(Record, "note", failing)


@pytest.mark.parametrize("engine", ["prepared", "classic"])
@pytest.mark.parametrize("phase", ["observe", "prepare", "flush", "switch"])
def test_a_journal_that_fails_before_the_switch_undoes_the_run(
    qemu: Process, monkeypatch: pytest.MonkeyPatch, phase: str, engine: str
) -> None:
    before = state(qemu)
    fail_at(monkeypatch, phase)
    with snapkit.connect(qemu.uri) as vm, pytest.raises(snapkit.SnapshotError) as caught:
        vm.snapshot(overlays(qemu.directory, 2), engine=engine)
    assert "disk full" in str(caught.value)
    assert "Everything was undone" in str(caught.value)
    assert state(qemu) == before


def test_a_journal_that_fails_after_the_switch_undoes_nothing(
    qemu: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = overlays(qemu.directory, 2)
    fail_at(monkeypatch, "verify")
    with snapkit.connect(qemu.uri) as vm:
        outcome = vm.snapshot(targets)
    assert outcome.switched
    assert any("disk full" in finding for finding in outcome.findings)
    assert [file for file, _ in state(qemu)[0]["devices"].values()] == list(targets.values())


SECRET = "hunter2"  # noqa: S105  it has to be found again
BACKING = f'json:{{"driver": "https", "password": "{SECRET}"}}'
COMMAND = {"execute": "blockdev-add", "arguments": {"password": f'a"{SECRET}', "driver": "https"}}


def test_no_secret_gets_into_the_journal(journal: Journal, journal_path: Path) -> None:
    start = Start(
        uri=f"qemu+ssh://root:{SECRET}@host/system",
        domain="vm",
        vm="win2003",
        instance="",
        local=True,
        told=None,
        engine="prepared",
        fingerprint="f",
        overlays=(replace(OVERLAY, backing_file=BACKING),),
        commands=(json.dumps(COMMAND),),
    )
    record = journal.begin(start)
    record.end("not switched", f"nbd://u:{SECRET}@host: refused", closed=True)
    record.release()
    for path in journal_path.parent.iterdir():
        assert SECRET.encode() not in path.read_bytes(), path
    assert SECRET not in snapkit.journal().to_csv()
    entry = journal.entry(1)
    assert entry.start.overlays[0].file == OVERLAY.file
    assert entry.start.uri == "qemu+ssh://root:***@host/system"
    assert entry.message == "nbd://u:***@host: refused"


def test_what_was_made_is_read_as_it_was_written(journal: Journal) -> None:
    receipt = Receipt(
        files=[MadeFile("/a", (1, 2), born=3, size=4, modified=5), MadeFile("/b", None)],
        reused=[MadeFile("/c", (6, 7))],
        nodes=["n"],
        jobs=["j"],
        prepared=True,
    )
    record = journal.begin(START)
    record.keep(receipt)
    record.release()
    found = journal.entry(1).receipt
    assert (found.files, found.reused) == (receipt.files, receipt.reused)
    assert (found.nodes, found.jobs, found.prepared) == (["n"], ["j"], True)


def test_a_row_that_cannot_be_read_is_said(journal: Journal, journal_path: Path) -> None:
    journal.begin(START).release()
    connection = sqlite3.connect(journal_path)
    connection.execute("UPDATE runs SET start = '{'")
    connection.commit()
    connection.close()
    with pytest.raises(JournalError, match="cannot be used"):
        snapkit.journal()
    with pytest.raises(JournalError, match="no entry 7"):
        journal.entry(7)


def test_the_journal_is_in_the_user_s_state_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from snapkit import journaling

    monkeypatch.delenv("SNAPKIT_JOURNAL")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert journaling.default_path() == str(tmp_path / "snapkit" / "journal.sqlite")
    monkeypatch.setenv("SNAPKIT_JOURNAL", "relative.sqlite")
    assert journaling.default_path() == os.path.abspath("relative.sqlite")


def test_waiting_for_another_process_s_write_is_no_failure(
    journal: Journal, journal_path: Path
) -> None:
    journal.begin(START).release()
    other = sqlite3.connect(journal_path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    process = python(HOLD, str(journal_path))
    assert process.stdout is not None
    wait_until(lambda: _has_open(process.pid, journal_path), "it has opened the journal")
    other.execute("COMMIT")
    other.close()
    assert process.stdout.readline() == "held\n"
    process.kill()
    process.communicate()
    assert len(seen(journal_path)) == 2


def _has_open(pid: int, path: Path) -> bool:
    handles = Path(f"/proc/{pid}/fd")
    return any(os.path.realpath(handle) == str(path) for handle in handles.iterdir())


def test_a_journal_has_one_file_of_holds_under_whatever_name(
    journal: Journal, journal_path: Path
) -> None:
    record = journal.begin(START)
    link = journal_path.with_name("link")
    link.symlink_to(journal_path)
    assert Journal(str(link)).resume(record.number) is None
    record.release()


def test_a_run_writes_nothing_into_another_run_s_entry(
    journal: Journal, journal_path: Path
) -> None:
    record = journal.begin(START)
    with sqlite3.connect(journal_path) as connection:
        # As in a journal that was begun anew meanwhile, with the same numbers.
        connection.execute("UPDATE runs SET started = '2026-01-01T00:00:00+00:00'")
    connection.close()
    with pytest.raises(JournalError, match="another one now"):
        record.step("switch")
    assert [entry.phase for entry in journal.entries()] == ["journal"]
    record.release()
