"""What is known besides the block graph: files, their file systems, open files, TPMs."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from snapkit.backends import files, processes, qmp_facts
from snapkit.backends.locality import ELSEWHERE, Place
from snapkit.backends.qmp_json import Malformed
from snapkit.facts import Facts
from snapkit.model import Graph
from tests.conftest import create_image

US = files.Owner(os.geteuid(), os.getegid(), frozenset(), all_powerful=os.geteuid() == 0)
STRANGER = files.Owner(54321, 54321, frozenset(), all_powerful=False)
NOTHING = Graph({}, {})
HERE = Place(local=True, why="it is this very process", pid=os.getpid(), owner=US)


def gather(answer: Any = None, commands: frozenset[str] = frozenset(), **vm: Any) -> Facts:
    async def execute(command: str) -> Any:
        assert command == "query-tpm"
        return answer

    place = vm.get("place", HERE)
    asked = qmp_facts.Vm(execute, commands, place)
    return asyncio.run(qmp_facts.gather(asked, NOTHING, vm.get("paths", ()), ()))


def test_tpms_are_asked_for_where_the_vm_knows_the_command() -> None:
    rows = [{"id": "tpm0", "model": "tpm-tis", "options": {}}]
    assert gather(rows, frozenset({"query-tpm"})).tpm == ("tpm0",)
    assert gather([], frozenset({"query-tpm"})).tpm == ()
    assert gather("never asked").tpm == ()
    with pytest.raises(Malformed):
        gather(["tpm0"], frozenset({"query-tpm"}))


def test_how_many_files_qemu_has_and_may_have_open_is_known_where_its_process_is() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = gather()
    assert found.fd_limit == soft
    assert found.fd_used is not None
    assert 3 <= found.fd_used < soft
    elsewhere = gather(place=ELSEWHERE)
    assert (elsewhere.fd_limit, elsewhere.fd_used) == (None, None)


def test_the_open_files_of_a_process_are_counted() -> None:
    show = "files = [open('/dev/null') for _ in range(7)]; print(flush=True); input()"
    command = ["prlimit", "--nofile=99:200", sys.executable, "-c", show]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = processes.descriptors(process.pid)
        process.communicate(b"\n")
    # Seven, and the three that every program has.
    assert found == (99, 10)
    assert processes.descriptors(process.pid) == (None, None)


def test_where_qemu_s_files_are_elsewhere_nothing_is_said_of_them(tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    found = gather(place=ELSEWHERE, paths=(path,)).file(path)
    assert (found.known, found.file_system, found.free_bytes, found.locked) == (
        False, None, None, None,
    )  # fmt: skip


def test_what_is_free_is_what_qemu_s_user_may_write(tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    ours, theirs = (files.look(path, owner).free_bytes for owner in (US, STRANGER))
    assert ours is not None
    assert theirs is not None
    assert ours >= theirs > 0
    assert files.look(path, US).file_system == tmp_path.stat().st_dev


def test_the_reserve_of_a_file_system_counts_for_root_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Space:
        f_frsize, f_blocks, f_bfree, f_bavail, f_flag = 10, 100, 7, 5, 0

    monkeypatch.setattr(os, "statvfs", lambda _: Space)
    root = files.Owner(0, 0, frozenset(), all_powerful=True)
    in_a_container = files.Owner(0, 0, frozenset(), all_powerful=False)
    found = [files.look(str(tmp_path / "x"), o) for o in (root, in_a_container, STRANGER, None)]
    assert [facts.free_bytes for facts in found] == [70, 50, 50, 50]
    # A file system without a size, such as ramfs, has no end either.
    monkeypatch.setattr(Space, "f_blocks", 0)
    assert files.look(str(tmp_path / "x"), US).free_bytes is None


def test_a_link_that_leads_elsewhere_takes_its_room_there(tmp_path: Path) -> None:
    target = Path("/dev/shm") / f"snapkit-test-{os.getpid()}"  # noqa: S108  another file system
    link = tmp_path / "x"
    link.symlink_to(target)
    assert files.look(str(link), US).file_system == tmp_path.stat().st_dev
    target.write_bytes(b"x" * 8192)
    try:
        found = files.look(str(link), US)
    finally:
        target.unlink()
    assert found.file_system == target.parent.stat().st_dev
    assert found.allocated_bytes == 8192
    assert found.real_path == str(target.resolve())


def test_a_directory_is_looked_at_once_however_many_paths_are_in_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    realpath, asked = os.path.realpath, Mock()
    asked.statvfs.side_effect, asked.realpath.side_effect = os.statvfs, realpath
    monkeypatch.setattr(os, "statvfs", asked.statvfs)
    monkeypatch.setattr(os.path, "realpath", asked.realpath)
    paths = [str(tmp_path / str(number)) for number in range(50)]
    for path in paths[:25]:
        Path(path).touch()
    found = qmp_facts.probe(HERE, paths)
    assert [found[path].exists for path in paths] == [True] * 25 + [False] * 25
    assert [found[path].real_path for path in paths] == [realpath(path) for path in paths]
    assert (asked.statvfs.call_count, asked.realpath.call_count) == (1, 1)


@pytest.mark.parametrize("name", [".", "..", "sub/..", "link/x", "link/../x", "//x"])
def test_a_real_path_is_the_kernel_s_whatever_the_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to("sub")
    path = f"{tmp_path}/{name}"
    assert files.look(path, US).real_path == os.path.realpath(path)


def test_no_program_is_started_for_a_layer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    image = create_image(tmp_path / "a", "1M")
    monkeypatch.setattr(subprocess, "run", None)
    found = qmp_facts.probe(HERE, [image])[image]
    assert (found.image, found.locked) == (None, None)
