"""Text from elsewhere, made fit for a message."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: object, limit: int | None = 200) -> str:
    r"""``text`` on one line, cut after ``limit`` characters, nothing in it unseen.

    With None nothing is cut. What a terminal would act on or would not show is written as
    an escape: ``\x1b``.
    """
    whole = str(text)
    kept = whole if limit is None or len(whole) <= limit else f"{whole[: limit - 3]}..."
    return "".join(c if c.isprintable() else _escape(c) for c in kept)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
