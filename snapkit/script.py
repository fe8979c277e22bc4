"""The exact commands of a plan, as values.

A backend writes the script from targets and the block graph, without any I/O. What is
previewed is this script, and what is sent is this script.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Command", "Overlay", "Script", "Wishes"]


@dataclass(frozen=True, slots=True)
class Wishes:
    """How a backend that remembers its snapshots shall remember this one.

    ``name`` is empty for the next that is free. ``metadata`` is ``yes`` or ``no``.
    """

    name: str = ""
    description: str = ""
    metadata: str = "yes"


@dataclass(frozen=True)
class Command:
    """One command as it goes over the wire, and the device that it serves."""

    execute: str
    arguments: Mapping[str, object]
    device: str = ""

    def to_json(self) -> str:
        """The command as one line of JSON, as QMP reads it."""
        message: dict[str, object] = {"execute": self.execute}
        if self.arguments:
            message["arguments"] = self.arguments
        return json.dumps(message)


@dataclass(frozen=True, slots=True)
class Overlay:
    """What one device gets: the file on top, and what it stands on.

    ``create`` is False where the file is there already (mode ``existing``).
    ``backing_file`` is the name that the overlay's header has to hold.
    """

    device: str
    file: str
    format: str
    create: bool
    virtual_size: int
    base_node: str
    backing_file: str
    backing_format: str
    node: str = ""
    file_node: str = ""


@dataclass(frozen=True)
class Script:
    """The commands of a plan: those that prepare, then the one that switches."""

    overlays: tuple[Overlay, ...]
    prepare: tuple[Command, ...]
    switch: Command

    @property
    def commands(self) -> tuple[Command, ...]:
        """All commands in the order in which they are sent."""
        return (*self.prepare, self.switch)
