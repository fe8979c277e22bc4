"""Files on this host: looked at, claimed and removed, and nothing else touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from snapkit.backends import files
from snapkit.facts import ImageFacts
from tests.conftest import create_image, qemu_img

ROOT = files.Owner(0, 0, frozenset(), all_powerful=True)
STRANGER = files.Owner(54321, 54321, frozenset(), all_powerful=False)
US = files.Owner(os.geteuid(), os.getegid(), frozenset(), all_powerful=os.geteuid() == 0)


def test_a_free_place_is_known_with_its_directory(tmp_path: Path) -> None:
    found = files.look(str(tmp_path / "x"), US)
    assert (found.known, found.exists, found.directory_exists) == (True, False, True)
    assert (found.directory_writable, found.writable) == (True, None)
    assert not found.read_only_file_system
    assert found.real_path == str(tmp_path.resolve() / "x")


def test_a_missing_directory_is_known(tmp_path: Path) -> None:
    found = files.look(str(tmp_path / "no" / "x"), US)
    assert (found.known, found.exists, found.directory_exists) == (True, False, False)
    assert files.look("/dev/null/x", US).directory_exists is False


@pytest.mark.parametrize("kind", ["file", "directory", "other", "link", "dangling"])
def test_whatever_is_there_is_seen(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "file":
        path.touch()
    elif kind == "directory":
        path.mkdir()
    elif kind == "other":
        os.mkfifo(path)
    elif kind == "link":
        (tmp_path / "target").touch()
        path.symlink_to("target")
    else:
        path.symlink_to("nowhere")
    found = files.look(str(path), US, header=kind == "other")
    assert found.exists
    assert found.kind == {"link": "file", "dangling": ""}.get(kind, kind)
    # Nobody reads from a pipe: that would wait for ever.
    assert found.image is None


def test_two_names_of_one_file_have_one_identity(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    os.link(tmp_path / "a", tmp_path / "b")
    (tmp_path / "c").symlink_to("a")
    assert len({files.look(str(tmp_path / name), US).identity for name in "abc"}) == 1


def test_the_rights_are_those_of_qemu_s_user(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o755)
    (closed / "x").touch(mode=0o644)
    assert files.look(str(closed / "y"), STRANGER).directory_writable is False
    assert files.look(str(closed / "x"), STRANGER).writable is False
    assert files.look(str(closed / "y"), ROOT).directory_writable is True
    assert files.look(str(closed / "y"), None).directory_writable is None
    closed.chmod(0o777)
    assert files.look(str(closed / "y"), STRANGER).directory_writable is True


@pytest.mark.parametrize(
    ("mode", "wanted", "granted"), [(0o700, 6, "user"), (0o070, 6, "group"), (0o007, 6, "other")]
)
def test_the_first_class_that_fits_decides(
    tmp_path: Path, mode: int, wanted: int, granted: str
) -> None:
    path = tmp_path / "x"
    path.touch()
    path.chmod(mode)
    status = path.stat()
    owners = {
        "user": files.Owner(status.st_uid, 1, frozenset({status.st_gid}), all_powerful=False),
        "group": files.Owner(54321, 1, frozenset({status.st_gid}), all_powerful=False),
        "other": files.Owner(54321, 54321, frozenset(), all_powerful=False),
    }
    assert [name for name, owner in owners.items() if owner.may(status, wanted)] == [granted]


def test_an_access_list_leaves_the_rights_open(tmp_path: Path) -> None:
    # user::rwx, user:54321:rwx, group::---, mask::rwx, other::---
    entries = [(1, 7, None), (2, 7, 54321), (4, 0, None), (16, 7, None), (32, 0, None)]
    packed = b"\x02\x00\x00\x00" + b"".join(
        tag.to_bytes(2, "little")
        + rights.to_bytes(2, "little")
        + (0xFFFFFFFF if who is None else who).to_bytes(4, "little")
        for tag, rights, who in entries
    )
    os.setxattr(tmp_path, "system.posix_acl_access", packed)
    assert files.look(str(tmp_path / "x"), STRANGER).directory_writable is None


def test_a_place_that_we_may_not_look_at_is_not_known(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    look = "import sys; from snapkit.backends import files; print(files.look(sys.argv[1], None))"
    command = [sys.executable, "-c", look, str(closed / "x")]
    if os.geteuid() == 0:
        tmp_path.chmod(0o755)
        command = ["setpriv", "--reuid=65534", "--clear-groups", "--inh-caps=-all", *command]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "known=False" in said


def test_a_header_is_read_without_the_image_s_help(tmp_path: Path) -> None:
    base = create_image(tmp_path / "base", "1M", format="raw")
    overlay = create_image(tmp_path / "x", backing="base", backing_format="raw")
    assert files.image(overlay) == ImageFacts("qcow2", 1024 * 1024, "base", "raw", base, 0, 65536)
    subprocess.run(["qemu-io", "-c", "write -q 0 64k", overlay], check=True)
    found = files.image(overlay)
    assert found is not None
    assert found.allocated_clusters == 1


def test_what_is_no_image_is_an_error_in_qemu_img_s_words(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to("nowhere")
    found = files.image(str(tmp_path / "x"))
    assert found is not None
    assert "No such file or directory" in found.error


def test_without_qemu_img_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert files.image("/x") is None
    assert files.chain("/x", "qcow2") is None


def test_a_chain_is_read_from_the_top_down(tmp_path: Path) -> None:
    base = create_image(tmp_path / "base", "1M", format="raw")
    overlay = create_image(tmp_path / "x", backing=base, backing_format="raw")
    assert files.chain(overlay, "qcow2") == [(overlay, "qcow2"), (base, "raw")]
    os.unlink(base)
    assert "No such file or directory" in str(files.chain(overlay, "qcow2"))


def test_a_directory_is_shared_with_who_sees_the_same_one(tmp_path: Path) -> None:
    assert files.is_shared(str(tmp_path), os.getpid()) is True
    assert files.is_shared(str(tmp_path / "no"), os.getpid()) is True
    script = 'mount -t tmpfs tmpfs "$0" && echo && exec sleep 60'
    command = ["unshare", "-r", "-m", "sh", "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as apart:
        assert apart.stdout is not None
        apart.stdout.readline()
        assert files.is_shared(str(tmp_path), apart.pid) is False
        assert files.is_shared("/proc", apart.pid) is True
        apart.kill()


def test_qemu_img_speaks_of_files_with_any_name(tmp_path: Path) -> None:
    path = tmp_path / 'a: "b"\n,c'
    qemu_img("create", "-q", "-f", "qcow2", path, "1M")
    found = files.image(str(path))
    assert found is not None
    assert (found.format, found.error) == ("qcow2", "")
    assert json.dumps(str(path)) in json.dumps(files.chain(str(path), "qcow2"))


def test_of_a_process_that_has_ended_nothing_is_known(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    assert files.is_shared(str(tmp_path), ended.pid) is None


def test_a_file_is_held_by_whom_has_its_very_inode_open(tmp_path: Path) -> None:
    image = tmp_path / "x"
    image.touch()
    facts, inode = files.look(str(image), US), image.stat()
    assert files.is_held(facts, {(inode.st_dev, inode.st_ino)}) is True
    assert files.is_held(facts, set()) is False
    assert files.is_held(facts, None) is None
    assert files.is_held(files.look(str(tmp_path / "gone"), US), set()) is False
    assert files.is_held(files.look("/dev/null", US), set()) is None
