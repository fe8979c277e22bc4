"""Reaching a QMP monitor, and saying in words why it could not be reached."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from snapkit.address import TcpAddress, UnixAddress
from snapkit.backends import host
from snapkit.errors import ConnectError
from snapkit.printable import printable

__all__ = ["establish", "hang_up"]

_HANG_UP_SECONDS = 2.0
_KNOCK_AGAIN_SECONDS = 0.05


async def establish(
    client: Any, address: UnixAddress | TcpAddress, timeout: float
) -> socket.socket:
    """Connect a ``QMPClient`` and exchange greetings, all within ``timeout`` seconds.

    Returns the connection. Raises ConnectError with the cause and the cure in words.
    """
    connection: socket.socket | None = None
    # None of the causes is kept: one of them quotes all that the server sent, megabytes of it.
    try:
        async with asyncio.timeout(timeout):
            connection = await _open(address)
            await client.connect(connection)
    except TimeoutError:
        reached = connection is not None
        await hang_up(client, connection)
        if reached:
            raise ConnectError(await asyncio.to_thread(_silent, address, timeout)) from None
        raise ConnectError(await asyncio.to_thread(_not_reached, address, timeout)) from None
    except (OSError, UnicodeError) as err:
        raise ConnectError(_unreachable(address, err)) from None
    except Exception as err:  # noqa: BLE001  qemu.qmp lets through whatever JSON can raise
        await hang_up(client, connection)
        raise ConnectError(_no_qmp(address, err)) from None
    except BaseException:
        await hang_up(client, connection)
        raise
    return connection


async def hang_up(client: Any, connection: socket.socket | None) -> None:
    """Disconnect, whatever state the client is in, and whether or not the peer takes notice.

    A connection that broke raises here what broke it; by now that is known.
    """
    if connection is not None:
        # Ends the client's reading and writing, which it would otherwise wait for.
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
    with suppress(Exception):
        async with asyncio.timeout(_HANG_UP_SECONDS):
            await client.disconnect()
    if connection is not None:
        connection.close()


async def _open(address: UnixAddress | TcpAddress) -> socket.socket:
    loop = asyncio.get_running_loop()
    if isinstance(address, UnixAddress):
        return await _open_unix(address.path)
    found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    failure: OSError | None = None
    for family, _, _, _, where in found:
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)  # noqa: FBT003  the standard library's own
        try:
            await loop.sock_connect(sock, where)
        except OSError as err:
            sock.close()
            failure = err
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure or OSError(errno.EADDRNOTAVAIL, "no address found")


async def _open_unix(path: str) -> socket.socket:
    """Connect at once, or wait while the queue of those who want to is full.

    That is not an operation in progress, for which asyncio takes it.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)  # noqa: FBT003  the standard library's own
    try:
        while True:
            try:
                sock.connect(path)
            except BlockingIOError:
                await asyncio.sleep(_KNOCK_AGAIN_SECONDS)
            else:
                return sock
    except BaseException:
        sock.close()
        raise


def _silent(address: UnixAddress | TcpAddress, timeout: float) -> str:
    where = printable(address)
    start = f"{where} accepts the connection but sent no QMP greeting within {timeout:g} s."
    return f"{start} {_busy(address)}"


def _not_reached(address: UnixAddress | TcpAddress, timeout: float) -> str:
    where = printable(address)
    if isinstance(address, TcpAddress):
        return f"{where} could not be reached within {timeout:g} s. Check host and port."
    start = f"{where} took no further connection within {timeout:g} s: others wait for it already."
    return f"{start} {_busy(address)}"


def _busy(address: UnixAddress | TcpAddress) -> str:
    """Who keeps a monitor busy, as far as that is known, and what to do."""
    where = address.path if isinstance(address, UnixAddress) else (address.host, address.port)
    holder = host.clients(where)
    if holder is None or holder.pid is None:
        return (
            "A QMP monitor that is busy with another client does this, and so does a QEMU that "
            "is stopped, and what is no monitor at all."
        )
    start = "It is busy: a monitor serves one client at a time"
    if holder.pid == os.getpid():
        return f"{start}, and this very process is connected. Close that VirtualMachine first."
    who = f"{printable(holder.program)} (pid {holder.pid})"
    if host.listener(where) is None:
        return (
            f"Either it is no QMP monitor, or it is busy: a monitor serves one client at a time, "
            f"and {who} is connected."
        )
    return f"{start}, and {who} is connected. Close it, or give QEMU a second -qmp."


def _unreachable(address: UnixAddress | TcpAddress, err: OSError | UnicodeError) -> str:
    uri = printable(address)
    where = printable(address.path) if isinstance(address, UnixAddress) else uri
    start = f"-qmp {uri},server=on,wait=off"
    if isinstance(address, UnixAddress) and len(os.fsencode(address.path)) > 107:
        return f"{uri}: a socket's path holds at most 107 bytes. Use a shorter one."
    if isinstance(err, socket.gaierror | UnicodeError):
        reason = getattr(err, "strerror", None) or "no valid name"
        return f"{uri}: the host is not known ({reason}). Check its name."
    if isinstance(err, FileNotFoundError):
        return f"There is no socket {where}. Is the VM running, with {start}?"
    if isinstance(err, ConnectionRefusedError):
        what = f"{where} is no socket" if _is_other(address) else f"Nothing listens on {where}"
        return f"{what}. Is the VM running, with {start}?"
    if isinstance(err, PermissionError):
        return (
            f"{where} may not be opened by this user. "
            "Run as the user that QEMU runs as, or have the socket's permissions changed."
        )
    return f"{uri} could not be connected to: {err.strerror or err}."


def _is_other(address: UnixAddress | TcpAddress) -> bool:
    if not isinstance(address, UnixAddress):
        return False
    try:
        return not os.path.exists(address.path) or not _is_socket(address.path)
    except OSError:
        return False


def _is_socket(path: str) -> bool:
    return stat.S_ISSOCK(os.stat(path).st_mode)


def _no_qmp(address: UnixAddress | TcpAddress, err: Exception) -> str:
    """What a server that is no QMP server said, cut short and made printable."""
    where = printable(address)
    causes = list(_causes(err))
    raw = next((cause.raw for cause in causes if hasattr(cause, "raw")), b"")
    if not raw and any(isinstance(cause, EOFError | ConnectionError) for cause in causes):
        return (
            f"{where} closed the connection before the QMP greeting was complete. "
            "Is it a QMP monitor, and does the VM still run?"
        )
    if b"QEMU" in raw and b"monitor" in raw:
        return f"{where} is QEMU's human monitor, not QMP. Use the -qmp endpoint."
    said = printable(raw[:60].decode(errors="replace").rstrip(), 60)
    quote = f": it said {said!r}" if said else ""
    return f"{where} does not speak QMP{quote}. Check the endpoint."


def _causes(err: BaseException) -> Iterator[BaseException]:
    """An error and what it wraps, which qemu.qmp does in more than one way."""
    seen: list[BaseException] = []
    cause: BaseException | None = err
    while cause is not None and cause not in seen:
        seen.append(cause)
        yield cause
        cause = getattr(cause, "exc", None) or getattr(cause, "error", None) or cause.__cause__
