"""Whether another process has an image open, by the locks that QEMU takes on it.

QEMU (``block/file-posix.c``) puts shared locks on single bytes of an image: from byte 100 for
what it does with it, from byte 200 for what it lets nobody else do. They belong to the open
file, so any lock there that is not of this very descriptor is somebody else's.
"""

from __future__ import annotations

import os
import stat

from snapkit import byte_locks

__all__ = ["is_locked"]

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
        return byte_locks.is_locked(handle, byte_locks.OFD_GETLK, _FIRST, _COUNT)
    except OSError:
        return None
    finally:
        os.close(handle)
