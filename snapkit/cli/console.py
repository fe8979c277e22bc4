"""Data to standard output as text, JSON or CSV; what is said to people to standard error.

Only the standard library is used here: ``doctor`` has to work when everything else is
missing. Image names and guest strings are untrusted: no control character of theirs ever
reaches a terminal.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TextIO

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Console", "Form", "Table", "moment", "size", "visible"]

Form = Literal["text", "json", "csv"]

_SIZES = frozenset(("virtual_size", "actual_size", "rd_bytes", "wr_bytes"))
_INVISIBLE = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
_GAP = "  "
_NARROWEST = 30
"""Columns that are left to text beside a label."""


@dataclass(frozen=True)
class Table:
    """Columns and rows; the first ``keys`` columns name the row."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    keys: int = 0

    @classmethod
    def of(cls, frame: DataFrame) -> Table:
        """A DataFrame's cells as plain values. An index with a name becomes columns."""
        keys = [str(name) for name in frame.index.names if name is not None]
        names = [key if isinstance(key, tuple) else (key,) for key in frame.index] if keys else []
        cells = frame.astype(object).to_numpy().tolist()
        rows = [
            [_plain(cell) for cell in (*name, *row)]
            for name, row in zip(names or [()] * len(cells), cells, strict=True)
        ]
        return cls([*keys, *map(str, frame.columns)], rows, len(keys))

    def records(self) -> list[dict[str, Any]]:
        """One mapping a row, as JSON has it."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def only(self, names: Sequence[str]) -> Table:
        """The keys and the named columns, without those that are empty in every row."""
        wanted = [
            position
            for position, name in enumerate(self.columns)
            if position < self.keys
            or (name in names and any(row[position] not in (None, "") for row in self.rows))
        ]
        rows = [[row[position] for position in wanted] for row in self.rows]
        return Table([self.columns[position] for position in wanted], rows, self.keys)


def _plain(cell: Any) -> Any:
    """A cell as JSON can hold it: None for what is missing, times in ISO form."""
    if hasattr(cell, "item") and not isinstance(cell, Mapping):
        cell = cell.item()
    if cell is None or type(cell).__name__ in {"NAType", "NaTType"}:
        return None
    if isinstance(cell, float) and not math.isfinite(cell):
        return None
    if isinstance(cell, datetime):
        return cell.isoformat()
    if isinstance(cell, bool | int | float | str | list | dict):
        return cell
    return str(cell)


def visible(text: str) -> str:
    r"""Text that a terminal shows as it is: control characters are written as ``\x1b``.

    So are bytes of a file name that are no UTF-8, and characters that reverse or hide text.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_visible_character, text))


