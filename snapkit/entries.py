"""What the journal keeps of a run, and how it is written down as text. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from snapkit.backends.base import MadeFile, Receipt
from snapkit.masking import masked
from snapkit.script import Overlay

__all__ = ["Entry", "Start", "read_receipt", "read_start", "receipt_text", "start_text"]


@dataclass(frozen=True)
class Start:
    """What is written down before the first command leaves.

    ``instance`` tells this VM's process from any other; empty if that is not known. ``local``
    says whether QEMU's files were this host's, ``told`` what the user had said about it.
    ``commands`` are the exact messages, in their order.
    """

    uri: str
    domain: str | None
    vm: str
    instance: str
    local: bool
    told: bool | None
    engine: str
    fingerprint: str
    overlays: tuple[Overlay, ...]
    commands: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """One run as the journal has it.

    ``phase`` is the last that began, ``state`` one of ``running`` (a process is at it),
    ``interrupted`` (it began and nobody is at it), ``unknown``, ``switched`` and ``not
    switched``. ``closed`` is False while something may be left to find out or to remove.
    ``steps`` are (time, name).
    """

    number: int
    started: datetime
    ended: datetime | None
    start: Start
    receipt: Receipt
    phase: str
    state: str
    closed: bool
    message: str
    steps: tuple[tuple[datetime, str], ...]


def start_text(start: Start) -> str:
    """A start as JSON, without secrets. The overlays' own names stay: recovery looks for them."""
    kept: dict[str, Any] = masked(asdict(start))
    for overlay, written in zip(start.overlays, kept["overlays"], strict=True):
        written["file"] = overlay.file
    return json.dumps(kept)


def read_start(text: str) -> Start:
    """What ``start_text`` wrote. Raises ValueError, KeyError or TypeError for anything else."""
    kept = json.loads(text)
    overlays = tuple(Overlay(**overlay) for overlay in kept.pop("overlays"))
    commands = tuple(kept.pop("commands"))
    return Start(overlays=overlays, commands=commands, **kept)


def receipt_text(receipt: Receipt) -> str:
    """A receipt as JSON."""
    made: dict[str, Any] = {
        "files": [asdict(made) for made in receipt.files],
        "reused": [asdict(made) for made in receipt.reused],
        "nodes": receipt.nodes,
        "jobs": receipt.jobs,
        "prepared": receipt.prepared,
    }
    return json.dumps(made)


def read_receipt(text: str) -> Receipt:
    """What ``receipt_text`` wrote. Raises ValueError, KeyError or TypeError for anything else."""
    made = json.loads(text)
    files, reused = ([_made_file(file) for file in made[kind]] for kind in ("files", "reused"))
    return Receipt(files, reused, made["nodes"], made["jobs"], made["prepared"])


def _made_file(kept: dict[str, Any]) -> MadeFile:
    identity = kept.pop("identity")
    return MadeFile(identity=tuple(identity) if identity else None, **kept)
