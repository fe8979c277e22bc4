"""Connections to libvirt: its event loop, opening, calling, and telling how a call failed.

libvirt's calls block, so each runs in a thread of its own. Only this module imports libvirt.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from snapkit.backends import libvirt_errors
from snapkit.backends.base import LinkLost, Refused
from snapkit.errors import ConnectError
from snapkit.printable import printable

__all__ = ["Connection", "load", "load_qemu"]

T = TypeVar("T")

_INSTALL = (
    "libvirt's Python module is not installed: pip install 'snapkit[libvirt]', which needs "
    "libvirt-dev, pkg-config, gcc and python3-dev (apt-get install them first)"
)
_KEEPALIVE_SECONDS = 5
_KEEPALIVE_MISSED = 3
"""After so many questions without an answer a connection is given up."""
_READ_SECONDS = 30.0

_log = logging.getLogger(__name__)
_lock = threading.Lock()
_runs_in: int | None = None
"""The process in which libvirt's event loop runs."""


def load() -> Any:
    """The module ``libvirt``. Raises ConnectError where it is not installed."""
    try:
        import libvirt  # type: ignore[import-untyped]
    except ImportError as err:
        # A module that is there and cannot be loaded says which library is missing.
        what = _INSTALL if isinstance(err, ModuleNotFoundError) else str(err)
        msg = f"libvirt cannot be used here. {what}."
        raise ConnectError(msg) from None
    return libvirt


def load_qemu() -> Any:
    """The module ``libvirt_qemu``, which comes with ``libvirt``."""
    import libvirt_qemu  # type: ignore[import-untyped]

    return libvirt_qemu


def _with_event_loop() -> Any:
    """The module, its event loop running. It has to run before the first connection is made."""
    global _runs_in  # noqa: PLW0603  libvirt has one event loop a process
    libvirt = load()
    with _lock:
        if _runs_in != os.getpid():
            # What it would print to stderr, it raises too.
            libvirt.registerErrorHandler(_say_nothing, None)
            libvirt.virEventRegisterDefaultImpl()
            threading.Thread(
                target=_run_events, args=(libvirt,), name="snapkit-libvirt", daemon=True
            ).start()
            _runs_in = os.getpid()
    return libvirt


def _say_nothing(*_: object) -> None:
    pass


def _run_events(libvirt: Any) -> None:
    while True:
        with suppress(libvirt.libvirtError):
            libvirt.virEventRunDefaultImpl()


