"""In which order one transaction lists the devices. Pure.

QEMU switches disk by disk and keeps those that are done waiting for the rest, so the first in
the list waits longest. The disks that the guest writes to most are therefore listed last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["busiest_last"]

_HARDLY_ANY = 128
"""Fewer operations than this say nothing about what a disk is used for."""
_ALIKE = 2
"""How many times as many operations still count as equal."""


def busiest_last(names: Sequence[str], stats: Mapping[str, Mapping[str, int]]) -> list[str]:
    """The names in the order in which the switch lists them.

    ``stats`` are the counters of each device: writes and flushes count, for they are what a
    guest waits for. Counts within a factor of two of one another are equal, and equals keep
    the order in which they were given, so that disks that are written in lockstep never
    change places.
    """
    counts = {name: max(_operations(stats.get(name, {})), _HARDLY_ANY) for name in names}
    rank, ranks, last = 0, dict[str, int](), 0
    for name in sorted(counts, key=counts.__getitem__):
        if last and counts[name] > _ALIKE * last:
            rank += 1
        ranks[name], last = rank, counts[name]
    return sorted(names, key=ranks.__getitem__)


def _operations(stats: Mapping[str, int]) -> int:
    return stats.get("wr_ops", 0) + stats.get("flush_ops", 0)
