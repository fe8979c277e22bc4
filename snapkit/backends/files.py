"""Image files on this host, looked at. Nothing here opens an image for writing."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from snapkit.backends import locks
from snapkit.facts import FileFacts, ImageFacts
from snapkit.model import FORMATS

__all__ = [
    "Looker",
    "Owner",
    "chain",
    "flush",
    "image",
    "is_held",
    "is_shared",
    "look",
]

_QEMU_IMG_SECONDS = 30
_CHECKED = (2, 3)
"""How ``qemu-img check`` ends when it has found damage, or clusters that nothing refers to."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whom QEMU runs as. ``all_powerful``: file permissions do not hold it back."""

    uid: int
    gid: int
    groups: frozenset[int]
    all_powerful: bool

    @property
    def is_us(self) -> bool:
        """Whether QEMU has this process's own rights, so that the kernel can be asked."""
        return self.uid == os.geteuid() and self.all_powerful == (os.geteuid() == 0)

    def may(self, status: os.stat_result, wanted: int) -> bool:
        """Whether the permission bits grant ``wanted`` (4 read, 2 write, 1 search)."""
        if self.all_powerful:
            return True
        if self.uid == status.st_uid:
            granted = status.st_mode >> 6
        elif status.st_gid in self.groups | {self.gid}:
            granted = status.st_mode >> 3
        else:
            granted = status.st_mode
        return granted & wanted == wanted


@dataclass(frozen=True, slots=True)
class _Directory:
    """A directory of which several paths are asked: what is the same for all of them."""

    real_path: str
    status: os.stat_result | None
    writable: bool | None
    space: os.statvfs_result | None

    @property
    def exists(self) -> bool:
        """Whether there is one."""
        return self.status is not None and stat.S_ISDIR(self.status.st_mode)

    def free_bytes(self, owner: Owner | None) -> int | None:
        """What is left for QEMU's user. Some of it is reserved for root; no size: no limit."""
        if self.space is None or not self.space.f_blocks:
            return None
        is_root = owner is not None and owner.uid == 0 and owner.all_powerful
        return self.space.f_frsize * (self.space.f_bfree if is_root else self.space.f_bavail)


class Looker:
    """Looks at many paths for QEMU's user, and at the directory of several only once."""

    def __init__(self, owner: Owner | None) -> None:
        self._owner = owner
        self._directories: dict[str, _Directory] = {}

    def look(self, path: str, *, header: bool = False) -> FileFacts:
        """What is at a path. With ``header``, also what ``qemu-img`` reads there, and locks."""
        owner = self._owner
        try:
            status = _status(path)
            above = self._directory(os.path.dirname(path))
        except PermissionError:
            # Another user, as whom QEMU runs, may see there what we may not.
            same = owner is not None and owner.is_us
            return FileFacts(path, known=same, reachable=not same)
        kind = _kind(status)
        real_path = self._real_path(path, above)
        # Where a link leads out of its directory, the image takes its room there.
        place = above if status is None else self._directory(os.path.dirname(real_path))
        is_image = header and kind in {"file", "device"}
        return FileFacts(
            path=path,
            known=True,
            exists=status is not None or os.path.lexists(path),
            kind=kind,
            real_path=real_path,
            identity=(status.st_dev, status.st_ino) if status else None,
            directory_exists=above.exists,
            directory_writable=above.writable if above.exists else None,
            read_only_file_system=bool(above.space and above.space.f_flag & os.ST_RDONLY),
            writable=_writable(path, status, owner, 6),
            locked=locks.is_locked(path) if is_image else None,
            file_system=place.status.st_dev if place.status and place.exists else None,
            free_bytes=place.free_bytes(owner),
            allocated_bytes=status.st_blocks * 512 if status else None,
            image=image(path) if is_image else None,
        )

    def _directory(self, path: str) -> _Directory:
        """Raises PermissionError where we may not look."""
        if path not in self._directories:
            self._directories[path] = self._look_at_directory(path)
        return self._directories[path]

    def _look_at_directory(self, path: str) -> _Directory:
        status = _status(path)
        return _Directory(
            real_path=os.path.realpath(path),
            status=status,
            writable=_writable(path, status, self._owner, 3),
            space=_space(path),
        )

    @staticmethod
    def _real_path(path: str, above: _Directory) -> str:
        """Without looking at every directory above again, where the last part is no link."""
        name = os.path.basename(path)
        if name in {"", ".", ".."} or os.path.islink(path):
            return os.path.realpath(path)
        return os.path.join(above.real_path, name)


def look(path: str, owner: Owner | None, *, header: bool = False) -> FileFacts:
    """What is at a path, for QEMU's user. With ``header``, also what ``qemu-img`` reads there."""
    return Looker(owner).look(path, header=header)


