"""How the panels put things into words."""

from __future__ import annotations

import pytest

from snapkit.errors import ConnectError
from snapkit.widgets.words import count, exact, exposed, size, visible, what_went_wrong


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (64 << 20, "64 MiB"),
        (1 << 40, "1 TiB"),
        (5 << 60, "5 EiB"),
        (5 << 70, "5120 EiB"),
    ],
)
def test_sizes_are_for_people(number: int, words: str) -> None:
    assert size(number) == words


def test_an_exact_size_has_every_byte() -> None:
    assert exact(67108864) == "67,108,864 bytes"


def test_one_disk_and_two_disks() -> None:
    assert (count(1, "disk"), count(2, "disk")) == ("1 disk", "2 disks")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/imgs/größe ✓.img", "/imgs/größe ✓.img"),
        ("two\nlines", r"two\nlines"),
        ("a\u202eb\0", r"a\u202eb\x00"),
        ("\udcff", r"\udcff"),
        ('"quoted"', '"quoted"'),
    ],
)
def test_what_cannot_be_seen_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize("uri", ["tcp:10.0.0.5:4444", "host.example:4444", "tcp:0.0.0.0:4444"])
def test_a_monitor_off_loopback_is_open_to_anyone(uri: str) -> None:
    assert "open to anyone who reaches it" in exposed(uri)


@pytest.mark.parametrize("uri", ["tcp:localhost:1", "127.0.0.1:4444", "/run/a.sock", "", "a:b:c"])
def test_any_other_endpoint_has_no_such_warning(uri: str) -> None:
    assert exposed(uri) == ""


def test_an_error_of_snapkit_speaks_for_itself() -> None:
    assert what_went_wrong(ConnectError("no monitor. Start one.")) == "no monitor. Start one."


def test_another_error_is_named_by_its_type() -> None:
    assert what_went_wrong(KeyError("x")) == "KeyError: 'x'"
    assert what_went_wrong(ValueError()) == "ValueError"
