"""How the panels put things into words: sizes, counts, names that a VM made up, errors."""

from __future__ import annotations

from snapkit.address import TcpAddress, parse
from snapkit.errors import ConnectError, SnapkitError
from snapkit.model import Device
from snapkit.printable import printable

__all__ = ["count", "exact", "exposed", "possible", "size", "visible", "what_went_wrong"]

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def visible(text: str) -> str:
    """Text with every character that cannot be seen written as an escape.

    Line breaks would break a row; marks that turn the direction of writing would show a
    name that is not the file's.
    """
    return printable(text, limit=None)


def size(number: int) -> str:
    """Bytes for people: ``64 MiB``, ``1.5 GiB``. Never more exact than it looks."""
    power = min(max(number.bit_length() - 1, 0) // 10, len(_UNITS) - 1)
    amount = f"{number / 1024**power:.1f}".removesuffix(".0")
    return f"{amount} {_UNITS[power]}"


def exact(number: int) -> str:
    """Bytes to the last one: ``67,108,864 bytes``."""
    return f"{number:,} bytes"


def count(number: int, noun: str) -> str:
    """``1 disk``, ``2 disks``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def possible(device: Device) -> str:
    """Whether a device can be snapshotted: ``yes``, or ``no`` and the reason."""
    return f"no: {visible(device.why_not)}" if device.why_not else "yes"


def exposed(uri: str) -> str:
    """A warning, if the monitor at ``uri`` is open to more than this host; else nothing."""
    try:
        address = parse(uri)
    except ConnectError:
        return ""
    if not isinstance(address, TcpAddress) or address.loopback:
        return ""
    return (
        f"Warning: {visible(str(address))} is not on loopback. A QMP monitor asks for no "
        "password: it is open to anyone who reaches it, and who reaches it controls the VM."
    )


def what_went_wrong(error: BaseException) -> str:
    """An error for people. snapkit's own say what to do; others are named by their type."""
    if isinstance(error, SnapkitError):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
