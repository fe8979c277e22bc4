"""Whatever ends first, nothing of the lab is left: no QEMU, no keeper, no directory."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from snapkit.errors import SnapkitError
from snapkit.lab import Lab, qemu
from snapkit.lab.keeping import KeptProgram, short_directory
from tests.conftest import SECONDS, wait_until
from tests.lab.watch import (
    children_of,
    execute,
    has_ended,
    has_vanished,
    is_running,
    line_from,
    parent_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Started:
    """A Python process of its own that has a lab."""

    process: subprocess.Popen[bytes]
    qemu: int
    keeper: int
    kept: list[int]
    directory: Path

    def next_line(self) -> str:
        assert self.process.stdout is not None
        return line_from(self.process.stdout.fileno())

    def let_it_end(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(SECONDS)


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A directory for temporary files that has to be empty in the end."""
    with tempfile.TemporaryDirectory(prefix="st-") as directory:
        # As root, a libvirtd is another user.
        Path(directory).chmod(0o711)
        yield Path(directory)
        assert list(Path(directory).iterdir()) == []


class Start(Protocol):
    """Starts a Python process that has a lab and then runs some code."""

    def __call__(self, code: str = "") -> Started: ...


@pytest.fixture(params=["qmp", "libvirt"])
def start(request: pytest.FixtureRequest, temporary: Path) -> Iterator[Start]:
    all_started = []

    def start(code: str = "") -> Started:
        program = (
            "import os, sys, signal\n"
            "from snapkit.lab import Lab\n"
            f"def new(): return Lab(backend={request.param!r}, timeout=60)\n"
            "lab = new()\n"
            "print(lab.pid, lab.directory, flush=True)\n"
            # Until the processes of the lab are known, it has to stay.
            "os.read(0, 1)\n"
            f"{code}\n"
            "sys.stdin.read()\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(temporary)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        assert process.stdout is not None
        assert process.stdin is not None
        pid, directory = line_from(process.stdout.fileno()).split(maxsplit=1)
        assert Path(directory).parent == temporary
        keeper = parent_of(int(pid))
        started = Started(process, int(pid), keeper, children_of(keeper), Path(directory))
        all_started.append(started)
        process.stdin.write(b".")
        return started

    yield start
    for started in all_started:
        with started.process as process:
            process.kill()
        all_gone(started)


def all_gone(started: Started) -> None:
    for pid in (started.keeper, *started.kept):
        has_ended(pid)
    has_vanished(started.directory)


def test_the_lab_goes_when_its_process_is_killed(start: Start) -> None:
    started = start()
    started.process.kill()
    all_gone(started)


def test_the_lab_goes_when_its_process_ends_by_itself(start: Start) -> None:
    started = start()
    assert started.let_it_end() == 0
    assert not is_running(started.qemu)
    assert not started.directory.exists()


def test_the_lab_goes_when_its_process_leaves_without_clearing_up(start: Start) -> None:
    all_gone(start("os._exit(0)"))


def test_the_lab_goes_when_its_process_becomes_another_program(start: Start) -> None:
    all_gone(start("os.execvp('sleep', ['sleep', '60'])"))


def test_a_forked_child_does_not_keep_the_lab_alive(start: Start) -> None:
    started = start("if (child := os.fork()): print(child, flush=True)\nelse: signal.pause()")
    child = int(started.next_line())
    try:
        started.process.kill()
        all_gone(started)
        assert is_running(child)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_forked_child_that_ends_does_not_end_the_lab(start: Start) -> None:
    child = "if not (child := os.fork()):\n  lab.close(); sys.exit()\n"
    started = start(child + "os.waitpid(child, 0); print('waited', flush=True)")
    assert started.next_line() == "waited"
    assert is_running(started.qemu)
    assert started.directory.exists()


def test_a_ctrl_c_for_the_process_does_not_reach_its_lab(start: Start) -> None:
    started = start()
    # A terminal sends it to a process group, and a hang-up to a session.
    lab = (started.keeper, *started.kept)
    assert started.qemu in lab
    assert os.getpgid(started.process.pid) not in {os.getpgid(pid) for pid in lab}
    assert os.getsid(started.process.pid) not in {os.getsid(pid) for pid in lab}


def test_the_lab_goes_when_its_keeper_is_asked_to_end(start: Start) -> None:
    started = start()
    os.kill(started.keeper, signal.SIGTERM)
    all_gone(started)


def test_a_stopped_qemu_goes_with_its_killed_process(start: Start) -> None:
    started = start()
    os.kill(started.qemu, signal.SIGSTOP)
    started.process.kill()
    all_gone(started)


def test_qemu_dies_with_a_killed_keeper_and_close_removes_the_rest() -> None:
    lab = Lab()
    os.kill(parent_of(lab.pid), signal.SIGKILL)
    has_ended(lab.pid)
    assert lab.directory.exists()
    lab.close()
    assert not lab.directory.exists()


def test_a_killed_qemu_leaves_the_images_until_the_lab_is_closed() -> None:
    with Lab() as lab:
        os.kill(lab.pid, signal.SIGKILL)
        has_ended(lab.pid)
        assert lab.sequence(lab.images).min() > 0
    assert not lab.directory.exists()


def test_the_thread_that_made_the_lab_may_end(start: Start) -> None:
    threaded = (
        "import threading\nlabs = []\nt = threading.Thread(target=lambda: labs.append(new()))"
    )
    threaded += "\nt.start(); t.join(); print(labs[0].pid, labs[0].directory, flush=True)"
    started = start(threaded)
    pid, directory = started.next_line().split(maxsplit=1)
    assert is_running(int(pid))
    started.process.kill()
    has_ended(int(pid))
    has_vanished(Path(directory))
    all_gone(started)


def test_a_lab_that_nothing_refers_to_any_more_goes() -> None:
    lab = Lab()
    pid, directory, gone = lab.pid, lab.directory, weakref.ref(lab)
    del lab
    gc.collect()
    assert gone() is None
    assert not is_running(pid)
    assert not directory.exists()


def test_closing_twice_is_closing_once() -> None:
    lab = Lab()
    lab.close()
    lab.close()
    assert not is_running(lab.pid)
    assert not lab.directory.exists()


def test_read_only_directories_and_sockets_in_the_lab_are_removed_too() -> None:
    with Lab() as lab:
        closed = lab.directory / "closed"
        (closed / "deep").mkdir(parents=True)
        (closed / "deep" / "file").write_text("")
        (lab.directory / "link").symlink_to("/")
        (closed / "deep").chmod(0o500)
        closed.chmod(0o500)
    assert not lab.directory.exists()
    assert Path("/").exists()


def test_a_guest_that_does_not_boot_leaves_nothing(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blank(path: Path) -> None:
        path.write_bytes(bytes(1474560))

    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(qemu, "make_floppy", blank)
    with pytest.raises(
        SnapkitError, match=r"has not written to drive0, drive1 in time.*timeout=60"
    ):
        Lab(timeout=0.5)


def test_what_qemu_says_when_it_does_not_start_reaches_the_user(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = qemu.command_line

    def wrong(*arguments: object) -> list[str]:
        return [*usual(*arguments), "-device", "no-such-device"]  # type: ignore[arg-type]

    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(qemu, "command_line", wrong)
    with pytest.raises(SnapkitError, match=r"status 1: .*'no-such-device' is not a valid device"):
        Lab()


def test_a_program_that_cannot_be_started_is_an_error(temporary: Path, tmp_path: Path) -> None:
    kept = KeptProgram(temporary / "snapkit-lab-x")
    try:
        program = tmp_path / "program"
        program.write_text("")
        with pytest.raises(SnapkitError, match=f"Permission denied: '{program}'"):
            kept.run([str(program)])
    finally:
        kept.end()


def test_a_directory_that_is_there_is_neither_used_nor_removed(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "file").write_text("mine")
    with pytest.raises(SnapkitError, match="File exists"):
        KeptProgram(taken)
    assert (taken / "file").read_text() == "mine"


def test_a_killed_keeper_is_named_when_it_is_needed(temporary: Path) -> None:
    kept = KeptProgram(temporary / "snapkit-lab-x")
    kept._keeper.kill()
    kept._keeper.wait()
    with pytest.raises(SnapkitError, match="its keeper process has ended"):
        kept.run(["true"])
    kept.end()


def test_a_long_directory_for_temporary_files_gives_way_to_tmp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    assert short_directory("qmp.sock").parent == Path("/tmp")  # noqa: S108


def test_no_directory_for_the_lab_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(SnapkitError, match="Set TMPDIR"):
        short_directory("s" * 100)


def test_a_lab_that_was_told_to_quit_is_closed_as_any_other() -> None:
    with Lab() as lab:
        execute(lab.spare_uri, ("quit", {}))
        wait_until(lambda: "QEMU has ended" in repr(lab), "notice of the end")
    assert not lab.directory.exists()
