"""The node-names of overlays: valid for QEMU, free, and fit for people to read. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from snapkit.model import Device, Graph

__all__ = ["can_be_sent", "file_of", "is_valid", "job_id", "propose"]

_LONGEST = 31
_VALID = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.-]")
_JOB = "create-"
_UNKNOWN_BYTE = "\N{REPLACEMENT CHARACTER}"


def is_valid(name: str) -> bool:
    """Whether QEMU takes this for a new node: a letter, then letters, digits, ``-._``."""
    return len(name) <= _LONGEST and bool(_VALID.fullmatch(name))


def can_be_sent(name: str) -> bool:
    """Whether a node that there is can be named in a command.

    QEMU's own names, such as ``#block123``, can be; bytes that are no UTF-8 cannot.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return bool(name) and _UNKNOWN_BYTE not in name and "\0" not in name


def file_of(node: str) -> str:
    """The name of the protocol node below an overlay."""
    return f"{node}-file"


def job_id(node: str) -> str:
    """The id of the job that creates a node's image."""
    return f"{_JOB}{node}"


def propose(devices: Iterable[Device], graph: Graph) -> list[str]:
    """A name for each device's overlay: ``drive0-snap1``; the same with ``-file`` is free too."""
    taken = {
        *graph.nodes,
        *graph.devices,
        # With such a name the creation job would have the id of a job that there is.
        *(job.id.removeprefix(_JOB) for job in graph.jobs if job.id.startswith(_JOB)),
    }
    return [_free(device, taken) for device in devices]


def _free(device: Device, taken: set[str]) -> str:
    """The first name that is free, which is then taken."""
    number = device.depth + 1
    stem = _NOT_IN_A_NAME.sub("-", device.name)
    if not stem[:1].isalpha():
        stem = f"d{stem}"
    while True:
        ending = f"-snap{number}"
        name = stem[: _LONGEST - len(file_of(ending))] + ending
        if not {name, file_of(name)} & taken:
            taken |= {name, file_of(name)}
            return name
        number += 1
