"""Image headers of this host, read without a process: the chain as it opens offline.

qcow2 and qed headers that hold nothing unusual are read here, since one ``qemu-img`` for each
overlay would take longer than making all of them. Whatever else there is, such as another
format, a name that is no plain path, an external data file, encryption, or a field that does
not fit, is left to ``qemu-img``, so that the words about it are its own.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from dataclasses import dataclass

from snapkit.backends import files

__all__ = ["Header", "backing_file", "chain", "read"]

_QCOW2_BEGIN = struct.Struct(">4x I QI I")
_QCOW2_REST = struct.Struct(">Q I IQ QI IQ")
_QCOW2_LENGTH = _QCOW2_BEGIN.size + _QCOW2_REST.size
_QCOW2_V3 = struct.Struct(">Q 16x II")
_QED = struct.Struct("<4x III Q 16x Q Q II")
_EXTENSION = struct.Struct(">II")

_BACKING_FORMAT = 0xE2792ACA
_LONGEST_FORMAT = 15
_LONGEST_NAME = 1023
_READ = 4096
"""Bytes of an image that are read. QEMU writes all that is needed of a header into them."""

_DIRTY_CORRUPT = 0b11
_COMPRESSION = 0b1000
_EXTENDED_L2 = 0b10000

_QED_BACKING = 1
_QED_NEEDS_CHECK = 2
_QED_NO_PROBE = 4

# What QEMU takes for a protocol: a colon before the first slash.
_PROTOCOL = re.compile(r"[^/:]*:")


@dataclass(frozen=True, slots=True)
class Header:
    """What an image's header says. ``backing_format`` is None where it has to be guessed.

    Sizes are bytes. ``backing_file`` is as it stands there, which may be a relative name.
    """

    format: str
    virtual_size: int
    cluster_size: int
    backing_file: str = ""
    backing_format: str | None = None


class _Unusual(Exception):
    """It takes ``qemu-img`` to say what this is."""


class _Complaint(Exception):
    """It does not open; the message says why."""


def chain(path: str, format: str) -> list[tuple[str, str]] | str | None:  # noqa: A002  QEMU's word
    """The chain as it opens offline: ``(file, format)`` from the top down.

    A relative name in a header is relative to the image that has it. Text is a complaint about
    what does not open; None means that it takes ``qemu-img``, and there is none.
    """
    try:
        return _chain(path, format)
    except _Complaint as err:
        return str(err)
    except _Unusual:
        return files.chain(path, format)


def backing_file(path: str) -> str:
    """The file that an image's header names as its backing file; empty if there is none.

    Also empty where that takes ``qemu-img``, or cannot be read.
    """
    header = read(path, None)
    return _below(path, header.backing_file) if header else ""


def read(path: str, format: str | None) -> Header | None:  # noqa: A002  QEMU's word
    """What the header of one image says; None where it cannot be read here, or is unusual."""
    try:
        return _read(path, format)
    except (_Complaint, _Unusual):
        return None


def _chain(path: str, format: str) -> list[tuple[str, str]]:  # noqa: A002  QEMU's word
    found: dict[str, str] = {}
    wanted: str | None = format
    while path:
        if path in found:
            msg = f"Backing file '{path}' creates an infinite loop."
            raise _Complaint(msg)
        header = _read(path, wanted)
        found[path] = header.format
        path, wanted = _below(path, header.backing_file), header.backing_format
    return list(found.items())


def _below(path: str, name: str) -> str:
    """The path of an image's backing file; empty if it has none."""
    if not name or name.startswith("/"):
        return name
    if _PROTOCOL.match(name):
        raise _Unusual
    return path[: path.rindex("/") + 1] + name


def _read(path: str, format: str | None) -> Header:  # noqa: A002  QEMU's word
    """The header of one image. Without a format it is the one that its first bytes tell."""
    if not path.startswith("/"):
        raise _Unusual
    try:
        # To open a pipe or a device is felt at its other end.
        kind = os.stat(path).st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISBLK(kind)):
            msg = f"Could not open '{path}': it is neither a file nor a block device"
            raise _Complaint(msg)
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as err:
        msg = f"Could not open '{path}': {getattr(err, 'strerror', None) or err}"
        raise _Complaint(msg) from None
    try:
        return _parse(handle, format)
    except OSError as err:
        msg = f"Could not read '{path}': {err.strerror}"
        raise _Complaint(msg) from None
    finally:
        os.close(handle)


def _parse(handle: int, format: str | None) -> Header:  # noqa: A002  QEMU's word
    if format == "raw":
        return Header("raw", os.lseek(handle, 0, os.SEEK_END), 0)
    start = os.pread(handle, _READ, 0)
    if start.startswith(b"QFI\xfb") and format in {"qcow2", None}:
        return _qcow2(start)
    if start.startswith(b"QED\0") and format in {"qed", None}:
        return _qed(handle, start)
    raise _Unusual


