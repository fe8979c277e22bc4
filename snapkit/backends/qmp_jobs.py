"""Waiting for jobs of a VM by its events, so that it is not asked more often than it must be."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

__all__ = ["JobWatch"]

_ASK_AGAIN_SECONDS = 1.0
"""Events are not resent: what was missed has to be asked for."""


class JobWatch:
    """Which jobs have concluded, as far as ``JOB_STATUS_CHANGE`` has told."""

    def __init__(self) -> None:
        self._concluded: set[str] = set()
        self._changed = asyncio.Event()

    def tell(self, data: object) -> None:
        """What an event said."""
        if not isinstance(data, Mapping):
            return
        name, status = str(data.get("id")), data.get("status")
        if status == "concluded":
            self._concluded.add(name)
            self._changed.set()
        elif status in {"null", "created"}:
            self._concluded.discard(name)

    async def wait(self, names: Iterable[str]) -> None:
        """Until all these have concluded, or it is time to ask again."""
        wanted = set(names)
        try:
            async with asyncio.timeout(_ASK_AGAIN_SECONDS):
                while not wanted <= self._concluded:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return
