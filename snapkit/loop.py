"""The one thread that owns the event loop.

All traffic with VMs lives on this loop. Cells, scripts and callbacks hand work to it, from
whichever thread and whichever loop they run on. That is the one arrangement that behaves the
same in every ipykernel, where a callback may run in the main thread or in a subshell.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

__all__ = ["call", "submit"]

T = TypeVar("T")


class _LoopThread:
    """A daemon thread that runs one asyncio loop for the life of the process."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.loop = asyncio.SelectorEventLoop(self.selector)
        self.thread = threading.Thread(
            target=self.loop.run_forever, name="snapkit-loop", daemon=True
        )
        self.thread.start()


# Work may be submitted by what the garbage collector clears up, at any moment.
_lock = threading.RLock()
_current: _LoopThread | None = None
_of_parents: list[_LoopThread] = []
"""Kept, because a loop that is thrown away closes what belongs to it."""
_running: set[Future[Any]] = set()
"""Held until it is done: the loop itself does not hold on to work that waits."""


def _forget() -> None:
    """Begin anew in a forked child: neither the thread nor its hold on the lock came along."""
    global _lock, _current  # noqa: PLW0603  one per process is the point of this module
    _lock = threading.RLock()
    if _current is not None:
        # What is taken out of the selector in the child would be missing in the parent's too:
        # they are one. Closed here, it is out of the child's reach.
        _current.selector.close()
        _of_parents.append(_current)
        _current = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _loop_thread() -> _LoopThread:
    """The process's loop thread, started when it is first needed."""
    global _current  # noqa: PLW0603  one per process is the point of this module
    with _lock:
        if _current is None:
            _current = _LoopThread()
        return _current


def submit(work: Coroutine[Any, Any, T]) -> Future[T]:
    """Start ``work`` on the loop and return at once. For callbacks."""
    future = asyncio.run_coroutine_threadsafe(work, _loop_thread().loop)
    _running.add(future)
    future.add_done_callback(_running.discard)
    return future


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