def _visible_character(character: str) -> str:
    if unicodedata.category(character) not in _INVISIBLE:
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    short = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
    if code < 0x100:
        return short.get(character, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def size(count: int) -> str:
    """A number of bytes for people: ``64 MiB``, ``193.5 KiB``, ``512 B``."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024:
            return f"{value:.1f}".removesuffix(".0") + f" {unit}"
        value /= 1024
    return f"{value:.1f}".removesuffix(".0") + " PiB"


def moment(text: str | None) -> str | None:
    """A time in UTC for people: ``2026-11-22 23:25:36Z``."""
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%SZ}" if text else None


def _cell(column: str, value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and column in _SIZES:
        return size(value)
    if isinstance(value, dict | list):
        return visible(json.dumps(value))
    return visible(str(value))


def _width(text: str) -> int:
    return sum(
        0 if unicodedata.combining(x) else 2 if unicodedata.east_asian_width(x) in "WF" else 1
        for x in text
    )


def _pad(text: str, width: int, *, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space


def _as_text(table: Table, limit: int | None) -> str:
    """Aligned columns; a block a row where those would be wider than ``limit``."""
    table = replace(table, columns=[visible(name) for name in table.columns])
    cells = [
        [_cell(name, value) for name, value in zip(table.columns, row, strict=True)]
        for row in table.rows
    ]
    widths = [
        max(map(_width, [name, *(row[position] for row in cells)]))
        for position, name in enumerate(table.columns)
    ]
    if limit is not None and cells and sum(widths) + len(_GAP) * (len(widths) - 1) > limit:
        return _as_blocks(table, cells)
    numeric = [
        all(
            row[position] is None
            or (isinstance(row[position], int | float) and not isinstance(row[position], bool))
            for row in table.rows
        )
        for position in range(len(table.columns))
    ]
    lines = [table.columns, *cells]
    return "\n".join(
        _GAP.join(
            _pad(text, width, right=right)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    )


def _as_blocks(table: Table, cells: Sequence[Sequence[str]]) -> str:
    width = max(map(_width, table.columns))
    return "\n\n".join(
        "\n".join(
            f"{_pad(name, width, right=False)}{_GAP}{text}"
            for name, text in zip(table.columns, row, strict=True)
        )
        for row in cells
    )


def _as_csv(table: Table) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(table.columns)
    for row in table.rows:
        writer.writerow(
            json.dumps(value) if isinstance(value, dict | list) else value for value in row
        )
    return file.getvalue().removesuffix("\n")


def _broken(line: str, width: int) -> list[str]:
    """A line in pieces that are no wider, further ones indented as it is. No word is broken."""
    begin = line[: len(line) - len(line.lstrip())]
    return textwrap.wrap(
        line, width, subsequent_indent=begin, break_long_words=False, break_on_hyphens=False
    ) or [""]


class Console:
    """Where a verb writes to, and in which form.

    A reader that goes away early (``snapkit devices ... | head``) ends the output, not the
    verb: what follows is not written.
    """

    def __init__(
        self, form: Form = "text", out: TextIO | None = None, err: TextIO | None = None
    ) -> None:
        self.form = form
        # A stream that the caller has closed is None.
        self._out: TextIO = out or sys.stdout or io.StringIO()
        self._err: TextIO = err or sys.stderr or io.StringIO()
        for stream in (self._out, self._err):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")

    def table(self, table: Table, columns: Sequence[str] | None = None) -> None:
        """Write a table. ``columns`` are those that people see; None: all of them."""
        if self.form == "json":
            self.json(table.records())
        elif self.form == "csv":
            text = _as_csv(table)
            if self._out.isatty():
                text = "\n".join(map(visible, text.split("\n")))
            self.write(text)
        else:
            shown = table if columns is None else table.only(columns)
            self.write(_as_text(shown, self._limit()))

    def json(self, value: object, *, one_line: bool = False) -> None:
        """Write a value as JSON that holds ASCII only, and no control character."""
        text = json.dumps(value, indent=None if one_line else 2)
        self.write(text.replace("\x7f", "\\u007f"))

    def heading(self, text: str) -> None:
        """Write a line above what follows, for people."""
        if self.form == "text":
            self.write(f"\n{visible(text)}")

    def text(self, text: str) -> None:
        """Write lines for people; nothing in the other forms."""
        if self.form == "text":
            self.write("\n".join(map(visible, text.split("\n"))))

    def item(self, label: str, text: str) -> None:
        """Write text beside a label, for people: broken to the terminal's width, and indented."""
        if self.form != "text":
            return
        limit = self._limit()
        width = max((limit or 0) - len(label), _NARROWEST)
        lines = [
            part
            for line in map(visible, text.split("\n"))
            for part in (_broken(line, width) if limit else [line])
        ]
        self.write("\n".join([f"{label}{lines[0]}", *(f"{'':{len(label)}}{x}" for x in lines[1:])]))

    def write(self, text: str) -> None:
        """Write text and a line break to standard output, now."""
        try:
            self._out.write(text + "\n")
            self._out.flush()
        except BrokenPipeError:
            self._abandon()
        except OSError as error:
            # What the verb did stays done, so its exit status does not change.
            self._abandon()
            self.say(f"The output could not be written: {error.strerror}.")

    def say(self, text: str) -> None:
        """Tell people something on standard error."""
        try:
            self._err.write("\n".join(map(visible, text.split("\n"))) + "\n")
            self._err.flush()
        except (OSError, ValueError):
            pass

    def _limit(self) -> int | None:
        return shutil.get_terminal_size().columns if self._out.isatty() else None

    def _abandon(self) -> None:
        # What is still buffered would raise again when Python ends.
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), self._out.fileno())
