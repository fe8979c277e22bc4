"""Writes the tables of checks and of abilities into README.md, from the code itself.

usage: scripts/readme.py [--check]     (--check: only say whether they are up to date)
"""

from __future__ import annotations

import sys
from pathlib import Path

from snapkit.backends.abilities import ABILITIES, Ability
from snapkit.checks import CHECKS

README = Path(__file__).resolve().parent.parent / "README.md"


def checks() -> str:
    """The checks as a Markdown table."""
    rows = [
        f"| {check.name} | {check.asks} | {' or '.join(check.severities)} |" for check in CHECKS
    ]
    return "\n".join(["| check | asks | finds |", "|---|---|---|", *rows])


def abilities() -> str:
    """What not every backend can do, as a Markdown table."""
    rows = [
        f"| {able.what} | {_answer(able, 'qmp')} | {_answer(able, 'libvirt')} |"
        for able in ABILITIES
    ]
    return "\n".join(["| what | QMP | libvirt |", "|---|---|---|", *rows])


def _answer(able: Ability, backend: str) -> str:
    return "yes" if backend in able.backends else able.otherwise


TABLES = {"checks": checks, "abilities": abilities}


def written(text: str) -> str:
    """The text of README.md with the tables of now between their markers."""
    for name, table in TABLES.items():
        first, last = f"<!-- {name}: written by scripts/readme.py -->", f"<!-- end of {name} -->"
        before, begin, rest = text.partition(first)
        _, end, after = rest.partition(last)
        if not begin or not end:
            msg = f"README.md has to hold the lines {first} and {last}."
            raise SystemExit(msg)
        text = f"{before}{first}\n{table()}\n{last}{after}"
    return text


def main() -> None:
    """Write the tables, or compare."""
    is_now = README.read_text(encoding="utf-8")
    ought = written(is_now)
    if "--check" in sys.argv[1:]:
        if is_now != ought:
            sys.exit("README.md is out of date: run scripts/readme.py.")
    else:
        README.write_text(ought, encoding="utf-8")


if __name__ == "__main__":
    main()
