"""Endpoints as people write them: a UNIX socket, a TCP port, or a libvirt URI."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from ipaddress import ip_address

from snapkit.errors import ConnectError
from snapkit.printable import printable

__all__ = ["Address", "LibvirtAddress", "TcpAddress", "UnixAddress", "parse"]

_HOST_PORT = re.compile(r"(?P<host>\[[^\[\]]+\]|[^:/\[\]\s]*):(?P<port>[0-9]{1,5})")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# QEMU's own options behind the address, as in -qmp unix:/run/vm.qmp,server=on,wait=off
_QEMU_OPTIONS = re.compile(r",(server|wait|nowait|nodelay|reconnect|id)\b.*$", re.DOTALL)
_HELP = 'Write "unix:/path/to/socket", a path, "tcp:host:port" or "host:port"'


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A QMP monitor on a UNIX socket."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A QMP monitor on a TCP port."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether only this host can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp:{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class LibvirtAddress:
    """A libvirt connection."""

    uri: str

    def __str__(self) -> str:
        return self.uri


Address = UnixAddress | TcpAddress | LibvirtAddress


def parse(uri: str | os.PathLike[str]) -> Address:
    """Read an endpoint.

    Raises ConnectError when it is none, and says how one is written.
    """
    if not isinstance(uri, str | os.PathLike):
        msg = f"An endpoint is text, not {type(uri).__name__}. {_HELP}."
        raise ConnectError(msg)
    if isinstance(uri, os.PathLike):
        return _unix(_without_nul(os.fsdecode(uri)))
    text = _without_nul(uri.strip())
    if not text:
        msg = f"The endpoint is empty. {_HELP}."
        raise ConnectError(msg)
    if text.startswith("unix:"):
        return _unix(text.removeprefix("unix:"))
    if text.startswith("tcp:"):
        return _tcp(text.removeprefix("tcp:").removeprefix("//"))
    if _URI.match(text):
        return LibvirtAddress(text)
    if ":" in text and "/" not in text:
        return _tcp(text)
    return _unix(text)


def _without_nul(text: str) -> str:
    if "\0" in text:
        msg = f"The endpoint {printable(text)} holds a NUL character. {_HELP}."
        raise ConnectError(msg)
    return text


def _unix(path: str) -> UnixAddress:
    if not os.path.exists(path):
        path = _QEMU_OPTIONS.sub("", path)
    if not path:
        msg = f"The endpoint names no path. {_HELP}."
        raise ConnectError(msg)
    try:
        return UnixAddress(os.path.abspath(os.path.expanduser(path)))
    except FileNotFoundError:
        msg = f"{path!r} is a relative path, and the working directory is gone. Give a full path."
        raise ConnectError(msg) from None


def _tcp(text: str) -> TcpAddress:
    address, _, _ = text.partition(",")
    match = _HOST_PORT.fullmatch(address)
    if match is None or not 0 < int(match["port"]) < 65536:
        msg = f"{printable(repr(text))} is no host and port. {_HELP}."
        raise ConnectError(msg)
    # QEMU listens everywhere where no host is named; from here, that is this host.
    return TcpAddress(match["host"].strip("[]") or "localhost", int(match["port"]))
