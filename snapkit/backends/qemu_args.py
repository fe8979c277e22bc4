"""What a QEMU command line says about the program's monitors. Pure functions of the words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os.path import basename

__all__ = ["Endpoint", "endpoints", "guest_name", "options", "split_program"]

_PROGRAM = re.compile(r"\.?(qemu|qemu-kvm|kvm|qemu-system-[\w.-]+|qemu-storage-daemon)")
_LOADER = re.compile(r"ld-[\w.-]*\.so[\w.]*")
_STORAGE_DAEMON = "qemu-storage-daemon"
_TRUE = frozenset(("on", "yes", "true", "y"))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a QMP monitor listens, in the words of the command line.

    One of ``path`` (perhaps relative), ``port`` with ``host``, and ``fd`` is given.
    ``last_port`` is above ``port`` where QEMU may take the next free one.
    ``chardev`` is the id of the character device, empty in the short form.
    """

    path: str = ""
    host: str = ""
    port: str = ""
    last_port: int = 0
    fd: int | None = None
    chardev: str = ""


def split_program(argv: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The name of the QEMU program and its arguments; ("", ()) if it is another program.

    A program that was started through a dynamic loader of its own counts too.
    """
    if not argv:
        return "", ()
    position = 0
    if _LOADER.fullmatch(basename(argv[0])):
        position = next((i for i, word in enumerate(argv) if _PROGRAM.fullmatch(basename(word))), 0)
    found = _PROGRAM.fullmatch(basename(argv[position]))
    return (found.group(1), argv[position + 1 :]) if found else ("", ())


def options(text: str, first: str = "") -> dict[str, str]:
    """QEMU's ``key=value,flag,noflag`` list as a mapping; ``,,`` stands for a comma.

    ``first`` is the key of a leading value that has none.
    """
    found: dict[str, str] = {}
    for position, item in enumerate(_items(text)):
        key, equals, value = item.partition("=")
        if equals:
            found[key] = value
        elif position == 0 and first:
            found[first] = item
        elif key.startswith("no"):
            found[key[2:]] = "off"
        else:
            found[key] = "on"
    return found


def _items(text: str) -> list[str]:
    return [item.replace("\0", ",") for item in text.replace(",,", "\0").split(",")]


def guest_name(arguments: Sequence[str]) -> str:
    """The guest's name as ``-name`` gives it; empty without one."""
    name = ""
    for option, value in _pairs(arguments):
        if option == "name":
            name = options(value, "guest").get("guest", name)
    return name


def endpoints(program: str, arguments: Sequence[str]) -> list[Endpoint]:
    """Every QMP monitor that plain QMP over a listening socket can reach.

    Left out: monitors for people, those that QEMU connects to by itself, and those behind
    telnet, WebSocket, TLS, an abstract socket, a pipe or a terminal.
    """
    chardevs: dict[str, Mapping[str, str]] = {}
    found: list[Endpoint | str] = []
    for option, value in _pairs(arguments, long_only=program == _STORAGE_DAEMON):
        if option == "chardev":
            chardev = options(value, "backend")
            chardevs[chardev.get("id", "")] = chardev
        elif program == _STORAGE_DAEMON and option == "monitor":
            found.append(_daemon_monitor(value))
        elif option in ("qmp", "qmp-pretty"):
            found.append(value.removeprefix("chardev:") if _names(value) else _short(value))
        elif option == "mon":
            monitor = options(value, "chardev")
            if monitor.get("mode") == "control":
                found.append(monitor.get("chardev", ""))
    resolved = (_socket(chardevs.get(x, {})) if isinstance(x, str) else x for x in found)
    return [x for x in resolved if x.path or x.port or x.fd is not None]


def _names(value: str) -> bool:
    return value.startswith("chardev:")


def _pairs(arguments: Sequence[str], *, long_only: bool = False) -> Iterator[tuple[str, str]]:
    """Each option that matters here, without its dashes, and its value."""
    words = iter(arguments)
    for word in words:
        if not word.startswith("-"):
            continue
        name, equals, value = word.lstrip("-").partition("=")
        if long_only:
            # getopt takes any unambiguous beginning of a long option.
            name = next((x for x in ("chardev", "monitor") if name and x.startswith(name)), "")
        elif equals:
            continue
        if name in ("chardev", "mon", "monitor", "name", "qmp", "qmp-pretty"):
            yield name, value if equals else next(words, "")


def _daemon_monitor(value: str) -> str:
    """The chardev of the storage daemon's ``--monitor``, which is always QMP."""
    if value.startswith("{"):
        try:
            return str(json.loads(value).get("chardev", ""))
        except (ValueError, AttributeError):
            return ""
    return options(value, "chardev").get("chardev", "")


def _short(value: str) -> Endpoint:
    """The short form of ``-qmp``: ``unix:path,server`` or ``tcp:host:port,server``."""
    kind, _, rest = value.partition(":")
    if kind == "unix":
        return _socket({"backend": "socket", **options(rest, "path")})
    if kind == "tcp":
        address, _, flags = rest.partition(",")
        host, _, port = address.partition(":")
        return _socket({"backend": "socket", **options(flags), "host": host, "port": port})
    return Endpoint()


def _socket(chardev: Mapping[str, str]) -> Endpoint:
    """The endpoint of a socket chardev that listens for plain QMP; else an empty one."""
    dressed = any(
        chardev.get(key) in _TRUE for key in ("telnet", "tn3270", "websocket", "abstract")
    )
    if chardev.get("backend") != "socket" or chardev.get("server") not in _TRUE:
        return Endpoint()
    if dressed or "tls-creds" in chardev:
        return Endpoint()
    name, fd, last = (chardev.get(key, "") for key in ("id", "fd", "to"))
    if fd.isascii() and fd.isdigit():
        return Endpoint(fd=int(fd), chardev=name)
    if chardev.get("path"):
        return Endpoint(path=chardev["path"], chardev=name)
    last_port = int(last) if last.isascii() and last.isdigit() else 0
    return Endpoint(
        host=chardev.get("host", ""),
        port=chardev.get("port", ""),
        last_port=last_port,
        chardev=name,
    )
