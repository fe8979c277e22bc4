"""The verbs on the journal: ``journal`` shows it, ``recover`` finishes what it has open."""

from __future__ import annotations

import argparse
from dataclasses import replace

from snapkit.cli.console import Console, Table, moment
from snapkit.cli.verb import Verb, add_timeout
from snapkit.errors import OutcomeUnknown

__all__ = ["JOURNAL", "RECOVER"]

_JOURNAL_COLUMNS = "started vm devices engine state message".split()
_RECOVERED_COLUMNS = "vm state found done".split()


def _add_journal(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--limit", type=_count, metavar="N", help="show the newest N only (default: all)"
    )
    parser.add_argument("--wide", action="store_true", help="show every column as text too")


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


_count.__name__ = "number of runs"


def _journal(arguments: argparse.Namespace, console: Console) -> int:
    from snapkit.journaling import default_path, journal

    table = Table.of(journal())
    if arguments.limit:
        table = replace(table, rows=table.rows[-arguments.limit :])
    if not table.rows and console.form == "text":
        console.say(f"No plan has been started yet. The journal is {default_path()}.")
    elif console.form == "text":
        console.table(_for_people(table), None if arguments.wide else _JOURNAL_COLUMNS)
    else:
        console.table(table)
    return 0


def _for_people(table: Table) -> Table:
    """Times without fractions, and a VM without a name by its address."""
    rows = []
    for record in table.records():
        record["vm"] = record["vm"] or _address(record)
        record |= {name: moment(record[name]) for name in ("started", "ended") if name in record}
        rows.append(list(record.values()))
    return replace(table, rows=rows)


def _address(record: dict[str, str | None]) -> str:
    return " ".join(filter(None, (record["uri"], record["domain"])))


def _add_recover(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dry-run", action="store_true", help="look, and say what would be done; change nothing"
    )
    add_timeout(parser)


def _recover(arguments: argparse.Namespace, console: Console) -> int:
    from snapkit import tables
    from snapkit.recovery import recover_all

    found = recover_all(dry_run=arguments.dry_run, timeout=arguments.timeout)
    table = Table.of(tables.recovered(found))
    if console.form != "text":
        console.table(table)
    elif found:
        console.table(_for_people(table), _RECOVERED_COLUMNS)
    if not found:
        console.say("Nothing to recover: every plan that was started has ended.")
    elif arguments.dry_run:
        console.say("Dry run: nothing was changed, not even the journal.")
    unknown = [str(one.number) for one in found if one.state == "unknown"]
    if unknown:
        console.say(f"How it ended is not known of {', '.join(unknown)}: the table says why.")
        return OutcomeUnknown.exit_code
    return 0


JOURNAL = Verb(
    "journal",
    "Show every plan that was started, and how it ended.",
    "snapkit journal --limit 10",
    _add_journal,
    _journal,
)
RECOVER = Verb(
    "recover",
    "Finish or undo what was interrupted, and say what was found and done.",
    "snapkit recover --dry-run",
    _add_recover,
    _recover,
)
