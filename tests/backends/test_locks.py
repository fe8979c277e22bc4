"""Whether an image is in use, by the locks that a real QEMU takes on it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from snapkit.backends import locks
from tests.conftest import StartQemu, blockdev, create_image


@pytest.mark.parametrize("format", ["qcow2", "raw"])
@pytest.mark.parametrize("read_only", ["on", "off"])
def test_an_image_is_locked_while_a_process_has_it_open(
    tmp_path: Path, start_daemon: StartQemu, format: str, read_only: str
) -> None:
    image = create_image(tmp_path / "x", "1M", format=format)
    other = create_image(tmp_path / "y", "1M")
    assert locks.is_locked(image) is False
    writable = "off" if read_only == "on" else "on"
    daemon = start_daemon(
        *blockdev("n", image, format, **{"read-only": read_only}),
        *("--export", f"type=nbd,id=e,node-name=n,writable={writable}"),
    )
    daemon.ask("query-named-block-nodes", flat=True)
    assert locks.is_locked(image) is True
    assert locks.is_locked(other) is False
    daemon.stop()
    assert locks.is_locked(image) is False


def test_a_backing_file_is_locked_too(tmp_path: Path, start_daemon: StartQemu) -> None:
    base = create_image(tmp_path / "base", "1M")
    overlay = create_image(tmp_path / "x", backing=base, backing_format="qcow2")
    daemon = start_daemon(*blockdev("n", overlay))
    daemon.ask("query-named-block-nodes", flat=True)
    assert locks.is_locked(base) is True


def test_a_lock_elsewhere_in_the_file_is_none_of_qemu_s(tmp_path: Path) -> None:
    image = tmp_path / "x"
    image.write_bytes(bytes(1000))
    with image.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 100, 0)
        assert locks.is_locked(str(image)) is False
        fcntl.lockf(file, fcntl.LOCK_EX, 1, 201)
        assert locks.is_locked(str(image)) is True


def test_of_what_is_no_file_nothing_is_known_and_nobody_waits(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "nowhere", "/dev/null", "a\0b"):
        assert locks.is_locked(str(path)) is None
