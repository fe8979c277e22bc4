"""Events of a libvirt domain, written down as they come. libvirt calls from its own thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from snapkit.backends.event_log import EventLog

__all__ = ["Ear"]

_LIFECYCLE = (
    "defined undefined started suspended resumed stopped shutdown pmsuspended crashed"
).split()
_ENDED = frozenset(("stopped", "crashed"))

_FIELDS = {
    "LIFECYCLE": ("event", "detail"),
    "REBOOT": (),
    "IO_ERROR_REASON": ("path", "device", "action", "reason"),
    "BLOCK_JOB_2": ("device", "type", "status"),
    "BLOCK_THRESHOLD": ("device", "path", "threshold", "excess"),
    "DISK_CHANGE": ("old_path", "new_path", "device", "reason"),
    "TRAY_CHANGE": ("device", "reason"),
    "DEVICE_ADDED": ("device",),
    "DEVICE_REMOVED": ("device",),
    "JOB_COMPLETED": ("parameters",),
    "AGENT_LIFECYCLE": ("state", "reason"),
    "METADATA_CHANGE": ("type", "uri"),
}
"""``VIR_DOMAIN_EVENT_ID_*``, and what its callback is given."""
_SIZE = 256
"""What an event counts for in the log, in bytes."""


class Ear:
    """What hears of one domain. ``ended`` is True once the domain has stopped."""

    def __init__(self, log: EventLog) -> None:
        self.ended = False
        self._log = log
        self._heard: list[int] = []

    def listen(self, libvirt: Any, handle: Any, domain: Any) -> None:
        """Have libvirt tell (``virConnectDomainEventRegisterAny``). Blocks.

        What a driver does not tell is left out.
        """
        for name, fields in _FIELDS.items():
            number = getattr(libvirt, f"VIR_DOMAIN_EVENT_ID_{name}", None)
            if number is None:
                continue
            with suppress(libvirt.libvirtError):
                told = self._teller(name, fields)
                self._heard.append(handle.domainEventRegisterAny(domain, number, told, None))

    def stop(self, libvirt: Any, handle: Any) -> None:
        """Hear no more. Blocks."""
        while self._heard:
            with suppress(libvirt.libvirtError):
                handle.domainEventDeregisterAny(self._heard.pop())

    def _teller(self, name: str, fields: Sequence[str]) -> Callable[..., None]:
        def tell(_connection: object, _domain: object, *values: object) -> None:
            self.tell(name, dict(zip(fields, values, strict=False)))

        return tell

    def tell(self, name: str, data: dict[str, Any]) -> None:
        """Write an event down; it bears no time, so that is now."""
        if name == "LIFECYCLE":
            data["event"] = _word(data.get("event"))
            # An event of the next start must not hide that this one has ended.
            self.ended = self.ended or data["event"] in _ENDED
        now = time.time_ns()
        stamp = {"seconds": now // 10**9, "microseconds": now // 1000 % 10**6}
        self._log.add({"event": name, "data": data, "timestamp": stamp}, _SIZE)


def _word(number: object) -> str:
    if isinstance(number, int) and 0 <= number < len(_LIFECYCLE):
        return _LIFECYCLE[number]
    return str(number)
