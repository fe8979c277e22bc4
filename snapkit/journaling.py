"""The journal: a durable record of every plan that was started, and how it ended.

One SQLite file for all processes of a user. A run is written down before its first command
leaves, and after every step. Which runs a process is at is told by locks that the kernel
drops when the process ends, however it ends.

The public function is ``snapkit.journal``; a module of that name would hide it.
"""

from __future__ import annotations

import atexit
import errno
import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from snapkit import mounts
from snapkit.backends.base import Receipt
from snapkit.entries import Entry, Start, read_receipt, read_start, receipt_text, start_text
from snapkit.errors import SnapkitError
from snapkit.holds import Holds
from snapkit.masking import mask

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Entry", "Journal", "JournalError", "Record", "Start", "default_path", "journal"]

_VERSION = 1
_BUSY_SECONDS = 20.0
"""How long one write waits for the writes of other processes."""
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS runs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    started TEXT NOT NULL,
    ended TEXT,
    start TEXT NOT NULL,
    made TEXT NOT NULL,
    phase TEXT NOT NULL,
    state TEXT NOT NULL,
    closed INTEGER NOT NULL,
    message TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS steps (
    run INTEGER NOT NULL REFERENCES runs(number),
    time TEXT NOT NULL,
    step TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS open_runs ON runs(closed) WHERE closed = 0;
PRAGMA user_version = {_VERSION};
COMMIT;
"""


class JournalError(SnapkitError):
    """The journal cannot be read or written; the message says where it is and what to do."""


def default_path() -> str:
    """Where the journal is: ``SNAPKIT_JOURNAL``, or a file in the user's state directory."""
    if given := os.environ.get("SNAPKIT_JOURNAL"):
        return os.path.realpath(given)
    import platformdirs

    return os.path.join(platformdirs.user_state_dir("snapkit"), "journal.sqlite")


def journal() -> DataFrame:
    """A row a plan that was started, oldest first, and how it ended. Times are UTC.

    Raises SnapkitError if the journal cannot be read.
    """
    from snapkit import tables

    return tables.journal(Journal(default_path()).entries())


class Journal:
    """The journal at a path. It is made when something is first written to it."""

    def __init__(self, path: str) -> None:
        # Under two names it would have two files of locks.
        self.path = path = os.path.realpath(path)
        self.holds = Holds(f"{path}.lock")

    def begin(self, start: Start) -> Record:
        """Write down a run before it does anything. Raises JournalError."""
        held: list[int] = []
        try:
            with self.writing(make=True) as connection:
                number, started = _insert(connection, start)
                # From before anybody can see it.
                self._hold(number)
                held.append(number)
        except BaseException:
            for number in held:
                # It was not written down, so the number will be given again.
                self.holds.drop(number)
            raise
        return Record(self, number, started)

    def _hold(self, number: int) -> None:
        if not self.holds.take(number):
            msg = (
                f"A process is still at the run {number} of the journal that was at {self.path} "
                "before. Wait for its end"
            )
            raise JournalError(msg)

    def check(self) -> None:
        """Raises JournalError where a run could not be written down. Makes nothing."""
        with self._told():
            if self._is_there():
                with self.writing():
                    return
            above = os.path.dirname(self.path)
            while not os.path.lexists(above):
                above = os.path.dirname(above)
            if not os.path.isdir(above):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            if not os.access(above, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def resume(self, number: int) -> Record | None:
        """Take over a run that nobody is at; None if somebody is. Raises JournalError."""
        with self._told():
            if not self.holds.take(number):
                return None
            return Record(self, number, self.entry(number).started.isoformat())

    def entries(self, *, closed: bool = True) -> list[Entry]:
        """All runs, oldest first; without ``closed`` those with something left to find out."""
        query = "SELECT * FROM runs WHERE closed <= ? ORDER BY number"
        return self._read(query, int(closed))

    def entry(self, number: int) -> Entry:
        """One run. Raises JournalError."""
        found = self._read("SELECT * FROM runs WHERE number = ?", number)
        if not found:
            msg = f"The journal {self.path} has no entry {number}."
            raise JournalError(msg)
        return found[0]

    def _read(self, query: str, value: int) -> list[Entry]:
        with self._told(), _lock:
            if not self._is_there():
                return []
            connection = self._connection()
            rows = connection.execute(query, (value,)).fetchall()
            return [self._entry(row, _steps(connection, row["number"])) for row in rows]

    def _entry(self, row: sqlite3.Row, steps: tuple[tuple[datetime, str], ...]) -> Entry:
        state = row["state"]
        if not state:
            state = "running" if self.holds.is_taken(row["number"]) else "interrupted"
        return Entry(
            number=row["number"],
            started=datetime.fromisoformat(row["started"]),
            ended=datetime.fromisoformat(row["ended"]) if row["ended"] else None,
            start=read_start(row["start"]),
            receipt=read_receipt(row["made"]),
            phase=row["phase"],
            state=state,
            closed=bool(row["closed"]),
            message=row["message"],
            steps=steps,
        )

    @contextmanager
    def writing(self, *, make: bool = False, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction. Raises JournalError.

        What is not ``durable`` outlives this process, and may be lost where the power fails:
        the VM ends there too.
        """
        with self._told(), _lock:
            if make:
                self._make()
            self._is_there()
            connection = self._connection()
            self._narrow()
            _synchronize(connection, durable=durable)
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                yield connection

    def _make(self) -> None:
        """Make the file and its directory, for their owner only."""
        os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with suppress(FileExistsError):
            # Not where it is open: closing any descriptor of a file drops SQLite's locks on it.
            os.close(os.open(self.path, flags, 0o600))

    def _narrow(self) -> None:
        """Take a journal that was open to others away from them."""
        for path in (
            self.path,
            *(f"{self.path}-{end}" for end in ("wal", "shm", "journal")),
            self.holds.path,
        ):
            with suppress(FileNotFoundError, PermissionError):
                if os.stat(path).st_mode & 0o077:
                    os.chmod(path, 0o600)

    def _is_there(self) -> bool:
        """Whether there is a file. Raises OSError where that cannot be seen, or it is none."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return False
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        return True

    def _connection(self) -> sqlite3.Connection:
        """The process's connection, made anew where the file is another one."""
        global _kept  # noqa: PLW0603  opening takes longer than writing, so one is kept
        status = os.stat(self.path)
        found = self.path, status.st_dev, status.st_ino
        if _kept is None or _kept[0] != found:
            _close()
            _kept = found, self._connect()
        self._refuse_newer(_kept[1])
        return _kept[1]

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            connection.row_factory = sqlite3.Row
            self._refuse_foreign(connection)
            version = self._refuse_newer(connection)
            # A write-ahead log is quicker, and does not work between hosts.
            mode = "PERSIST" if mounts.is_on_network(self.path) else "WAL"
            connection.execute(f"PRAGMA journal_mode = {mode}")
            if version < _VERSION:
                connection.executescript(_SCHEMA)
        except BaseException:
            connection.close()
            raise
        return connection

    def _refuse_foreign(self, connection: sqlite3.Connection) -> None:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if tables and "runs" not in tables:
            msg = f"{self.path} is a database of something else. Set SNAPKIT_JOURNAL to another"
            raise JournalError(msg)

    def _refuse_newer(self, connection: sqlite3.Connection) -> int:
        """The version, looked at each time: a newer snapkit may have been here meanwhile."""
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > _VERSION:
            msg = f"The journal {self.path} is of a newer snapkit. Use that, or another journal"
            raise JournalError(msg)
        return int(version)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Say what is wrong with the file, and what to do."""
        try:
            yield
        except (OSError, sqlite3.Error, ValueError, KeyError, TypeError) as err:
            words = getattr(err, "strerror", None) or str(err)
            msg = (
                f"The journal {self.path} cannot be used: {words}. Set SNAPKIT_JOURNAL to a file "
                "that can be written, or mend this one"
            )
            raise JournalError(msg) from err


class Record:
    """One run's own lines in the journal, held by this process until it is let go."""

    def __init__(self, journal: Journal, number: int, started: str) -> None:
        self.journal = journal
        self.number = number
        self._started = started
        self._noted: list[tuple[int, str, str]] = []

    def note(self, phase: str) -> None:
        """A phase begins. It is written with what comes next, before anything is sent or made."""
        self._noted.append((self.number, _now(), phase))

    def step(self, phase: str) -> None:
        """A phase begins that has to be on the disk first. Raises JournalError."""
        self.note(phase)
        with self._writing(durable=phase == "switch"):
            pass

    def keep(self, receipt: Receipt) -> None:
        """What was made, or is about to be. Raises JournalError."""
        with self._writing() as connection:
            connection.execute(
                "UPDATE runs SET made = ? WHERE number = ?", (receipt_text(receipt), self.number)
            )

    def end(self, state: str, message: str, *, closed: bool) -> None:
        """How the run ended. Raises JournalError."""
        with self._writing() as connection:
            connection.execute(
                "UPDATE runs SET ended = ?, state = ?, closed = ?, message = ? WHERE number = ?",
                (_now(), state, int(closed), mask(message), self.number),
            )

    @contextmanager
    def _writing(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """One transaction, in which the phases that were noted are written first."""
        with self.journal.writing(durable=durable) as connection:
            query = "SELECT started FROM runs WHERE number = ?"
            row = connection.execute(query, (self.number,)).fetchone()
            if row is None or row["started"] != self._started:
                msg = f"The journal {self.journal.path} is another one now, without this run"
                raise JournalError(msg)
            for noted in self._noted:
                connection.execute("INSERT INTO steps VALUES (?, ?, ?)", noted)
                connection.execute(
                    "UPDATE runs SET phase = ? WHERE number = ?", (noted[2], self.number)
                )
            yield connection
        self._noted.clear()

    def release(self) -> None:
        """Let go of the run. Raises nothing."""
        with suppress(OSError):
            self.journal.holds.drop(self.number)


_lock = threading.RLock()
_kept: tuple[tuple[str, int, int], sqlite3.Connection] | None = None
"""The path, device and inode of the journal that is open, and the connection to it."""
_of_parents: list[object] = []
"""Kept, because a connection that is thrown away in a forked child is closed."""


def _forget() -> None:
    global _lock, _kept  # noqa: PLW0603  a forked child begins anew
    _lock = threading.RLock()
    _of_parents.append(_kept)
    _kept = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@atexit.register
def _close() -> None:
    global _kept  # noqa: PLW0603  see where it is opened
    with _lock:
        if _kept is not None:
            _kept[1].close()
            _kept = None


def _synchronize(connection: sqlite3.Connection, *, durable: bool) -> None:
    """Only a write-ahead log stays whole when a transaction is not waited for."""
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    how = "NORMAL" if mode == "wal" and not durable else "FULL"
    connection.execute(f"PRAGMA synchronous = {how}")


def _insert(connection: sqlite3.Connection, start: Start) -> tuple[int, str]:
    """The number of a new run, and when it started."""
    now = _now()
    found = connection.execute(
        "INSERT INTO runs (started, start, made, phase, state, closed, message)"
        " VALUES (?, ?, ?, 'journal', '', 0, '')",
        (now, start_text(start), receipt_text(Receipt())),
    )
    number = found.lastrowid
    assert number is not None  # noqa: S101  sqlite3 gives every inserted row one
    connection.execute("INSERT INTO steps VALUES (?, ?, 'journal')", (number, now))
    return number, now


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _steps(connection: sqlite3.Connection, number: int) -> tuple[tuple[datetime, str], ...]:
    rows = connection.execute(
        "SELECT time, step FROM steps WHERE run = ? ORDER BY rowid", (number,)
    )
    return tuple((datetime.fromisoformat(row["time"]), row["step"]) for row in rows)
