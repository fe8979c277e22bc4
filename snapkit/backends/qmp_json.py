"""QMP's answers read with care: what is missing or of another type is said, not stumbled over.

A monitor is somebody else's program. Every answer is read through these few functions, so
that whatever it sends ends either in a value of the right type or in ``Malformed``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["Json", "Malformed", "counts", "flag", "number", "record", "rows", "text"]

Json = Mapping[str, Any]

_LARGEST = 2**63 - 1


class Malformed(ValueError):
    """An answer has not the form that QMP gives it. The message says what is wrong."""


def rows(value: object, what: str) -> list[Json]:
    """A list of objects."""
    if not isinstance(value, list) or not all(isinstance(row, Mapping) for row in value):
        msg = f"{what} is no list of objects"
        raise Malformed(msg)
    return value


def record(value: object, what: str) -> Json:
    """An object."""
    if not isinstance(value, Mapping):
        msg = f"{what} is no object"
        raise Malformed(msg)
    return value


def text(row: Json, key: str, default: str | None = None) -> str:
    """A text. Without a ``default`` it must be there."""
    value = row.get(key, default)
    if not isinstance(value, str):
        msg = f"{key!r} is no text"
        raise Malformed(msg)
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
