"""Overlay files on this host: claimed, recognized and removed, and nothing else touched."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snapkit.backends import claims
from snapkit.backends.base import MadeFile, Receipt, Refused
from snapkit.backends.files import Owner
from tests.conftest import StartQemu, blockdev, create_image

ROOT = Owner(0, 0, frozenset(), all_powerful=True)
STRANGER = Owner(54321, 54321, frozenset(), all_powerful=False)
US = Owner(os.geteuid(), os.getegid(), frozenset(), all_powerful=os.geteuid() == 0)
Patch = pytest.MonkeyPatch


def claim(path: Path, owner: Owner | None = US, mode: int = 0o644) -> MadeFile:
    """A file that was claimed and has its name."""
    opened = claims.open_claim(str(path), owner, mode)
    try:
        return opened.take()
    finally:
        opened.close()


def identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


def no_unnamed_files(monkeypatch: Patch) -> None:
    """As on a file system that cannot make them (``open(2)``)."""
    make: Callable[..., int] = os.open

    def fail(path: Any, flags: int, *arguments: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return make(path, flags, *arguments)

    monkeypatch.setattr(os, "open", fail)


def no_links(monkeypatch: Patch) -> None:
    """As on a file system that cannot make them (``link(2)``)."""

    def fail(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", fail)


def nothing_missing(_: Patch) -> None:
    """Linux, on a disk."""


file_systems = pytest.mark.parametrize(
    "lack", [nothing_missing, no_unnamed_files, no_links], ids=lambda lack: lack.__name__
)


@file_systems
def test_a_claimed_file_is_new_empty_and_known_before_it_has_its_name(
    tmp_path: Path, monkeypatch: Patch, lack: Callable[[Patch], None]
) -> None:
    lack(monkeypatch)
    path = tmp_path / "x"
    opened = claims.open_claim(str(path), US)
    assert list(tmp_path.iterdir()) == []
    early, made = opened.made, opened.take()
    opened.close()
    assert made.path == early.path == str(path)
    assert made.identity == identity(path)
    assert (made.size, path.stat().st_size) == (0, 0)
    assert claims.is_ours(made)
    if lack is nothing_missing:
        assert (early.identity, early.born) == (made.identity, made.born)


@file_systems
def test_what_was_not_given_its_name_leaves_nothing(
    tmp_path: Path, monkeypatch: Patch, lack: Callable[[Patch], None]
) -> None:
    lack(monkeypatch)
    opened = claims.open_claim(str(tmp_path / "x"), US)
    opened.close()
    opened.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("owner", [None, US, ROOT, STRANGER])
@pytest.mark.parametrize("kind", ["file", "directory", "link", "dangling"])
def test_nothing_that_is_there_is_ever_claimed(
    tmp_path: Path, kind: str, owner: Owner | None
) -> None:
    put(tmp_path, kind)
    with pytest.raises(Refused, match="already exists"):
        claims.open_claim(str(tmp_path / "x"), owner)
    unharmed(tmp_path)


def put(directory: Path, kind: str) -> None:
    """Something of somebody else's, under the name ``x``."""
    path = directory / "x"
    (directory / "precious").write_text("precious")
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("precious" if kind == "link" else "nowhere")


def unharmed(directory: Path) -> None:
    assert (directory / "precious").read_text() == "precious"
    assert not (directory / "nowhere").exists()
    assert not (directory / "x").is_file() or (directory / "x").read_text() == "precious"


@file_systems
@pytest.mark.parametrize("kind", ["file", "directory", "link", "dangling"])
def test_what_appears_between_a_look_and_the_claim_wins(
    tmp_path: Path, monkeypatch: Patch, kind: str, lack: Callable[[Patch], None]
) -> None:
    lack(monkeypatch)
    opened = claims.open_claim(str(tmp_path / "x"), US)
    put(tmp_path, kind)
    with pytest.raises(Refused, match="already exists"):
        opened.take()
    opened.close()
    unharmed(tmp_path)


