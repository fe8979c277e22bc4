"""Reading the numbers that the lab's guest wrote.

A record is one sector; guest.asm says what is in it. The guest writes them to a ring of
sectors at the beginning of each disk.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import tempfile
from typing import TYPE_CHECKING

from snapkit.errors import SnapkitError
from snapkit.lab.qemu import disk_format, find_program

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import pandas as pd

__all__ = ["holds_a_record", "holds_the_second_record", "last_sequence", "last_sequences"]

MAGIC = b"snapkit-sequence"
SECTOR = 512
RING_SECTORS = 65536

_FIRST_RECORD_BYTES = 1024 * 1024  # in a fresh qcow2 image the first data comes after 320 KiB


def last_sequences(files: Iterable[str], scratch: Path | None) -> pd.Series[int]:
    """The last sequence number in each image file, 0 where there is none.

    ``scratch`` is a directory for temporary files. Raises SnapkitError for a file that
    cannot be read.
    """
    import pandas as pd

    names = list(files)
    numbers = [last_sequence(name, scratch) for name in names]
    return pd.Series(numbers, pd.Index(names, dtype=object, name="file"), "int64", "sequence")


def last_sequence(file: str, scratch: Path | None) -> int:
    """The last sequence number in one image file and its backing chain."""
    _check_readable(file)
    # A guest decides what a raw image looks like, so the lab's own must never be probed.
    if disk_format(file) == "raw":
        return _largest(file)
    image_format, size = _image_info(file)
    if image_format == "raw":
        return _largest(file)
    with tempfile.TemporaryDirectory(prefix="sequence-", dir=scratch) as directory:
        flat = os.path.join(directory, "flat.raw")
        _flatten(file, image_format, size, flat)
        return _largest(flat)


def holds_a_record(path: str) -> bool:
    """Whether there is a record in this fresh image's file, of whatever format.

    It may not be part of the image yet: a format writes data first and its tables later.
    """
    with open(path, "rb") as file:
        data = file.read(_FIRST_RECORD_BYTES)
    position = data.find(MAGIC)
    while position >= 0 and position % SECTOR:
        position = data.find(MAGIC, position + 1)
    return position >= 0


def holds_the_second_record(raw_image: str) -> bool:
    """Whether the guest has written number 2 to this fresh raw image.

    On the first disk it is the proof that the first record is on every disk for good: the
    guest has been told of each write that it was done.
    """
    with open(raw_image, "rb") as file:
        file.seek(2 * SECTOR)
        return file.read(len(MAGIC)) == MAGIC


def _largest(raw_file: str) -> int:
    """The largest number of a record. Its place says nothing: the ring wraps."""
    import numpy as np

    record = np.dtype([("magic", "S16"), ("sequence", "<u4"), ("rest", "V492")])
    try:
        sectors = np.fromfile(raw_file, dtype=record, count=RING_SECTORS)
    except OSError as error:
        msg = f"cannot read {raw_file}: {error.strerror}"
        raise SnapkitError(msg) from error
    numbers = sectors["sequence"][sectors["magic"] == MAGIC]
    return int(numbers.max(initial=0))


def _check_readable(file: str) -> None:
    try:
        mode = os.stat(file).st_mode
        readable = os.access(file, os.R_OK)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        msg = f"no sequence numbers from {file!r}: {reason}"
        raise SnapkitError(msg) from error
    if not stat.S_ISREG(mode):
        msg = f"no sequence numbers from {file!r}: it is not a regular file"
        raise SnapkitError(msg)
    if not readable:
        msg = f"no sequence numbers from {file!r}: you may not read it"
        raise SnapkitError(msg)


def _image_info(file: str) -> tuple[str, int]:
    """The image's format and its size for the guest."""
    path = os.path.abspath(file)  # begins with a slash, so that no colon makes it a protocol
    info = json.loads(_qemu_img(file, "info", "-U", "--output=json", path))
    return str(info["format"]), int(info["virtual-size"])


def _flatten(file: str, image_format: str, size: int, flat: str) -> None:
    """Copy the ring, as the guest sees it through the backing chain, to a raw file."""
    path = os.path.abspath(file).replace(",", ",,")
    ring = min(size, RING_SECTORS * SECTOR)
    source = f"driver=raw,size={ring},file.driver={image_format}"
    source += f",file.file.driver=file,file.file.filename={path}"
    _qemu_img(file, "convert", "-U", "--image-opts", "-O", "raw", source, flat)


def _qemu_img(file: str, *arguments: str) -> str:
    command = [find_program("qemu-img"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        msg = f"no sequence numbers from {file!r}: {done.stderr.strip()}"
        raise SnapkitError(msg)
    return done.stdout
