"""Which runs a process is at, told by locks that the kernel drops when the process ends.

Each run is one byte of a file. The locks are POSIX ones (``fcntl(2)``): they belong to the
process, so a forked child has none of them. The file stays open for the life of the process,
because closing any descriptor of it would drop them all.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading

from snapkit import byte_locks

__all__ = ["Holds"]

_lock = threading.RLock()
_files: dict[str, int] = {}
_held: set[tuple[str, int]] = set()
"""What this process holds itself: its own locks do not stand in its own way."""


def _forget() -> None:
    global _lock  # noqa: PLW0603  a forked child has no thread that could unlock the parent's
    _lock = threading.RLock()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


class Holds:
    """The holds on the runs of one journal, in the file ``path``."""

    def __init__(self, path: str) -> None:
        self.path = path

    def take(self, number: int) -> bool:
        """Hold a run; False if somebody does, be it this process. Raises OSError."""
        with _lock:
            if (self.path, number) in _held or not self._set(number, fcntl.LOCK_EX | fcntl.LOCK_NB):
                return False
            _held.add((self.path, number))
            return True

    def is_taken(self, number: int) -> bool:
        """Whether somebody holds a run. Raises OSError."""
        with _lock:
            if (self.path, number) in _held:
                return True
            return byte_locks.is_locked(self._file(), fcntl.F_GETLK, number, 1)

    def drop(self, number: int) -> None:
        """Let go of a run that this process holds."""
        with _lock:
            if (self.path, number) in _held:
                _held.discard((self.path, number))
                self._set(number, fcntl.LOCK_UN)

    def _set(self, number: int, kind: int) -> bool:
        try:
            fcntl.lockf(self._file(), kind, 1, number)
        except OSError as err:
            if err.errno in {errno.EACCES, errno.EAGAIN}:
                return False
            raise
        return True

    def _file(self) -> int:
        """The open file; opened anew where it was removed or moved, and nothing is held."""
        known = _files.get(self.path)
        if known is not None and not self._holds_any() and not self._is_at_its_path(known):
            os.close(_files.pop(self.path))
        if self.path not in _files:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            _files[self.path] = os.open(self.path, flags, 0o600)
        return _files[self.path]

    def _is_at_its_path(self, handle: int) -> bool:
        try:
            return os.path.samestat(os.fstat(handle), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _holds_any(self) -> bool:
        return any(path == self.path for path, _ in _held)
