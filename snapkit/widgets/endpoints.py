"""The VMs of this host, as the panel offers them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from snapkit.widgets.words import visible

__all__ = ["Found", "find"]


@dataclass(frozen=True, slots=True)
class Found:
    """A VM of this host: what ``connect`` takes. ``domain`` is empty but for libvirt's."""

    endpoint: str
    domain: str
    label: str


def find() -> tuple[Found, ...]:
    """Look for VMs. Blocks while it looks: for a thread of its own."""
    import snapkit

    rows = snapkit.discover().astype(object).fillna("").to_dict("records")
    return tuple(
        Found(str(row["uri"]), str(row["domain"]), _label(row)) for row in rows if row["uri"]
    )


def _label(row: Mapping[Any, Any]) -> str:
    """The VM's name, where it is, and whether it can be had."""
    words = [str(row[key]) for key in ("name", "uri", "state") if row.get(key)]
    return visible(", ".join(words))
