"""The one thread that owns the event loop.

All traffic with VMs lives on this loop. Cells, scripts and callbacks hand work to it, from
whichever thread and whichever loop they run on. That is the one arrangement that behaves the
same in every ipykernel, where a callback may run in the main thread or in a subshell.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

__all__ = ["call", "submit"]

T = TypeVar("T")


class _LoopThread:
    """A daemon thread that runs one asyncio loop for the life of the process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(
            target=self.loop.run_forever, name="snapkit-loop", daemon=True
        )
        self.thread.start()


_lock = threading.Lock()
_current: _LoopThread | None = None


def _loop_thread() -> _LoopThread:
    """The process's loop thread. A forked child gets its own: threads do not survive a fork."""
    global _current  # noqa: PLW0603  one per process is the point of this module
    with _lock:
        if _current is None or _current.pid != os.getpid():
            _current = _LoopThread()
        return _current


def submit(work: Coroutine[Any, Any, T]) -> Future[T]:
    """Start ``work`` on the loop and return at once. For callbacks."""
    return asyncio.run_coroutine_threadsafe(work, _loop_thread().loop)


def call(work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
    """Run ``work`` on the loop and return its result. For cells and scripts.

    Interrupted or timed out, the work is cancelled: use this for reading only, and
    ``submit`` for what must not be cut off half-way.

    Raises RuntimeError when called on the loop's own thread, where waiting would never end.
    """
    owner = _loop_thread()
    if threading.current_thread() is owner.thread:
        work.close()
        msg = "call() on the loop's own thread would wait for itself: await the work instead"
        raise RuntimeError(msg)
    future = submit(work)
    try:
        return future.result(timeout)
    except BaseException:
        future.cancel()
        raise
