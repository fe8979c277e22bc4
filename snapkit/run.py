"""What a user holds of a run: its phases, and the handle to wait for it or to stop it."""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401  it has to register its end before this module
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future

from snapkit.model import Outcome

__all__ = ["PHASES", "Phase", "Progress", "Run"]

PHASES = {
    "journal": "Writing the plan into the journal",
    "observe": "Reading the block graph",
    "check": "Checking every target again",
    "prepare": "Creating and opening the overlays",
    "flush": "Writing out what the host's cache holds of the disks",
    "switch": "Switching all devices at one instant",
    "verify": "Looking at what the VM shows now",
    "undo": "Removing what this run made",
}


class Phase(str):
    """The name of a phase; ``text`` says in words what is being done."""

    __slots__ = ()

    @property
    def text(self) -> str:
        """One sentence for people."""
        return PHASES[self]


Progress = Callable[[Phase], None]


class Run:
    """A run that was started. ``future`` holds its outcome."""

    def __init__(self) -> None:
        self.future: Future[Outcome] = Future()
        # A future that is running cannot be cancelled: what a run has begun, it ends.
        self.future.set_running_or_notify_cancel()
        self._cancel = threading.Event()
        _under_way.add(self)
        self.future.add_done_callback(lambda _: _under_way.discard(self))

    def cancel(self) -> None:
        """Stop before the switch and undo. After the switch this does nothing."""
        self._cancel.set()

    @property
    def cancelled(self) -> bool:
        """Whether a stop was asked for."""
        return self._cancel.is_set()

    def result(self) -> Outcome:
        """Wait for the end and return the outcome, or raise what the run raised.

        Interrupted, it stops the run if it can still be stopped, waits for it to be undone
        or finished, and only then raises KeyboardInterrupt, with a note if it was too late.
        """
        try:
            return self.future.result()
        except KeyboardInterrupt as interrupt:
            self.cancel()
            if self.future.exception() is None:
                interrupt.add_note("It was too late to stop: the snapshot was taken, as planned.")
            raise


_under_way: set[Run] = set()


def _finish_all() -> None:
    """A process that ends waits for what it has begun, as it waits for its threads."""
    for run in tuple(_under_way):
        run.future.exception()


if hasattr(os, "register_at_fork"):
    # The parent's runs end in the parent.
    os.register_at_fork(after_in_child=_under_way.clear)
# The threads that a run needs are gone before "atexit" is, so that would be too late. What is
# registered here runs in reverse order: after concurrent.futures has registered its own.
getattr(threading, "_register_atexit", atexit.register)(_finish_all)
