"""The endpoints of this host, as the panel offers them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from snapkit.widgets.words import visible

__all__ = ["Found", "find"]


@dataclass(frozen=True, slots=True)
class Found:
    """An endpoint of this host, and the domain where it is libvirt's."""

    endpoint: str
    label: str


def find() -> tuple[Found, ...]:
    """Look for endpoints. Blocks while it looks: for a thread of its own."""
    import snapkit

    rows = snapkit.discover().astype(object).fillna("").to_dict("records")
    return tuple(Found(str(row["uri"]), _label(row)) for row in rows if row.get("uri"))


def _label(row: Mapping[Any, Any]) -> str:
    """The VM's name, where it is, and whether it can be had."""
    words = [str(row[key]) for key in ("name", "uri", "state") if row.get(key)]
    return visible(", ".join(words))
