"""A connection to one running domain: made, made again, and told apart from its next start."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from snapkit.backends import libvirt_reader
from snapkit.backends.base import LinkLost, Refused
from snapkit.backends.event_log import EventLog
from snapkit.backends.libvirt_events import Ear
from snapkit.backends.libvirt_link import Connection, load
from snapkit.errors import ConnectError
from snapkit.printable import printable

__all__ = ["Running"]

_POLL_SECONDS = 0.1
_READ_SECONDS = 30.0
_ANOTHER = object()


class Running:
    """One start of a domain. What libvirt calls by the same name later is another one.

    ``lost`` is True from when a connection to it was lost until somebody has made sure that
    libvirt still knows what the domain's QEMU does. ``timeout`` is that of each connection.
    """

    def __init__(self, uri: str, timeout: float) -> None:
        self.uri = uri
        self.name = ""
        self.uuid = ""
        self.lost = False
        self.events = EventLog()
        self._id = -1
        self._libvirt = load()
        self._timeout = timeout
        self._link: Connection | None = None
        self._ear = Ear(self.events)
        self._domain: Any = None
        self._let_go: Any = None

    @property
    def where(self) -> str:
        """The endpoint, fit for a message."""
        return printable(self.uri)

    @property
    def connected(self) -> bool:
        """Whether the connection stands and the domain runs. A forked process has none."""
        return self._link is not None and self._link.alive and not self._ear.ended

    @property
    def ended(self) -> bool:
        """Whether libvirt has said that the domain has ended."""
        return self._ear.ended

    async def connect(self, timeout: float, domain: str | None) -> None:
        """Connect for reading, find the domain, and listen to it.

        Raises ConnectError or Refused.
        """
        link = await Connection.open(self.uri, timeout, readonly=True)
        try:
            found = await link.call(
                lambda handle: libvirt_reader.choose(self._libvirt, handle, domain)
            )
            self.uuid, self._id, self.name = found.UUIDString(), found.ID(), found.name()
            await link.call(lambda handle: self._ear.listen(self._libvirt, handle, found))
        except libvirt_reader.Missing as err:
            await link.close()
            msg = f"{self.where}: {err}"
            raise ConnectError(msg) from None
        except BaseException:
            await link.close()
            raise
        self._link, self._domain = link, found
        # libvirt holds a connection to which somebody listens.
        self._let_go = weakref.finalize(self, _let_go_soon, self._libvirt, link, self._ear)
        self._let_go.atexit = False

    async def close(self) -> None:
        """Close the connection. Safe to call twice."""
        link, self._link, self._domain = self._link, None, None
        if link is None:
            return
        self._let_go.detach()
        if link.alive:
            await asyncio.to_thread(self._ear.stop, self._libvirt, link.handle)
        await link.close()

    async def reconnect(self, timeout: float, is_gone: Callable[[], bool]) -> None:
        """Connect again to the same start. Raises ConnectError after ``timeout`` seconds."""
        await self.close()
        self.lost = True
        before = self.uuid, self._id
        deadline = time.monotonic() + timeout
        while True:
            left = max(deadline - time.monotonic(), _POLL_SECONDS)
            try:
                await self.connect(left, before[0])
            except (Refused, ConnectError) as err:
                if time.monotonic() >= deadline or is_gone():
                    raise ConnectError(str(err)) from err
                await asyncio.sleep(_POLL_SECONDS)
            else:
                break
        if before != (self.uuid, self._id) or is_gone():
            self.uuid, self._id = before
            self._ear.ended = True
            await self.close()
            msg = (
                f"{self.where}: the domain {self.name} was started anew, so it is another VM "
                "now. Connect again."
            )
            raise ConnectError(msg)

    async def call(self, work: Callable[[Any, Any, Any], Any]) -> Any:
        """Do blocking work with libvirt, the connection, and the domain.

        Raises Refused, or LinkLost, also where the domain has ended.
        """
        link, domain = self._link, self._domain
        if link is None:
            msg = f"The connection to {self.where} is closed. Connect again."
            raise LinkLost(msg)
        try:
            return await link.call(
                lambda handle: work(self._libvirt, handle, domain), _READ_SECONDS
            )
        except LinkLost:
            self.lost = True
            raise
        except Refused:
            if not await self._runs(link, domain):
                raise LinkLost(self._has_ended()) from None
            raise

    def expect(self, number: int | None) -> None:
        """Raises LinkLost if a reading of that id is not of this start of the domain."""
        if number != self._id:
            self._ear.ended = True
            raise LinkLost(self._has_ended())

    async def _runs(self, link: Connection, domain: Any) -> bool:
        """Whether the domain runs, of which libvirt has just refused something."""
        try:
            found = await link.call(lambda _: domain.ID() if domain.isActive() else -1)
        except Refused:
            # The one that libvirt does not know any more is a transient domain that has ended.
            found = -1
        except LinkLost:
            self.lost = True
            return True
        self._ear.ended = self._ear.ended or found != self._id
        return not self._ear.ended

    def _has_ended(self) -> str:
        return f"The domain {self.name} at {self.where} has ended. Start it, and connect again."

    async def writer(self) -> Connection:
        """A connection that may change the domain. Raises ConnectError."""
        return await Connection.open(self.uri, self._timeout, readonly=False)

    async def change(
        self, writer: Connection, work: Callable[[Any, Any], Any], seconds: float = _READ_SECONDS
    ) -> Any:
        """Do blocking work with the domain over a connection that may change it.

        Raises Refused or LinkLost; the first also where it is another start of the domain.
        """

        def do(handle: Any) -> Any:
            domain = handle.lookupByUUIDString(self.uuid)
            return _ANOTHER if domain.ID() != self._id else work(self._libvirt, domain)

        try:
            result = await writer.call(do, seconds)
        except LinkLost:
            self.lost = True
            raise
        if result is _ANOTHER:
            self._ear.ended = True
            raise Refused(self._has_ended().rstrip("."))
        return result


def _let_go_soon(libvirt: Any, link: Connection, ear: Ear) -> None:
    """Close what was thrown away without being closed, where nobody has to wait for it."""
    if link.alive:
        threading.Thread(target=_let_go, args=(libvirt, link, ear), daemon=True).start()


def _let_go(libvirt: Any, link: Connection, ear: Ear) -> None:
    ear.stop(libvirt, link.handle)
    asyncio.run(link.close())