def _qcow2(start: bytes) -> Header:
    """The header of a qcow2 image, version 2 or 3."""
    if len(start) < _READ:
        raise _Unusual
    version, name_offset, name_length, cluster_bits = _QCOW2_BEGIN.unpack_from(start)
    size, encryption, l1_size, l1_offset, refcount_offset, refcount_clusters, *snapshots = (
        _QCOW2_REST.unpack_from(start, _QCOW2_BEGIN.size)
    )
    if version not in {2, 3} or not 9 <= cluster_bits <= 21 or encryption or any(snapshots):
        raise _Unusual
    cluster = 1 << cluster_bits
    length, extended = _QCOW2_LENGTH, False
    if version == 3:
        length, extended = _version_3(start, cluster)
    covered = cluster * (cluster // (16 if extended else 8))
    if (
        (l1_offset | refcount_offset) % cluster
        or (l1_offset | refcount_offset) >> 56
        or not 0 < refcount_clusters * cluster <= 8 << 20
        or not -(-size // covered) <= l1_size <= 4 << 20
        or not (name_offset == 0 or length <= name_offset <= cluster)
    ):
        raise _Unusual
    name = ""
    if name_offset:
        if name_length > min(_LONGEST_NAME, cluster - name_offset):
            raise _Unusual
        name = _name(start, name_offset, name_length)
    format_ = _qcow2_backing_format(start, length, name_offset or cluster)
    return Header("qcow2", size, cluster, name, format_)


def _version_3(start: bytes, cluster: int) -> tuple[int, bool]:
    """The length of a version 3 header, and whether the entries of its L2 tables are wide."""
    incompatible, refcount_order, length = _QCOW2_V3.unpack_from(start, _QCOW2_LENGTH)
    known = _DIRTY_CORRUPT | _COMPRESSION | _EXTENDED_L2
    compression = start[104] if length > 104 else 0
    extended = bool(incompatible & _EXTENDED_L2)
    if (
        incompatible & ~known
        or refcount_order > 6
        or not 104 <= length <= min(cluster, _READ)
        or length % 8
        or compression != bool(incompatible & _COMPRESSION)
        or (extended and cluster < 1 << 14)
    ):
        raise _Unusual
    return length, extended


def _qcow2_backing_format(start: bytes, offset: int, end: int) -> str | None:
    """What the header extensions from ``offset`` on say about the backing file's format."""
    found: str | None = None
    while offset + _EXTENSION.size <= end:
        if offset + _EXTENSION.size > len(start):
            raise _Unusual
        magic, length = _EXTENSION.unpack_from(start, offset)
        offset += _EXTENSION.size
        if length > end - offset:
            raise _Unusual
        if magic == 0:
            break
        if magic == _BACKING_FORMAT:
            if length > _LONGEST_FORMAT:
                raise _Unusual
            found = _name(start, offset, length)
        offset += -(-length // 8) * 8
    return found


def _qed(handle: int, start: bytes) -> Header:
    if len(start) < _READ:
        raise _Unusual
    (
        cluster,
        table_clusters,
        header_clusters,
        features,
        l1_offset,
        size,
        name_offset,
        name_length,
    ) = _QED.unpack_from(start)
    if (
        features & ~(_QED_BACKING | _QED_NEEDS_CHECK | _QED_NO_PROBE)
        or not 1 << 12 <= cluster <= 1 << 26
        or cluster & (cluster - 1)
        # QEMU refuses tables of one cluster, though the format knows them.
        or table_clusters not in {2, 4, 8, 16}
        or not 0 < header_clusters <= (1 << 26) // cluster
        or size % 512
        or size > (cluster * table_clusters // 8) ** 2 * cluster
        or l1_offset % cluster
        or not header_clusters * cluster <= l1_offset
        or l1_offset + table_clusters * cluster > os.lseek(handle, 0, os.SEEK_END)
    ):
        raise _Unusual
    if not features & _QED_BACKING:
        return Header("qed", size, cluster)
    if name_offset + name_length > header_clusters * cluster or name_length > _LONGEST_NAME:
        raise _Unusual
    name = _name(start, name_offset, name_length)
    return Header("qed", size, cluster, name, "raw" if features & _QED_NO_PROBE else None)


def _name(start: bytes, offset: int, length: int) -> str:
    """A name as text."""
    raw = start[offset : offset + length]
    if len(raw) < length or b"\0" in raw:
        raise _Unusual
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise _Unusual from None
