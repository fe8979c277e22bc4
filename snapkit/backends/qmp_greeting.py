"""What is at the other end of a monitor: QEMU's version, its commands, and the VM's name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from snapkit.backends.qmp_json import number, record, rows, text

__all__ = ["Introduction", "ask"]


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a monitor says of itself."""

    version: str
    name: str
    commands: frozenset[str]


async def ask(execute: Callable[[str], Awaitable[Any]]) -> Introduction:
    """Ask a monitor. Raises Malformed, and what ``execute`` raises."""
    listed = rows(await execute("query-commands"), "query-commands")
    commands = frozenset(text(row, "name") for row in listed)
    told = record(await execute("query-version"), "query-version")
    version = record(told.get("qemu"), "query-version")
    numbers = (str(number(version, name)) for name in ("major", "minor", "micro"))
    name = ""
    if "query-name" in commands:
        name = text(record(await execute("query-name"), "query-name"), "name", "")
    return Introduction(".".join(numbers), name, commands)
