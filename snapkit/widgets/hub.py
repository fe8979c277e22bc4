"""Who is told of changes, and which answers come too late to count."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Literal

from snapkit.widgets.work import Work

__all__ = ["Hub", "Listener", "Topic"]

Topic = Literal["connection", "endpoints", "devices", "targets", "plan", "run"]
Listener = Callable[[frozenset[str]], None]
"""Is told the topics that changed, in the thread that changed them, under the lock."""


class Hub:
    """A lock, listeners, work in progress, and numbers that tell new answers from old ones.

    The lock is held for changes of state, and while listeners are told of them, so that
    traits are never set by two threads at once. It is never held while waiting.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.work = Work()
        self._listeners: list[Listener] = []
        self._latest: Counter[str] = Counter()

    def subscribe(self, listener: Listener) -> None:
        """Tell ``listener`` of every change from now on."""
        with self.lock:
            self._listeners.append(listener)

    def unsubscribe(self, listener: Listener) -> None:
        """Tell ``listener`` no more. One that was never told is no error."""
        with self.lock:
            self._listeners = [known for known in self._listeners if known != listener]

    def tell(self, *topics: Topic) -> None:
        """Tell all listeners that something changed. For holders of the lock."""
        for listener in tuple(self._listeners):
            listener(frozenset(topics))

    def ticket(self, kind: str) -> int:
        """A number for the newest piece of work of a kind. From now on older ones are late."""
        with self.lock:
            self._latest[kind] += 1
            return self._latest[kind]

    def latest(self, kind: str) -> int:
        """The number of the newest piece of work of a kind."""
        return self._latest[kind]

    def is_late(self, kind: str, ticket: int) -> bool:
        """Whether newer work of that kind has been begun."""
        return self._latest[kind] != ticket

    def wait(self, timeout: float = 60) -> None:
        """Return when all pending work is done. Raises TimeoutError."""
        self.work.wait(timeout)
