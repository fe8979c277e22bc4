"""Image files on this host: look at them, claim them, remove what was claimed.

Nothing here opens an existing image for writing. A file is removed only while it is still
the very inode that was made.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from snapkit.backends.base import MadeFile, Refused
from snapkit.facts import FileFacts, ImageFacts
from snapkit.model import FORMATS

__all__ = [
    "Owner",
    "chain",
    "claim",
    "identity",
    "image",
    "is_held",
    "is_ours",
    "is_shared",
    "look",
    "mode_over",
    "remove",
]

_QEMU_IMG_SECONDS = 30
_WIDEST = 0o644
"""The permission bits that an overlay has at most."""


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


def look(path: str, owner: Owner | None, *, header: bool = False) -> FileFacts:
    """What is at a path, for QEMU's user. With ``header``, also what ``qemu-img`` reads there."""
    directory = os.path.dirname(path)
    try:
        status = _status(path)
        above = _status(directory)
    except PermissionError:
        # Another user, as whom QEMU runs, may see there what we may not.
        same = owner is not None and owner.is_us
        return FileFacts(path, known=same, reachable=not same)
    is_directory = above is not None and stat.S_ISDIR(above.st_mode)
    kind = _kind(status)
    return FileFacts(
        path=path,
        known=True,
        exists=status is not None or os.path.lexists(path),
        kind=kind,
        real_path=os.path.realpath(path),
        identity=(status.st_dev, status.st_ino) if status else None,
        directory_exists=is_directory,
        directory_writable=_writable(directory, above, owner, 3) if is_directory else None,
        read_only_file_system=is_directory and _on_read_only(directory),
        writable=_writable(path, status, owner, 6),
        image=image(path) if header and kind in {"file", "device"} else None,
    )


def _status(path: str) -> os.stat_result | None:
    """What is there; None if nothing is. Raises PermissionError where we may not look."""
    try:
        return os.stat(path)
    except PermissionError:
        raise
    except OSError:
        return None


def _on_read_only(directory: str) -> bool:
    try:
        return bool(os.statvfs(directory).f_flag & os.ST_RDONLY)
    except OSError:
        return False


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
    )


def _allocated(path: str, format: str) -> int | None:  # noqa: A002  QEMU's word
    """How many clusters an image holds itself; None where its format does not tell."""
    if format not in FORMATS:
        return None
    answer = _qemu_img(["check", "--force-share", "--output=json", "-f", format, path])
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


def _qemu_img(arguments: list[str]) -> Any:
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
    if done.returncode:
        return done.stderr.decode(errors="replace").strip().removeprefix("qemu-img: ")
    return json.loads(done.stdout.decode(errors="surrogateescape"))


def claim(path: str, owner: Owner | None, mode: int = _WIDEST) -> MadeFile | None:
    """Make an empty file for QEMU to fill, where nothing was before.

    ``mode`` are its permission bits. Returns None where QEMU's user could not write to a file
    of ours: then QEMU has to make it. Raises Refused when something is there, or the file
    cannot be made.
    """
    if not _can_make_for(owner):
        if os.path.lexists(path):
            raise Refused(_taken(path))
        return None
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode)
    except FileExistsError:
        raise Refused(_taken(path)) from None
    except OSError as err:
        msg = f"{path} cannot be created: {err.strerror}"
        raise Refused(msg) from err
    try:
        if owner is not None and owner.uid != os.geteuid() and not owner.all_powerful:
            os.fchown(handle, owner.uid, owner.gid)
        status = os.fstat(handle)
    except OSError as err:
        os.unlink(path)
        msg = f"{path} cannot be given to QEMU's user: {err.strerror}"
        raise Refused(msg) from err
    finally:
        os.close(handle)
    return MadeFile(path, (status.st_dev, status.st_ino))


def mode_over(image: str) -> int:
    """The permission bits of an overlay: it is no more open than its image, or than 0644.

    An image that is no file of this host, or cannot be looked at, says nothing.
    """
    try:
        return os.stat(image).st_mode & 0o044 | 0o600
    except (OSError, ValueError):
        return _WIDEST


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


def _can_make_for(owner: Owner | None) -> bool:
    return owner is None or owner.is_us or owner.all_powerful or os.geteuid() == 0


def _taken(path: str) -> str:
    return f"{path} already exists, and QEMU would overwrite it"


def identity(path: str) -> tuple[int, int] | None:
    """The device and inode of what is at a path, symbolic links not followed."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def is_ours(made: MadeFile) -> bool:
    """Whether the file that was made is still the one under its name, as far as is known."""
    return made.identity is None or identity(made.path) == made.identity


def is_held(facts: FileFacts, held: Collection[tuple[int, int]] | None) -> bool | None:
    """Whether what is at a path is among the files that a process holds open.

    None if that cannot be told: one block device may have several inodes.
    """
    seen = facts.known and facts.reachable and facts.kind in {"", "file", "directory"}
    return None if held is None or not seen else facts.identity in held


def remove(made: MadeFile, in_use: Iterable[tuple[int, int]]) -> str:
    """Remove a file that we made; say why not, or nothing.

    A file is left alone when it is no longer ours, or when a chain of the VM holds it.
    """
    try:
        status = os.lstat(made.path)
    except FileNotFoundError:
        return ""
    except OSError as err:
        return f"{made.path} could not be looked at: {err.strerror}"
    found = status.st_dev, status.st_ino
    if made.identity is None:
        return f"{made.path} may be a left-over of QEMU's making: look at it and remove it"
    if found != made.identity or not stat.S_ISREG(status.st_mode):
        return f"{made.path} is no longer the file that was made for this run, and was left alone"
    if found in in_use:
        return f"{made.path} is in use by the VM, and was left alone"
    try:
        os.unlink(made.path)
    except OSError as err:
        return f"{made.path} could not be removed: {err.strerror}"
    return ""