def test_a_directory_that_goes_in_between_is_said(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    opened = claims.open_claim(str(place / "x"), US)
    place.rmdir()
    with pytest.raises(Refused, match="cannot be created: No such file or directory"):
        opened.take()
    opened.close()


@pytest.mark.parametrize("above", ["no", "file"])
def test_a_directory_that_is_not_there_is_said(tmp_path: Path, above: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match=r"cannot be created: (No such file|Not a directory)"):
        claims.open_claim(str(tmp_path / above / "x"), US)


@file_systems
def test_a_file_that_qemu_s_user_could_not_write_to_is_given_or_left_to_it(
    tmp_path: Path, monkeypatch: Patch, lack: Callable[[Patch], None]
) -> None:
    lack(monkeypatch)
    path = tmp_path / "x"
    if os.geteuid() == 0:
        claim(path, STRANGER)
        assert (path.stat().st_uid, path.stat().st_gid) == (STRANGER.uid, STRANGER.gid)
    else:
        made = claim(path, STRANGER)
        assert (made.path, made.identity) == (str(path), None)
        assert not path.exists()


@file_systems
def test_a_file_that_cannot_be_given_away_is_not_left(
    tmp_path: Path, monkeypatch: Patch, lack: Callable[[Patch], None]
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    lack(monkeypatch)
    monkeypatch.setattr(os, "fchown", refuse)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(Refused, match="Operation not permitted"):
        claim(tmp_path / "x", STRANGER)
    assert list(tmp_path.iterdir()) == []


@file_systems
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_a_file_has_the_permission_bits_that_are_wanted(
    tmp_path: Path, monkeypatch: Patch, mode: int, lack: Callable[[Patch], None]
) -> None:
    lack(monkeypatch)
    claim(tmp_path / "x", US, mode)
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "x").stat().st_mode & 0o777 == mode & ~umask


def test_an_overlay_is_given_the_rights_of_its_image_and_can_be_written_to(
    tmp_path: Path,
) -> None:
    image = tmp_path / "x"
    image.touch()
    for bits, wanted in {0o600: 0o600, 0o444: 0o644, 0o777: 0o644, 0o640: 0o640}.items():
        image.chmod(bits)
        assert claims.mode_over(str(image)) == wanted
    assert claims.mode_over("rbd:pool/image") == 0o644


def test_only_the_very_file_that_was_made_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "x"
    ours = claim(path)
    # Made before the first is gone, or it could be given the same inode.
    (tmp_path / "other").write_text("precious")
    assert claims.remove(ours, ()) == ""
    assert not path.exists()
    assert claims.remove(ours, ()) == ""
    os.rename(tmp_path / "other", path)
    assert "no longer the file" in claims.remove(ours, ())
    assert path.read_text() == "precious"


def test_a_file_that_has_got_the_same_inode_is_told_by_its_birth(tmp_path: Path) -> None:
    """Some file systems give a free inode to the next file at once."""
    path = tmp_path / "x"
    ours = claim(path)
    assert ours.born is not None
    for _ in range(1000):
        path.unlink()
        path.write_text("precious")
        if identity(path) == ours.identity:
            break
    else:
        # This one does not: then it is told to have been made at another time.
        ours = MadeFile(str(path), identity(path), born=ours.born)
    assert not claims.is_ours(ours)
    assert claims.measure(ours) == ours
    assert not claims.was_written(ours, Receipt(prepared=True))
    assert "no longer the file" in claims.remove(ours, ())
    assert path.read_text() == "precious"


def test_where_no_birth_is_kept_the_inode_has_to_do(tmp_path: Path, monkeypatch: Patch) -> None:
    ours = claim(tmp_path / "x")
    unborn = MadeFile(ours.path, ours.identity)
    assert claims.is_ours(unborn)
    assert claims.remove(unborn, ()) == ""


def test_a_file_in_use_or_unknown_is_left_and_named(tmp_path: Path) -> None:
    path = tmp_path / "x"
    ours = claim(path)
    assert ours.identity is not None
    assert f"{path} is in use by the VM" in claims.remove(ours, {ours.identity})
    assert f"{path} may be a left-over" in claims.remove(MadeFile(str(path), None), ())
    assert path.exists()


def test_a_file_that_another_process_has_locked_is_left_and_named(
    tmp_path: Path, start_daemon: StartQemu
) -> None:
    path = tmp_path / "x"
    ours = claim(path)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"], check=True)
    daemon = start_daemon(*blockdev("n", path))
    daemon.ask("query-named-block-nodes", flat=True)
    assert f"{path} is in use by another process" in claims.remove(ours, ())
    daemon.stop()
    assert claims.remove(ours, ()) == ""
    assert not path.exists()


@pytest.mark.parametrize("how", ["a link", "a link with its inode", "a directory"])
def test_what_is_no_plain_file_any_more_is_left(tmp_path: Path, how: str) -> None:
    path = tmp_path / "x"
    ours = claim(path)
    os.rename(path, tmp_path / "moved")
    if how == "a directory":
        path.mkdir()
    else:
        path.symlink_to("moved")
    if how == "a link with its inode":
        ours = MadeFile(str(path), identity(path))
    assert "no longer the file" in claims.remove(ours, ())
    assert (tmp_path / "moved").exists()


def test_where_a_directory_is_gone_there_is_nothing_to_remove(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    ours = claim(place / "x")
    (place / "x").unlink()
    place.rmdir()
    assert claims.remove(ours, ()) == ""
    place.touch()
    assert claims.remove(ours, ()) == ""


def test_what_cannot_be_removed_is_said(tmp_path: Path, monkeypatch: Patch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    ours = claim(tmp_path / "x")
    monkeypatch.setattr(os, "unlink", refuse)
    assert "could not be removed: Operation not permitted" in claims.remove(ours, ())
    monkeypatch.setattr(os, "lstat", refuse)
    assert "could not be looked at: Operation not permitted" in claims.remove(ours, ())
    assert (tmp_path / "x").exists()


def test_a_file_that_was_made_is_known_by_its_inode(tmp_path: Path) -> None:
    path = tmp_path / "x"
    mine = claim(path)
    assert claims.is_ours(mine)
    path.rename(tmp_path / "y")
    assert not claims.is_ours(mine)
    path.touch()
    assert not claims.is_ours(mine)
    assert claims.is_ours(MadeFile(str(path), None))


def test_a_file_is_measured_while_it_is_ours(tmp_path: Path) -> None:
    path = tmp_path / "x"
    mine = claim(path)
    path.write_bytes(b"12345")
    measured = claims.measure(mine)
    assert (measured.identity, measured.born, measured.size) == (mine.identity, mine.born, 5)
    assert measured.modified == path.stat().st_mtime_ns
    # One of QEMU's making is recognized.
    assert claims.measure(MadeFile(str(path), None)) == measured
    path.unlink()
    assert claims.measure(measured) == measured


def test_what_was_prepared_is_written_to_once_it_is_another_size_or_age(tmp_path: Path) -> None:
    path = tmp_path / "x"
    claim(path)
    path.write_bytes(b"12345")
    mine, receipt = claims.measure(MadeFile(str(path), None)), Receipt(prepared=True)
    assert not claims.was_written(mine, receipt)
    os.utime(path, ns=(0, 1))
    assert claims.was_written(mine, receipt)
    path.write_bytes(b"123456")
    os.utime(path, ns=(0, mine.modified or 0))
    assert claims.was_written(mine, receipt)
    assert not claims.was_written(MadeFile(str(path), None), receipt)


def test_what_was_not_prepared_is_written_to_if_it_has_clusters_of_its_own(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    path = tmp_path / "x"
    mine, receipt = claim(path), Receipt()
    assert not claims.was_written(mine, receipt)
    path.write_text("precious")
    assert claims.was_written(mine, receipt)
    base = create_image(tmp_path / "base", "1M")
    arguments = ["create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", str(path)]
    subprocess.run(["qemu-img", *arguments], check=True)
    assert not claims.was_written(mine, receipt)
    # Its creation was cut off.
    os.truncate(path, 65536)
    assert not claims.was_written(mine, receipt)
    subprocess.run(["qemu-img", *arguments], check=True)
    subprocess.run(["qemu-io", "-c", "write 0 64k", path], check=True, capture_output=True)
    assert claims.was_written(mine, receipt)
    # What QEMU leaves when it is killed.
    with path.open("ab") as file:
        file.write(bytes(4 * 65536))
    assert claims.was_written(mine, receipt)
    monkeypatch.setenv("PATH", str(tmp_path))
    # Nobody to ask: it may have been.
    assert claims.was_written(mine, receipt)
