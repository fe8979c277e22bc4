"""Writes the table of checks into README.md, from the checks themselves.

usage: scripts/readme.py [--check]     (--check: only say whether it is up to date)
"""

from __future__ import annotations

import sys
from pathlib import Path

from snapkit.checks import CHECKS

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN = "<!-- checks: written by scripts/readme.py -->"
END = "<!-- end of checks -->"


def table() -> str:
    """The checks as a Markdown table."""
    rows = [
        f"| {check.name} | {check.asks} | {' or '.join(check.severities)} |" for check in CHECKS
    ]
    return "\n".join(["| check | asks | finds |", "|---|---|---|", *rows])


def written(text: str) -> str:
    """The text of README.md with the table of now between its markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        msg = f"README.md has to hold the lines {BEGIN} and {END}."
        raise SystemExit(msg)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main() -> None:
    """Write the table, or compare."""
    is_now = README.read_text(encoding="utf-8")
    ought = written(is_now)
    if "--check" in sys.argv[1:]:
        if is_now != ought:
            sys.exit("README.md is out of date: run scripts/readme.py.")
    else:
        README.write_text(ought, encoding="utf-8")


if __name__ == "__main__":
    main()
