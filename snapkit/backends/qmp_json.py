"""QMP's answers read with care: what is missing or of another type is said, not stumbled over.

A monitor is somebody else's program. Every answer is read through these few functions, so
that whatever it sends ends either in a value of the right type or in ``Malformed``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

from snapkit.backends.base import Refused
from snapkit.printable import printable

__all__ = [
    "Json",
    "Malformed",
    "check_arguments",
    "counts",
    "flag",
    "number",
    "record",
    "rows",
    "text",
]

Json = Mapping[str, Any]

_LARGEST = 2**63 - 1


class Malformed(ValueError):
    """An answer has not the form that QMP gives it. The message says what is wrong."""


def rows(value: object, what: str) -> list[Json]:
    """A list of objects."""
    if not isinstance(value, list) or not all(map(_is_record, value)):
        msg = f"{what} is no list of objects"
        raise Malformed(msg)
    return value


def _is_record(value: object) -> TypeGuard[Json]:
    # A dict is what the parser makes, and to ask about Mapping first takes ten times as long.
    return isinstance(value, (dict, Mapping))


def record(value: object, what: str) -> Json:
    """An object."""
    if not _is_record(value):
        msg = f"{what} is no object"
        raise Malformed(msg)
    return value


def text(row: Json, key: str, default: str | None = None) -> str:
    """A text. Without a ``default`` it must be there."""
    value = row.get(key, default)
    if not isinstance(value, str):
        msg = f"{key!r} is no text"
        raise Malformed(msg)
    if value.isascii():
        return value
    # JSON can spell half a surrogate pair, which nothing could print or store.
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def number(row: Json, key: str, default: int | None = None) -> int:
    """A whole number of at most 64 bits, not negative. Without a ``default`` it must be there."""
    value = row.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST:
        msg = f"{key!r} is no size or count"
        raise Malformed(msg)
    return value


def flag(row: Json, key: str) -> bool:
    """True or false; false when it is not there."""
    value = row.get(key, False)
    if not isinstance(value, bool):
        msg = f"{key!r} is neither true nor false"
        raise Malformed(msg)
    return value


def counts(row: Json, names: Iterable[str]) -> dict[str, int]:
    """Those of ``names`` that are there, each a number."""
    return {name: number(row, name) for name in names if name in row}


def check_arguments(command: str, arguments: Mapping[str, object] | None) -> None:
    """QEMU hangs up on what it cannot parse, so that must not be sent. Raises Refused."""
    try:
        json.dumps(arguments, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as err:
        msg = f"{command} was not sent: QMP cannot carry its arguments ({printable(err)})"
        raise Refused(msg) from None