def _status(path: str) -> os.stat_result | None:
    """What is there; None if nothing is. Raises PermissionError where we may not look."""
    try:
        return os.stat(path)
    except PermissionError:
        raise
    except OSError:
        return None


def _space(directory: str) -> os.statvfs_result | None:
    try:
        return os.statvfs(directory)
    except OSError:
        return None


def _kind(status: os.stat_result | None) -> Literal["", "file", "directory", "device", "other"]:
    if status is None:
        return ""
    if stat.S_ISREG(status.st_mode):
        return "file"
    if stat.S_ISDIR(status.st_mode):
        return "directory"
    return "device" if stat.S_ISBLK(status.st_mode) else "other"


def _writable(
    path: str, status: os.stat_result | None, owner: Owner | None, wanted: int
) -> bool | None:
    if status is None or owner is None:
        return None
    if owner.is_us:
        return os.access(path, wanted & (os.R_OK | os.W_OK | os.X_OK))
    if owner.may(status, wanted):
        return True
    # An access list may grant what the permission bits do not.
    return None if _has_access_list(path) else False


def _has_access_list(path: str) -> bool:
    try:
        return "system.posix_acl_access" in os.listxattr(path)
    except (OSError, AttributeError):
        return False


def image(path: str) -> ImageFacts | None:
    """What the image's own header says; None where there is no qemu-img to ask."""
    answer = _qemu_img(["info", "--force-share", "--output=json", path])
    if answer is None:
        return None
    if isinstance(answer, str):
        return ImageFacts(error=answer)
    return ImageFacts(
        format=answer.get("format", ""),
        virtual_size=answer.get("virtual-size", 0),
        backing_file=answer.get("backing-filename"),
        backing_format=answer.get("backing-filename-format"),
        full_backing_file=answer.get("full-backing-filename"),
        allocated_clusters=_allocated(path, answer.get("format", "")),
        cluster_size=answer.get("cluster-size"),
    )


def _allocated(path: str, format: str) -> int | None:  # noqa: A002  QEMU's word
    """How many clusters an image holds itself; None where its format does not tell."""
    if format not in FORMATS:
        return None
    arguments = ["check", "--force-share", "--output=json", "-f", format, path]
    answer = _qemu_img(arguments, {0, *_CHECKED})
    return answer.get("allocated-clusters", 0) if isinstance(answer, dict) else None


def chain(path: str, format: str) -> list[tuple[str, str]] | str | None:  # noqa: A002  QEMU's word
    """The chain as it opens offline: ``(file, format)`` from the top down.

    Text is qemu-img's complaint; None means that there is no qemu-img to ask.
    """
    answer = _qemu_img(
        ["info", "--force-share", "--backing-chain", "--output=json", "-f", format, path]
    )
    if isinstance(answer, str) or answer is None:
        return answer
    return [(layer["filename"], layer["format"]) for layer in answer]


def _qemu_img(arguments: list[str], done_with: Collection[int] = (0,)) -> Any:
    """qemu-img's answer, parsed; its complaint as text; None if it is not installed."""
    try:
        done = subprocess.run(
            ["qemu-img", *arguments],
            capture_output=True,
            timeout=_QEMU_IMG_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        return None
    except subprocess.TimeoutExpired:
        return f"qemu-img did not answer within {_QEMU_IMG_SECONDS} s"
    if done.returncode not in done_with:
        return done.stderr.decode(errors="replace").strip().removeprefix("qemu-img: ")
    return json.loads(done.stdout.decode(errors="surrogateescape"))


def is_shared(directory: str, pid: int) -> bool | None:
    """Whether a process sees the same directory under that name.

    None if that cannot be told, as of a process that has ended.
    """
    try:
        ours, theirs = os.stat(directory), os.stat(f"/proc/{pid}/root{directory}")
    except FileNotFoundError:
        if not os.path.exists(f"/proc/{pid}/root"):
            return None
        return os.path.exists(directory) == os.path.exists(f"/proc/{pid}/root{directory}")
    except OSError:
        return None
    return (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)


def is_held(facts: FileFacts, held: Collection[tuple[int, int]] | None) -> bool | None:
    """Whether what is at a path is among the files that a process holds open.

    None if that cannot be told: one block device may have several inodes.
    """
    seen = facts.known and facts.reachable and facts.kind in {"", "file", "directory"}
    return None if held is None or not seen else facts.identity in held


def flush(path: str) -> None:
    """Write out what this host's cache holds of a file (``fdatasync(2)``), if it may be read."""
    try:
        # A pipe would wait for its other end.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return
    try:
        os.fdatasync(handle)
    except OSError:
        # What it has to tell about the disk, QEMU will be told by its own flush.
        return
    finally:
        os.close(handle)
