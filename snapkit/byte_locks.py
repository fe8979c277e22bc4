"""Asking the kernel whether somebody has locked some bytes of a file (``fcntl(2)``)."""

from __future__ import annotations

import fcntl
import os
import struct

__all__ = ["OFD_GETLK", "is_locked"]

OFD_GETLK = 36
"""``F_OFD_GETLK``, which Python's ``fcntl`` has not: locks of open files count as others'."""
_FLOCK = "hhqqi4x"
"""``struct flock``: type, whence, start, length, pid."""


def is_locked(handle: int, command: int, first: int, count: int) -> bool:
    """Whether a lock on any of these bytes is in the way. Raises OSError.

    ``command`` is ``fcntl.F_GETLK`` or ``OFD_GETLK``. Nothing is locked by asking.
    """
    wanted = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, first, count, 0)
    found = struct.unpack(_FLOCK, fcntl.fcntl(handle, command, wanted))
    return bool(found[0] != fcntl.F_UNLCK)
