"""What a VM has reported, kept within bounds."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from snapkit.backends.base import Event

__all__ = ["EventLog"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class EventLog:
    """The newest events: at most ``count`` of them, and ``size`` bytes as QMP sent them.

    Filled on the loop's thread and read on any other.
    """

    def __init__(self, count: int = 10_000, size: int = 16 * 1024 * 1024) -> None:
        self._count = count
        self._size = size
        self._kept: deque[tuple[Event, int]] = deque()
        self._bytes = 0
        self._lock = threading.Lock()

    def add(self, message: Mapping[str, Any], size: int) -> str:
        """Keep a QMP event that took ``size`` bytes, and return its name."""
        name, data = str(message.get("event", "")), message.get("data", {})
        event = Event(_time(message.get("timestamp")), name, data if _is_object(data) else {})
        with self._lock:
            self._kept.append((event, size))
            self._bytes += size
            while len(self._kept) > self._count or self._bytes > self._size:
                _, freed = self._kept.popleft()
                self._bytes -= freed
        return name

    def read(self) -> tuple[Event, ...]:
        """The events, oldest first."""
        with self._lock:
            return tuple(event for event, _ in self._kept)


def _is_object(value: object) -> bool:
    return isinstance(value, Mapping)


def _time(stamp: Any) -> datetime:
    """When QEMU says it was; now, where QEMU does not know."""
    try:
        whole = timedelta(seconds=stamp["seconds"], microseconds=stamp["microseconds"])
        said = _EPOCH + whole
    except (TypeError, KeyError, OverflowError, ValueError):
        return datetime.now(UTC)
    # QEMU says -1 where its host has no clock.
    return said if said >= _EPOCH else datetime.now(UTC)
