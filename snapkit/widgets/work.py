"""Work that panels have begun on snapkit's loop, and where its failures go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from functools import partial
from typing import Any

from snapkit import loop

__all__ = ["Report", "Work"]

Report = Callable[[BaseException], None]
"""Where the failure of a piece of work is shown."""


class Work:
    """What has been begun and has not ended. Nothing here ever waits for it but ``wait``."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._pending: set[Future[None]] = set()
        self._unreported: list[BaseException] = []

    def start(self, work: Coroutine[Any, Any, None], report: Report) -> None:
        """Begin ``work`` on the loop and return at once. If it fails, ``report`` is told."""
        with self._changed:
            future = loop.submit(work)
            self._pending.add(future)
        future.add_done_callback(partial(self._ended, report))

    def _ended(self, report: Report, future: Future[None]) -> None:
        try:
            if (error := future.exception()) is not None:
                report(error)
        except BaseException as error:  # noqa: BLE001  kept for wait(): no failure is homeless
            self._unreported.append(error)
        finally:
            with self._changed:
                self._pending.discard(future)
                self._changed.notify_all()

    def wait(self, timeout: float) -> None:
        """Return when everything that was begun has ended, and what that began in turn.

        Raises TimeoutError after ``timeout`` seconds, and what a report raised.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: not self._pending, timeout):
                msg = f"the panels are still at work after {timeout:g} seconds"
                raise TimeoutError(msg)
        if self._unreported:
            raise self._unreported.pop(0)
