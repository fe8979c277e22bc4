"""Looking at a lab from outside, without a word of snapkit."""

from __future__ import annotations

import contextlib
import os
import select
import struct
from pathlib import Path
from typing import Any

from tests.conftest import SECONDS, Qmp, wait_until

MAGIC = b"snapkit-sequence"


def is_running(pid: int) -> bool:
    """Whether a process exists and has not ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def has_ended(pid: int) -> None:
    """Wait until a process has ended."""
    wait_until(lambda: not is_running(pid), f"the end of process {pid}")


def has_vanished(directory: Path) -> None:
    """Wait until a directory is gone."""
    wait_until(lambda: not directory.exists(), f"the removal of {directory}")


def parent_of(pid: int) -> int:
    """The process id of a process's parent."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


def children_of(pid: int) -> list[int]:
    """The running processes whose parent this one is."""
    found = []
    for process in map(int, filter(str.isdigit, os.listdir("/proc"))):
        # Others end meanwhile.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if parent_of(process) == pid and is_running(process):
                found.append(process)
    return found


def mentioning(directory: str) -> list[int]:
    """The processes whose command line has this directory: keeper, virsh and QEMU."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if directory in Path(f"/proc/{pid}/cmdline").read_text(errors="replace"):
                found.append(int(pid))
    return found


def execute(endpoint: str, *commands: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Say commands to a QMP monitor on a connection of its own, and return the answers."""
    with Qmp(endpoint.removeprefix("unix:")) as qmp:
        return [qmp.send({"execute": name, "arguments": given}) for name, given in commands]


def line_from(fd: int) -> str:
    """The next line of a pipe."""
    text = b""
    while not text.endswith(b"\n"):
        readable, _, _ = select.select([fd], [], [], SECONDS)
        assert readable, f"nothing to read, only {text!r}"
        byte = os.read(fd, 1)
        assert byte, f"the pipe ended after {text!r}"
        text += byte
    return text.decode().strip()


def record(sequence: int, disk: int = 0) -> bytes:
    """A sector as the guest writes it."""
    return struct.pack("<16sIIQ480x", MAGIC, sequence, disk, 0)


def records_in(raw_image: str) -> dict[int, tuple[int, int, int]]:
    """Sector -> (sequence number, disk, time stamp) of each record in a raw image."""
    data = Path(raw_image).read_bytes()
    found = {}
    for sector in range(len(data) // 512):
        magic, sequence, disk, stamp = struct.unpack_from("<16sIIQ", data, sector * 512)
        if magic == MAGIC:
            found[sector] = (sequence, disk, stamp)
    return found
