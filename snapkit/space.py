"""How much room an overlay needs, at first and at worst. Pure; all sizes are bytes."""

from __future__ import annotations

__all__ = ["CLUSTER", "at_first", "at_worst", "in_words"]

CLUSTER = 65536
"""The cluster size of an overlay for which none is given."""
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")
_QED_TABLE = 4
"""Clusters of one table of a qed image."""


def at_first(format: str, virtual_size: int, cluster: int = CLUSTER) -> int:  # noqa: A002  QEMU's word
    """What is written when an overlay is created: its header and empty tables."""
    if format == "qed":
        return _QED_TABLE * cluster
    return 3 * cluster + 8 * _parts(_parts(virtual_size, cluster) * 8, cluster)


def at_worst(format: str, virtual_size: int, cluster: int = CLUSTER) -> int:  # noqa: A002  QEMU's word
    """What an overlay has when the guest has written to every byte of its disk."""
    data = _parts(virtual_size, cluster)
    if format == "qed":
        tables = _QED_TABLE * (1 + _parts(data, _QED_TABLE * cluster // 8))
        return (1 + tables + data) * cluster
    second = _parts(data * 8, cluster)
    first = _parts(second * 8, cluster)
    counted = 1 + data + second + first
    # The reference counts, of two bytes a cluster, count themselves too.
    counts = _parts(counted * 2, cluster - 2)
    return (counted + counts + _parts(counts * 8, cluster)) * cluster


def _parts(whole: int, part: int) -> int:
    return -(-whole // part)


def in_words(size: int) -> str:
    """A size for people: ``512 bytes``, ``1.5 GiB``."""
    amount, unit = float(size), 0
    while amount >= 1024 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{amount:.1f} {_UNITS[unit]}" if unit else f"{size} bytes"
