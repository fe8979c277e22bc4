"""Reaching a QMP monitor, and saying in words why it could not be reached."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import stat
from contextlib import suppress
from typing import Any

from snapkit.address import TcpAddress, UnixAddress
from snapkit.backends import host
from snapkit.errors import ConnectError

__all__ = ["establish", "hang_up"]

_HANG_UP_SECONDS = 2.0


async def establish(client: Any, address: UnixAddress | TcpAddress, timeout: float) -> None:
    """Connect a ``QMPClient`` and exchange greetings, all within ``timeout`` seconds.

    Raises ConnectError with the cause and the cure in words.
    """
    reached = False
    try:
        async with asyncio.timeout(timeout):
            sock = await _open(address)
            reached = True
            try:
                await client.connect(sock)
            except BaseException:
                sock.close()
                raise
    except TimeoutError as err:
        await hang_up(client)
        text = await asyncio.to_thread(_silent, address, timeout, reached)
        raise ConnectError(text) from err
    except OSError as err:
        raise ConnectError(_unreachable(address, err)) from err
    except ConnectError:
        raise
    except asyncio.CancelledError:
        await hang_up(client)
        raise
    except Exception as err:
        await hang_up(client)
        raise ConnectError(_no_qmp(address, err)) from err


async def hang_up(client: Any) -> None:
    """Disconnect, whatever state the client is in.

    A connection that broke raises here what broke it; by now that is known.
    """
    with suppress(Exception):
        async with asyncio.timeout(_HANG_UP_SECONDS):
            await client.disconnect()


async def _open(address: UnixAddress | TcpAddress) -> socket.socket:
    loop = asyncio.get_running_loop()
    if isinstance(address, UnixAddress):
        choices: list[tuple[int, Any]] = [(socket.AF_UNIX, address.path)]
    else:
        found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        choices = [(family, where) for family, _, _, _, where in found]
    failure: OSError | None = None
    for family, where in choices:
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
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


def _silent(address: UnixAddress | TcpAddress, timeout: float, reached: bool) -> str:
    if not reached:
        return f"{address} could not be reached within {timeout:g} s. Check host and port."
    where = address.path if isinstance(address, UnixAddress) else (address.host, address.port)
    holder = host.clients(where)
    who = f" ({holder.program}, pid {holder.pid})" if holder and holder.pid else ""
    return (
        f"{address} accepts the connection but sent no QMP greeting within {timeout:g} s. "
        f"A monitor serves one client at a time: most likely another one{who} is connected. "
        "Close it, or give QEMU a second -qmp."
    )


def _unreachable(address: UnixAddress | TcpAddress, err: OSError) -> str:
    where = address.path if isinstance(address, UnixAddress) else str(address)
    start = f"-qmp {address},server=on,wait=off"
    if isinstance(err, socket.gaierror):
        return f"{address}: the host is not known ({err.strerror}). Check its name."
    if isinstance(address, UnixAddress) and len(os.fsencode(address.path)) > 107:
        return f"{address}: a socket's path holds at most 107 bytes. Use a shorter one."
    if isinstance(err, BlockingIOError):
        return (
            f"{address} takes no more connections: other clients hold it or wait for it. "
            "Close them, or give QEMU a second -qmp."
        )
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
    return f"{address} could not be connected to: {err.strerror or err}."


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
    causes = []
    cause: BaseException | None = err
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = getattr(cause, "exc", None) or getattr(cause, "error", None) or cause.__cause__
    if any(isinstance(c, EOFError | ConnectionError) for c in causes):
        return (
            f"{address} closed the connection before the QMP greeting was complete. "
            "Is it a QMP monitor, and does the VM still run?"
        )
    raw = next((c.raw for c in causes if hasattr(c, "raw")), b"")
    said = re.sub(r"[^\x20-\x7e]", ".", raw[:60].decode(errors="replace"))
    quote = f": it said {said!r}" if said else ""
    if b"QEMU" in raw and b"monitor" in raw:
        return f"{address} is QEMU's human monitor, not QMP. Use the -qmp endpoint."
    return f"{address} does not speak QMP{quote}. Check the endpoint."
