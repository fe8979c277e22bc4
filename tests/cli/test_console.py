"""Tables and text as people and programs get them."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pytest

from snapkit.cli.console import Console, Table, size, visible


def shown(table: Table, form: Any = "text", columns: list[str] | None = None) -> str:
    out = io.StringIO()
    Console(form, out, io.StringIO()).table(table, columns)
    return out.getvalue()


FRAME = pd.DataFrame(
    {
        "file": ["/imgs/a.img", None],
        "virtual_size": pd.array([64 * 1024**2, None], dtype="Int64"),
        "read_only": [False, True],
        "why_not": ["", "no medium"],
        "share": [0.5, float("nan")],
    },
    index=pd.Index(["drive0", "cd"], name="device"),
)


def test_a_table_for_people_is_aligned_with_sizes_in_units_and_yes_and_no() -> None:
    assert shown(Table.of(FRAME)).splitlines() == [
        "device  file         virtual_size  read_only  why_not    share",
        "drive0  /imgs/a.img        64 MiB  no         -            0.5",
        "cd      -                       -  yes        no medium      -",
    ]


def test_people_see_chosen_columns_without_those_that_are_empty() -> None:
    table = Table.of(FRAME.assign(empty=None))
    assert shown(table, columns=["file", "empty"]).splitlines()[0] == "device  file"


def test_json_has_the_index_and_null_for_what_is_missing() -> None:
    assert json.loads(shown(Table.of(FRAME), "json")) == [
        {
            "device": "drive0",
            "file": "/imgs/a.img",
            "virtual_size": 67108864,
            "read_only": False,
            "why_not": "",
            "share": 0.5,
        },
        {
            "device": "cd",
            "file": None,
            "virtual_size": None,
            "read_only": True,
            "why_not": "no medium",
            "share": None,
        },
    ]


def test_csv_has_a_header_and_the_index() -> None:
    rows = list(csv.reader(io.StringIO(shown(Table.of(FRAME), "csv"))))
    assert rows[0] == ["device", "file", "virtual_size", "read_only", "why_not", "share"]
    assert rows[2] == ["cd", "", "", "True", "no medium", ""]


def test_every_level_of_an_index_is_a_column() -> None:
    index = pd.MultiIndex.from_tuples([("drive0", 0), ("drive0", 1)], names=["device", "layer"])
    table = Table.of(pd.DataFrame({"node": ["a", "b"]}, index=index))
    assert table.records()[1] == {"device": "drive0", "layer": 1, "node": "b"}


def test_an_index_without_a_name_is_no_column() -> None:
    assert Table.of(pd.DataFrame({"uri": ["unix:/a"]})).records() == [{"uri": "unix:/a"}]


def test_a_time_is_in_iso_form_and_a_mapping_stays_one() -> None:
    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    frame = pd.DataFrame({"time": [pd.Timestamp(when)], "data": [{"a": 1}]})
    assert Table.of(frame).records() == [{"time": "2026-01-02T03:04:05+00:00", "data": {"a": 1}}]
    assert '{"a": 1}' in shown(Table.of(frame))


@pytest.mark.parametrize("form", ["text", "json", "csv"])
def test_a_table_without_rows_is_still_a_table(form: str) -> None:
    text = shown(Table.of(FRAME.iloc[:0]), form)
    assert text.strip() == ("[]" if form == "json" else text.strip())
    assert form == "json" or "virtual_size" in text


HOSTILE = "a\x1b[2Jb\nc\u202ed\udcffe\x9bf\x7fg"


def test_no_control_character_of_a_name_reaches_a_terminal() -> None:
    assert visible(HOSTILE) == r"a\x1b[2Jb\nc\u202ed\xffe\x9bf\x7fg"
    assert visible("naïve Bilder/世界.img") == "naïve Bilder/世界.img"
    table = Table(["device", "file"], [["drive0", HOSTILE]], keys=1)
    for text in (shown(table), shown(table, "json")):
        assert all(character.isprintable() or character == "\n" for character in text)
    assert json.loads(shown(table, "json"))[0]["file"] == HOSTILE


def test_messages_are_escaped_but_keep_their_lines() -> None:
    err = io.StringIO()
    Console("text", io.StringIO(), err).say("one\x1b\ntwo")
    assert err.getvalue() == "one\\x1b\ntwo\n"


def test_wide_characters_take_two_places() -> None:
    lines = shown(Table(["a", "b"], [["世界", "x"], ["abcd", "y"]])).splitlines()
    assert lines[1:] == ["世界  x", "abcd  y"]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (512, "512 B"),
        (1024, "1 KiB"),
        (198144, "193.5 KiB"),
        (64 * 1024**2, "64 MiB"),
        (5 * 1024**4, "5 TiB"),
        (2**60, "1024 PiB"),
    ],
)
def test_a_size_has_the_unit_that_keeps_it_short(count: int, text: str) -> None:
    assert size(count) == text


def sent(
    write: Callable[[Console], None], form: Any, columns: int, monkeypatch: pytest.MonkeyPatch
) -> str:
    """What a terminal of this width is sent."""
    monkeypatch.setenv("COLUMNS", str(columns))
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w", encoding="utf-8") as out:
        write(Console(form, out, io.StringIO()))
        data = os.read(reader, 65536)
    os.close(reader)
    return data.decode().replace("\r\n", "\n")


def on_terminal(form: Any, table: Table, columns: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a table sends to a terminal of this width."""
    return sent(lambda console: console.table(table), form, columns, monkeypatch)


def test_a_table_too_wide_for_the_terminal_becomes_a_block_a_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = Table(["device", "file"], [["drive0", "/a" * 9], ["drive1", "/b" * 9]], keys=1)
    assert on_terminal("text", table, 40, monkeypatch).startswith("device  file\n")
    narrow = on_terminal("text", table, 20, monkeypatch)
    assert narrow == f"device  drive0\nfile    {'/a' * 9}\n\ndevice  drive1\nfile    {'/b' * 9}\n"


def test_csv_is_raw_in_a_file_and_escaped_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(["file"], [["a\x1bb"]])
    assert "\x1b" in shown(table, "csv")
    assert on_terminal("csv", table, 80, monkeypatch) == "file\na\\x1bb\n"


def item(columns: int, text: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines of text beside a label on a terminal of this width."""
    lines = sent(lambda console: console.item("label  ", text), "text", columns, monkeypatch)
    return lines.splitlines()


def test_text_beside_a_label_is_broken_to_the_terminals_width(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = "one two three four five six seven eight\n  an \x1b[2J indented second line, broken too"
    assert item(40, text, monkeypatch) == [
        "label  one two three four five six seven",
        "       eight",
        r"         an \x1b[2J indented second",
        "         line, broken too",
    ]
    path = "/a/path/that/is/longer-than-the-terminal.is-wide/and-stays-whole"
    assert item(40, path, monkeypatch) == [f"label  {path}"]


def test_text_beside_a_label_is_not_broken_in_a_file_and_left_out_of_data() -> None:
    text = 30 * "word "
    for form in ("text", "json", "csv"):
        out = io.StringIO()
        Console(form, out, io.StringIO()).item("label  ", text)
        assert out.getvalue() == (f"label  {text}\n" if form == "text" else "")
