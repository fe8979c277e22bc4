"""Overlay files on this host: claimed, recognized, and removed.

A file is made without a name first (``open(2)``, ``O_TMPFILE``), and only then linked to its
name, which fails where something is. So what it is can be written down before it can be seen,
and nothing that exists is ever opened for writing. A file is removed only while it is still
the very file that was made.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import Any

from snapkit.backends import files, locks
from snapkit.backends.base import MadeFile, Receipt, Refused
from snapkit.backends.files import Owner

__all__ = ["Claim", "is_ours", "measure", "mode_over", "open_claim", "remove", "was_written"]

_WIDEST = 0o644
"""The permission bits that an overlay has at most."""
_NO_UNNAMED_FILES = frozenset((errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL))
_NO_LINKS = frozenset((errno.EOPNOTSUPP, errno.EPERM, errno.ENOENT, errno.EXDEV))

_AT_FDCWD = -100
_AT_SYMLINK_NOFOLLOW = 0x100
_STATX_BTIME = 0x800
_STATX_SIZE = 256
"""Bytes of ``struct statx``: the mask is its first word, the birth time is at 0x50."""


@dataclass
class Claim:
    """A file that has no name yet. ``made`` says what it is; ``take`` gives it its name.

    On a file system without unnamed files there is nothing before ``take``, and ``made`` has
    no identity until then. With ``leave``, QEMU has to make it, and ``take`` does nothing.
    """

    made: MadeFile
    owner: Owner | None
    mode: int
    handle: int | None = None
    leave: bool = False
    taken: bool = False

    def take(self) -> MadeFile:
        """Give the file its name, where nothing was before.

        Raises Refused when something is there, or the file cannot be made.
        """
        path = self.made.path
        if self.leave:
            self.taken = True
            return self.made
        try:
            if self.handle is None or not _link(self.handle, path):
                self.close()
                self.handle = _create(path, self.mode, self.owner)
        except FileExistsError:
            raise Refused(_taken(path)) from None
        except OSError as err:
            raise Refused(_cannot_be_made(path, err)) from err
        self.taken = True
        self.made = _describe(path, os.fstat(self.handle), self.handle)
        return self.made

    def close(self) -> None:
        """Let go of the file; without a name it is gone then."""
        if self.handle is not None:
            os.close(self.handle)
            self.handle = None


def open_claim(path: str, owner: Owner | None, mode: int = _WIDEST) -> Claim:
    """Make an empty file without a name, in the directory of ``path``, for QEMU to fill.

    ``mode`` are its permission bits. Where QEMU's user could not write to a file of ours, none
    is made: then QEMU has to. Raises Refused when something is at ``path``, or a file cannot
    be made there.
    """
    if os.path.lexists(path):
        raise Refused(_taken(path))
    if not _can_make_for(owner):
        return Claim(MadeFile(path, None), owner, mode, leave=True)
    directory = os.path.dirname(path)
    try:
        handle = os.open(directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, mode)
    except OSError as err:
        if err.errno in _NO_UNNAMED_FILES and os.path.isdir(directory):
            return Claim(MadeFile(path, None), owner, mode)
        raise Refused(_cannot_be_made(path, err)) from err
    claim = Claim(_describe(path, os.fstat(handle), handle), owner, mode, handle)
    try:
        _give(handle, owner)
    except OSError as err:
        claim.close()
        msg = f"{path} cannot be given to QEMU's user: {err.strerror}"
        raise Refused(msg) from err
    return claim


def _link(handle: int, path: str) -> bool:
    """Link an open file to a name; False where the file system has no links."""
    above = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        # With a directory given, Python calls linkat(2), which follows the magic link.
        os.link(f"/proc/self/fd/{handle}", path, src_dir_fd=above, follow_symlinks=True)
    except OSError as err:
        if err.errno not in _NO_LINKS or not os.path.isdir(os.path.dirname(path)):
            raise
        return False
    finally:
        os.close(above)
    return True


def _create(path: str, mode: int, owner: Owner | None) -> int:
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode)
    try:
        _give(handle, owner)
    except OSError:
        os.close(handle)
        os.unlink(path)
        raise
    return handle


def _give(handle: int, owner: Owner | None) -> None:
    if owner is not None and owner.uid != os.geteuid() and not owner.all_powerful:
        os.fchown(handle, owner.uid, owner.gid)


def mode_over(image: str) -> int:
    """The permission bits of an overlay: it is no more open than its image, or than 0644.

    An image that is no file of this host, or cannot be looked at, says nothing.
    """
    try:
        return os.stat(image).st_mode & 0o044 | 0o600
    except (OSError, ValueError):
        return _WIDEST


def _can_make_for(owner: Owner | None) -> bool:
    return owner is None or owner.is_us or owner.all_powerful or os.geteuid() == 0


def _taken(path: str) -> str:
    return f"{path} already exists, and QEMU would overwrite it"


def _cannot_be_made(path: str, err: OSError) -> str:
    return f"{path} cannot be created: {err.strerror}"


def measure(made: MadeFile) -> MadeFile:
    """The same file with the size and time that it has now; QEMU's own is recognized first.

    What is no longer the file that was made, or is gone, comes back as it was given.
    """
    found = _at(made.path)
    if found is None or (made.identity is not None and not _same(found, made)):
        return made
    return found


def is_ours(made: MadeFile) -> bool:
    """Whether the file that was made is still the one under its name, as far as is known."""
    if made.identity is None:
        return True
    found = _at(made.path)
    return found is not None and _same(found, made)


def was_written(made: MadeFile, receipt: Receipt) -> bool:
    """Whether anything was written to an overlay after it was prepared.

    Where its preparation had not ended, whether it holds clusters of its own.
    """
    found = _at(made.path)
    if found is None or made.identity is None or not _same(found, made):
        return False
    if receipt.prepared or made in receipt.reused:
        return (found.size, found.modified) != (made.size, made.modified)
    if not found.size:
        return False
    image = files.image(made.path)
    # An image that cannot be read was not finished, so no guest was ever on it.
    return image is None or (not image.error and image.allocated_clusters != 0)


def remove(made: MadeFile, in_use: Collection[tuple[int, int]]) -> str:
    """Remove a file that we made; say why not, or nothing.

    A file is left alone when it is no longer ours, when a chain of the VM holds it, or when
    another process has locked it as an image.
    """
    try:
        status = os.lstat(made.path)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as err:
        return f"{made.path} could not be looked at: {err.strerror}"
    if made.identity is None:
        return f"{made.path} may be a left-over of QEMU's making: look at it and remove it"
    if not stat.S_ISREG(status.st_mode) or not _same(_describe(made.path, status), made):
        return f"{made.path} is no longer the file that was made for this run, and was left alone"
    if made.identity in in_use:
        return f"{made.path} is in use by the VM, and was left alone"
    if locks.is_locked(made.path):
        return f"{made.path} is in use by another process, and was left alone"
    try:
        os.unlink(made.path)
    except OSError as err:
        return f"{made.path} could not be removed: {err.strerror}"
    return ""


def _at(path: str) -> MadeFile | None:
    """What is under a name, symbolic links not followed."""
    try:
        return _describe(path, os.lstat(path))
    except OSError:
        return None


def _same(found: MadeFile, made: MadeFile) -> bool:
    """Whether this is the file that was made. An inode's number is used again, at once."""
    return found.identity == made.identity and made.born in {None, found.born}


def _describe(path: str, status: os.stat_result, handle: int | None = None) -> MadeFile:
    where = path if handle is None else f"/proc/self/fd/{handle}"
    return MadeFile(
        path=path,
        identity=(status.st_dev, status.st_ino),
        born=_born(where, follow=handle is not None),
        size=status.st_size,
        modified=status.st_mtime_ns,
    )


def _born(path: str, *, follow: bool) -> int | None:
    """When a file was made, in nanoseconds; None where the file system does not keep it.

    ``statx(2)``, which Python's ``os`` has not.
    """
    buffer = ctypes.create_string_buffer(_STATX_SIZE)
    flags = 0 if follow else _AT_SYMLINK_NOFOLLOW
    try:
        done = _libc().statx(_AT_FDCWD, os.fsencode(path), flags, _STATX_BTIME, buffer)
    except (AttributeError, OSError):
        return None
    mask = int.from_bytes(buffer.raw[:4], "little")
    if done != 0 or not mask & _STATX_BTIME:
        return None
    seconds = int.from_bytes(buffer.raw[0x50:0x58], "little", signed=True)
    return seconds * 10**9 + int.from_bytes(buffer.raw[0x58:0x5C], "little")


@cache
def _libc() -> Any:
    return ctypes.CDLL(None)