class Connection:
    """One connection to a libvirt, made by ``open``. ``readonly`` says what libvirt allows."""

    def __init__(self, uri: str, handle: Any, *, readonly: bool) -> None:
        self.uri = uri
        self.readonly = readonly
        self._handle = handle
        self._pid = os.getpid()
        self._libvirt = load()
        _open_here.add(self)

    @classmethod
    async def open(cls, uri: str, timeout: float, *, readonly: bool) -> Connection:
        """Connect within ``timeout`` seconds (``virConnectOpenReadOnly``, ``virConnectOpen``).

        Where a libvirt has no way in for readers only, the connection may write, and
        ``readonly`` says so. Raises ConnectError.
        """
        libvirt = _with_event_loop()
        if wrong := libvirt_errors.foreign(uri):
            raise ConnectError(wrong)
        where = _without_prompt(uri)
        try:
            handle = await _bounded(lambda: _open(libvirt, where, readonly=readonly), timeout)
        except libvirt.libvirtError as err:
            if readonly and _has_no_readers_way(str(err)):
                _log.info("%s has no read-only socket: the connection may write", printable(uri))
                return await cls.open(uri, timeout, readonly=False)
            raise ConnectError(libvirt_errors.connecting(uri, str(err))) from None
        except TimeoutError:
            msg = (
                f"{printable(uri)} did not answer within {timeout:g} s. Is the host up, and does "
                "libvirt run there? Try a longer timeout."
            )
            raise ConnectError(msg) from None
        return cls(uri, handle, readonly=readonly)

    @property
    def handle(self) -> Any:
        """The ``virConnect``. Raises LinkLost once it is closed, and in a forked process."""
        if self._pid != os.getpid():
            msg = (
                f"The connection to {printable(self.uri)} belongs to another process. "
                "Connect again."
            )
            raise LinkLost(msg)
        if self._handle is None:
            msg = f"The connection to {printable(self.uri)} is closed. Connect again."
            raise LinkLost(msg)
        return self._handle

    @property
    def alive(self) -> bool:
        """Whether the connection stands. A forked process has none."""
        if self._handle is None or self._pid != os.getpid():
            return False
        try:
            return bool(self._handle.isAlive() == 1)
        except self._libvirt.libvirtError:
            return False

    async def call(self, work: Callable[[Any], T], seconds: float = _READ_SECONDS) -> T:
        """Do blocking work with the ``virConnect``.

        Raises Refused with libvirt's words and a cure, or LinkLost.
        """
        handle = self.handle
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.to_thread(work, handle)
        except TimeoutError:
            msg = (
                f"{printable(self.uri)} did not answer within {seconds:g} s. "
                "Is libvirt's daemon stopped, or its host stuck?"
            )
            raise LinkLost(msg) from None
        except self._libvirt.libvirtError as err:
            raise self.failure(err) from None

    def failure(self, err: Any) -> Refused | LinkLost:
        """What libvirt's error means: it has refused, or the connection has gone."""
        if err.get_error_domain() == self._libvirt.VIR_FROM_RPC or not self.alive:
            return LinkLost(
                f"The connection to {printable(self.uri)} was lost. "
                "Look whether libvirt's daemon runs, and connect again."
            )
        return Refused(libvirt_errors.explained(str(err)))

    def leave_to_parent(self) -> None:
        """In a forked process: a handle that is thrown away would hang up the parent's socket."""
        handle, self._handle = self._handle, None
        if handle is not None:
            # What the handle stands for; without it, it has nothing to close.
            handle._o = None  # noqa: SLF001  libvirt has no other way

    async def close(self) -> None:
        """Close the connection. Safe to call twice; what is another process's stays open."""
        handle, self._handle = self._handle, None
        if handle is not None and self._pid == os.getpid():
            with suppress(self._libvirt.libvirtError):
                await asyncio.to_thread(handle.close)


_open_here: weakref.WeakSet[Connection] = weakref.WeakSet()


def _forget() -> None:
    global _lock  # noqa: PLW0603  a forked child has no thread that could unlock the parent's
    _lock = threading.Lock()
    for connection in tuple(_open_here):
        connection.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _open(libvirt: Any, uri: str, *, readonly: bool) -> Any:
    handle = libvirt.openReadOnly(uri) if readonly else libvirt.open(uri)
    # A driver inside of this process has nobody to ask.
    with suppress(libvirt.libvirtError):
        handle.setKeepAlive(_KEEPALIVE_SECONDS, _KEEPALIVE_MISSED)
    return handle


def _has_no_readers_way(said: str) -> bool:
    """Whether the socket for readers is missing, as with daemons that have only one."""
    return "-sock-ro" in said and "No such file" in said


def _without_prompt(uri: str) -> str:
    """The URI, with which ssh asks nothing where nobody could answer."""
    scheme, _, rest = uri.partition("://")
    interactive = sys.stdin is not None and sys.stdin.isatty()
    if "ssh" not in scheme or "no_tty=" in rest or interactive:
        return uri
    return f"{uri}{'&' if '?' in rest else '?'}no_tty=1"


async def _bounded(work: Callable[[], T], timeout: float) -> T:
    """Work in a thread that nobody waits for when the process ends.

    A connection attempt cannot be called off. Raises TimeoutError.
    """
    done: Future[T] = Future()

    def run() -> None:
        try:
            result = work()
        except BaseException as err:  # noqa: BLE001  whoever waits has to be told
            if not done.cancelled():
                done.set_exception(err)
        else:
            if not done.cancelled():
                done.set_result(result)

    threading.Thread(target=run, name="snapkit-libvirt-open", daemon=True).start()
    async with asyncio.timeout(timeout):
        return await asyncio.wrap_future(done)
