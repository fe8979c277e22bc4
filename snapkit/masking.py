"""Secrets that a name may hold, taken out of what is kept. Pure."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["mask", "masked"]

_MASK = "***"
_WORD = r"passw(?:or)?d|passphrase|secret|token|api[_-]?key|cookie|credential|signature"
_SECRET = rf"(?:[\w.-]*(?:{_WORD})[\w.-]*|(?:[\w.-]*[._-])?(?:key|sig))"
_PATTERNS = (
    # scheme://user:password@host, and iSCSI's user%password. Unbounded, a long word would take
    # the square of its length.
    re.compile(r"(?P<keep>[A-Za-z][\w+.-]{0,31}://[^/@:%\s\"'\\]*[:%])[^/\s\"'\\]+(?=@)"),
    # ?password=x&token=y, the same in a -blockdev option, and in rbd's names with colons
    re.compile(rf"(?P<keep>[?&;,:]{_SECRET}=)[^&;,:\s\"'\\]+", re.IGNORECASE),
    # "password": "x", also where the quotes are escaped, once or more often
    re.compile(
        rf"(?P<keep>(?P<quote>\\*\"){_SECRET}(?P=quote)\s*:\s*(?P=quote))"
        # Where its end cannot be told, all that follows goes.
        r"(?:.*?(?<!\\)(?=(?P=quote))|.*)",
        re.IGNORECASE | re.DOTALL,
    ),
)


# Most texts hold nothing of the kind, and that is quickly seen.
_SUSPECT = re.compile(rf"://|{_WORD}|key|sig", re.IGNORECASE)


def mask(text: str) -> str:
    """The text without passwords and the like: in URIs, in options, and in ``json:`` names."""
    if _SUSPECT.search(text):
        for pattern in _PATTERNS:
            text = pattern.sub(lambda found: found["keep"] + _MASK, text)
    return text


def masked(value: Any) -> Any:
    """The same value, each text in it without its secrets."""
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, dict):
        return {key: masked(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [masked(each) for each in value]
    return value
