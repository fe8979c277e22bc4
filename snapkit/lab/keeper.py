"""The process between the user's and a lab's QEMU, which leaves nothing behind.

It makes the lab's directory, starts QEMU as its child, and ends QEMU and removes the
directory when the user's process asks for it or is gone, however it went. A process of its
own can do this after the user's has been killed; a process group of its own keeps a Ctrl-C
that is meant for the user's process away from QEMU.

Usage: ``python -I -S keeper.py PARENT_PID DIRECTORY``. It reads one JSON object a line from
its standard input and writes one a line to its standard output.

===================  ===============================================================
reads                does
===================  ===============================================================
``{"run": [...]}``   ends QEMU if it runs, starts this command line, and answers
                     ``{"pid": n}``
``{"stop": true}``   ends QEMU if it runs, and answers ``{"stopped": true}``
anything else, EOF   ends QEMU, removes the directory, and ends itself
===================  ===============================================================

Unasked it writes ``{"ready": true}`` once the directory is there, and ``{"exit": n}`` when
QEMU ended by itself (n as in ``subprocess``). It writes ``{"error": "..."}`` when the
directory could not be made or the command not be started.

It is run as a file, without site-packages, so that it starts quickly: only the standard
library is imported here, and nothing of snapkit.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

QEMU_OUTPUT = "qemu.log"
"""The file in the lab's directory that holds what QEMU wrote to stdout and stderr."""

_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.2  # how often to look where the kernel has no pidfd
_TERM_SECONDS = 3.0
_REMOVE_SECONDS = 3.0


def remove_directory(directory: str) -> bool:
    """Remove a directory and all below it, and say whether it is gone.

    Files that appear meanwhile, from a program that was still at work, are removed too.
    """
    deadline = time.monotonic() + _REMOVE_SECONDS
    while os.path.isdir(directory) and not os.path.islink(directory):
        _make_writable(directory)
        shutil.rmtree(directory, ignore_errors=True)
        if time.monotonic() > deadline:
            break
        if os.path.lexists(directory):
            time.sleep(0.05)
    return not os.path.lexists(directory)


def _make_writable(directory: str) -> None:
    """Let the owner change every directory below: a read-only one would keep its files."""
    for parent, folders, _ in os.walk(directory):
        for path in (parent, *(os.path.join(parent, folder) for folder in folders)):
            if not os.path.islink(path):
                with contextlib.suppress(OSError):
                    os.chmod(path, 0o700)


class Keeper:
    """One lab's directory and QEMU, held for the process ``parent``."""

    def __init__(self, parent: int, directory: str) -> None:
        self.parent = parent
        self.directory = directory
        self.qemu: subprocess.Popen[bytes] | None = None
        self._qemu_fd: int | None = None
        self._parent_fd = _pidfd(parent)
        self._signal_fd = _catch_signals()
        self._unread = b""

    def serve(self) -> None:
        """Do what the parent says until it asks for the end or is gone."""
        try:
            os.mkdir(self.directory, 0o700)
        except OSError as error:
            _say({"error": str(error)})
            return
        try:
            _say({"ready": True})
            while (request := self._next_request()) is not None:
                self._end_qemu()
                if request:
                    self._run(request)
                else:
                    _say({"stopped": True})
        finally:
            self._end_qemu()
            remove_directory(self.directory)

    def _next_request(self) -> list[str] | None:
        """Wait for a command line to run; an empty one is to stop. None: it is time to end."""
        while b"\n" not in self._unread:
            if not self._wait():
                return None
            data = os.read(0, 65536)
            if not data:
                return None
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        try:
            request = json.loads(line)
            return [] if "stop" in request else [str(part) for part in request["run"]]
        except (ValueError, KeyError, TypeError):
            return None

    def _wait(self) -> bool:
        """Wait until standard input has something. False: it is time to end."""
        while True:
            # A new parent is the surest sign, and also right where there is no pidfd.
            if os.getppid() != self.parent:
                return False
            self._notice_exit()
            poll = select.poll()
            poll.register(0, select.POLLIN)
            poll.register(self._signal_fd, select.POLLIN)
            watched = [self._parent_fd] if self.qemu is None else [self._parent_fd, self._qemu_fd]
            for fd in watched:
                if fd is not None:
                    poll.register(fd, select.POLLIN)
            events = poll.poll(_POLL_SECONDS * 1000 if None in watched else None)
            woken_by = {fd for fd, _ in events}
            if self._parent_fd in woken_by or self._signal_fd in woken_by:
                return False
            if 0 in woken_by:
                return True

    def _run(self, command: list[str]) -> None:
        try:
            with open(os.path.join(self.directory, QEMU_OUTPUT), "wb") as output:
                self.qemu = subprocess.Popen(
                    command,
                    cwd=self.directory,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    preexec_fn=_death_with_parent(),  # noqa: PLW1509  there is one thread only
                )
        except OSError as error:
            _say({"error": str(error)})
            return
        self._qemu_fd = _pidfd(self.qemu.pid)
        _say({"pid": self.qemu.pid})

    def _notice_exit(self) -> None:
        if self.qemu is not None and (status := self.qemu.poll()) is not None:
            self._forget_qemu()
            _say({"exit": status})

    def _end_qemu(self) -> None:
        if self.qemu is None:
            return
        self.qemu.terminate()
        try:
            self.qemu.wait(_TERM_SECONDS)
        except subprocess.TimeoutExpired:
            self.qemu.kill()
            self.qemu.wait()
        self._forget_qemu()

    def _forget_qemu(self) -> None:
        self.qemu = None
        if self._qemu_fd is not None:
            os.close(self._qemu_fd)
            self._qemu_fd = None


def _catch_signals() -> int:
    """Turn the signals that ask a process to end into something to read."""
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writing)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, _ignore)
    return reading


def _ignore(number: int, frame: object) -> None:
    """The descriptor tells."""


def _pidfd(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends; None where there is none."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _death_with_parent() -> Callable[[], None]:
    """What a child does between fork and exec so that it is killed when this process ends.

    The kernel ties this to the thread that forks, not to its process.
    """
    import ctypes

    keeper = os.getpid()
    libc = ctypes.CDLL(None)

    def prepare() -> None:
        if hasattr(libc, "prctl"):
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != keeper:
            os._exit(1)

    return prepare


def _say(message: dict[str, object]) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more: the end is near anyway
        os.write(1, json.dumps(message).encode() + b"\n")


def main() -> None:
    """Run the keeper that the command line asks for."""
    Keeper(int(sys.argv[1]), sys.argv[2]).serve()


if __name__ == "__main__":
    main()
