"""How the suite interferes with a run, and what a run says that was undone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

UNDONE = "Everything was undone: no device was switched, and no file of this run is left."


def at(phase: str, action: Callable[[], Any]) -> Callable[[str], None]:
    """A progress function that acts when a phase begins."""

    def progress(now: str) -> None:
        if now == phase:
            action()

    return progress
