"""Whether another process has an image open, by the locks that QEMU takes on it.

QEMU (``block/file-posix.c``) puts shared locks on single bytes of an image: from byte 100 for
what it does with it, from byte 200 for what it lets nobody else do. They belong to the open
file, so any lock there that is not of this very descriptor is somebody else's.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct

__all__ = ["is_locked"]

_OFD_GETLK = 36
"""``F_OFD_GETLK`` of ``fcntl(2)``, which Python's ``fcntl`` has not."""
_FLOCK = "hhqqi4x"
"""``struct flock``: type, whence, start, length, pid."""
_FIRST, _COUNT = 100, 200


def is_locked(path: str) -> bool | None:
    """Whether a process has locked the image at ``path``; None if that cannot be told."""
    try:
        # A pipe would wait for its other end.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return None
        wanted = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, _FIRST, _COUNT, 0)
        found = struct.unpack(_FLOCK, fcntl.fcntl(handle, _OFD_GETLK, wanted))
    except OSError:
        return None
    finally:
        os.close(handle)
    return bool(found[0] != fcntl.F_UNLCK)
