"""The process between the user's and a lab's programs, which leaves nothing behind.

It makes the lab's directory, starts QEMU or a libvirtd as its child, and ends it and removes
the directory when the user's process asks for it or is gone, however it went. A process of
its own can do this after the user's has been killed; a process group of its own keeps a
Ctrl-C that is meant for the user's process away from the lab.

What a libvirtd starts becomes a daemon, which outlives it. The kernel makes such processes
this one's children, and they end with the lab too.

Usage: ``python -I -S keeper.py PARENT_PID DIRECTORY``. It reads one JSON object a line from
its standard input and writes one a line to its standard output.

===================  ===============================================================
reads                does
===================  ===============================================================
``{"run": [...]}``   ends the program if it runs, starts this command line, and answers
                     ``{"pid": n}``. ``"output"`` names the file for what it writes;
                     ``"env"`` is its environment, if not this one's; ``"user"``,
                     ``"group"`` and the list ``"groups"`` of further ones are numbers that
                     it runs as, if not as this process
``{"stop": true}``   ends the program and all that it started, and answers
                     ``{"stopped": true}``
anything else, EOF   does the same, removes the directory, and ends itself
===================  ===============================================================

Unasked it writes ``{"ready": true}`` once the directory is there, and ``{"exit": n}`` when
the program ended by itself (n as in ``subprocess``). It writes ``{"error": "..."}`` when
the directory could not be made or the command not be started.

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
    from typing import Any

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
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
    """One lab's directory and program, held for the process ``parent``."""

    def __init__(self, parent: int, directory: str) -> None:
        self.parent = parent
        self.directory = directory
        self.program: subprocess.Popen[bytes] | None = None
        self._program_fd: int | None = None
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
                self._end_program()
                if "run" in request:
                    self._run(request)
                else:
                    _end_children()
                    _say({"stopped": True})
        finally:
            self._end_program()
            _end_children()
            remove_directory(self.directory)

    def _next_request(self) -> dict[str, Any] | None:
        """Wait for a request to run or to stop. None: it is time to end."""
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
        except ValueError:
            return None
        known = isinstance(request, dict) and ("run" in request or "stop" in request)
        return request if known else None

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
            watched = [self._parent_fd] + ([] if self.program is None else [self._program_fd])
            for fd in watched:
                if fd is not None:
                    poll.register(fd, select.POLLIN)
            events = poll.poll(_POLL_SECONDS * 1000 if None in watched else None)
            woken_by = {fd for fd, _ in events}
            if self._parent_fd in woken_by:
                return False
            if self._signal_fd in woken_by and _asked_to_end(self._signal_fd):
                return False
            if 0 in woken_by:
                return True

    def _run(self, request: dict[str, Any]) -> None:
        user, group = request.get("user"), request.get("group")
        try:
            with open(os.path.join(self.directory, request["output"]), "wb") as output:
                self.program = subprocess.Popen(
                    request["run"],
                    cwd=self.directory,
                    env=request.get("env"),
                    user=user,
                    group=group,
                    extra_groups=None if user is None else request.get("groups", []),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    preexec_fn=_death_with_parent(),  # noqa: PLW1509  there is one thread only
                )
        except (OSError, subprocess.SubprocessError) as error:
            _say({"error": str(error)})
            return
        self._program_fd = _pidfd(self.program.pid)
        _say({"pid": self.program.pid})

    def _notice_exit(self) -> None:
        if self.program is not None and (status := self.program.poll()) is not None:
            self._forget_program()
            _say({"exit": status})
        _reap(None if self.program is None else self.program.pid)

    def _end_program(self) -> None:
        if self.program is None:
            return
        self.program.terminate()
        try:
            self.program.wait(_TERM_SECONDS)
        except subprocess.TimeoutExpired:
            self.program.kill()
            self.program.wait()
        self._forget_program()

    def _forget_program(self) -> None:
        self.program = None
        if self._program_fd is not None:
            os.close(self._program_fd)
            self._program_fd = None


def _reap(spared: int | None) -> None:
    """Take leave of children that have ended, but not of the program, whose status counts.

    A dead process that nobody takes leave of looks alive to libvirt, which waits for its end.
    """
    for pid in _children():
        if pid != spared:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _end_children() -> None:
    """Kill what the program left, and what that leaves in turn, until there is no more."""
    while children := _children():
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _children() -> list[int]:
    """The processes whose parent this is; none where there is no ``/proc``."""
    mine = str(os.getpid())
    found = []
    with contextlib.suppress(OSError):
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                if file.read().rpartition(b")")[2].split()[1].decode() == mine:
                    found.append(int(name))
    return found


def _catch_signals() -> int:
    """Turn the end of a child, and what asks a process to end, into something to read."""
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, _ignore)
    return reading


def _asked_to_end(signal_fd: int) -> bool:
    """Whether a signal other than a child's end has come."""
    return bool(set(os.read(signal_fd, 4096)) - {signal.SIGCHLD})


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


def _adopt_orphans() -> None:
    """Have the kernel make this process the parent of what its descendants leave."""
    import ctypes

    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _say(message: dict[str, object]) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more: the end is near anyway
        os.write(1, json.dumps(message).encode() + b"\n")


def main() -> None:
    """Run the keeper that the command line asks for."""
    _adopt_orphans()
    Keeper(int(sys.argv[1]), sys.argv[2]).serve()


if __name__ == "__main__":
    main()
