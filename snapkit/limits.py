"""Time limits as people give them."""

from __future__ import annotations

import math

from snapkit.errors import SnapkitError

__all__ = ["seconds"]


def seconds(value: object) -> float:
    """A time limit in seconds. Raises SnapkitError for what is no number more than 0."""
    if isinstance(value, int | float) and 0 < value < math.inf:
        return value
    msg = f"timeout is {value!r}; it has to be a number of seconds, more than 0."
    raise SnapkitError(msg)
