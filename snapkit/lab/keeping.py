"""The user's side of the keeper: a directory and a program that vanish with this process."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from snapkit.errors import SnapkitError
from snapkit.lab.keeper import remove_directory

__all__ = ["KeptProgram", "short_directory"]

_SOCKET_PATH_BYTES = 107  # the longest path that a UNIX socket can have
_KEEPER_GONE = "its keeper process has ended. Close the lab and start a new one"
_ANSWER_SECONDS = 10.0
_END_SECONDS = 10.0  # the keeper's own time limits for the program and for the directory, and some


def short_directory(*sockets: str, for_others: bool = False) -> Path:
    """A free path for a lab's directory, short enough for sockets of these names in it.

    It is in the directory for temporary files, or in ``/tmp`` where that is too deep or,
    with ``for_others``, closed to other users. Raises SnapkitError if neither will do.
    """
    name = f"snapkit-lab-{secrets.token_hex(4)}"
    tried = list(dict.fromkeys([tempfile.gettempdir(), "/tmp"]))  # noqa: S108  the name is not guessable
    for base in tried:
        directory = Path(base, name)
        longest = max(len(os.fsencode(directory / socket)) for socket in sockets)
        if longest > _SOCKET_PATH_BYTES or not os.access(base, os.W_OK | os.X_OK):
            continue
        if not for_others or _lets_others_in(base):
            return directory
    msg = (
        f"no directory for the lab: {' and '.join(tried)} cannot be written to or have too long"
        " a path for a UNIX socket. Set TMPDIR to a writable directory with a short path"
    )
    raise SnapkitError(msg)


def _lets_others_in(directory: str) -> bool:
    """Whether users without any right of their own can get through to a directory."""
    path = Path(directory).resolve()
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in (path, *path.parents))


class KeptProgram:
    """A directory and at most one program in it, both held by a keeper process.

    They go with ``end()``, and also when this process ends in any other way. What the
    program has started goes with it.
    Raises SnapkitError if the keeper or the directory cannot be had.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.owner = os.getpid()
        self._lock = threading.RLock()
        self._unread = b""
        self._made = False
        self._exit_status: int | None = None
        self._output = ""
        self._held: dict[int, int] = {}
        self._keeper = _start_keeper(directory)
        try:
            self._made = bool(self._expect("ready"))
        except BaseException:
            self.end()
            raise

    def run(self, command: list[str], output: str = "qemu.log", **how: Any) -> int:
        """Start a program in place of the one that runs. Its process id.

        output: the file in the directory that gets what it writes to stdout and stderr.
        how: "env", "user" and "group", as in ``subprocess``, and "groups", which are further
            ones; the latter three are numbers.
        Raises SnapkitError if the program cannot be started.
        """
        self._output = output
        self._send({"run": command, "output": output, **how})
        pid = int(self._expect("pid"))
        self._exit_status = None
        self.hold(pid)
        return pid

    def hold(self, pid: int) -> None:
        """Have a running process end with the lab even if the keeper has been killed.

        The program itself is held without this.
        """
        with contextlib.suppress(AttributeError, OSError):
            self._held[pid] = os.pidfd_open(pid)

    def has_ended(self, pid: int, wait: float = 0.0) -> bool:
        """Whether a process that was held has ended, or does so within ``wait`` seconds."""
        held = self._held.get(pid)
        if held is None:
            return True
        return bool(select.select([held], [], [], wait)[0])

    def stop(self) -> None:
        """End the program and all that it started, and leave the directory."""
        self._send({"stop": True})
        self._expect("stopped")
        self._forget()

    def exit_status(self, wait: float = 0.0) -> int | None:
        """How the program ended, as in ``subprocess``. None: it had not within ``wait`` seconds."""
        deadline = time.monotonic() + wait
        while self._exit_status is None:
            message = self._receive(deadline)
            if message is None:
                break
            self._exit_status = message.get("exit")
        return self._exit_status

    def output(self) -> str:
        """The end of what the program has written to stdout and stderr."""
        try:
            written = (self.directory / self._output).read_bytes()
        except OSError:  # also when nothing was run yet: the directory is no file
            return ""
        return written[-2000:].decode(errors="replace").strip()

    def end(self) -> None:
        """End the program and the keeper and remove the directory. Again and again, if you like.

        In a process that was forked off it does nothing: the lab is its parent's.
        """
        if os.getpid() != self.owner:
            return
        with self._lock:
            keeper = self._keeper
            if keeper.stdin is not None:
                with contextlib.suppress(OSError):
                    # A forked child may hold the pipe open, so its end alone would not tell.
                    keeper.stdin.write(b'{"end": true}\n')
                    keeper.stdin.flush()
                with contextlib.suppress(OSError):
                    keeper.stdin.close()
            try:
                keeper.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                keeper.kill()
                keeper.wait()
            if keeper.stdout is not None:
                keeper.stdout.close()
            # All is there still if the keeper was killed.
            self._kill_held()
            if self._made:
                remove_directory(str(self.directory))

    def _kill_held(self) -> None:
        """By its descriptor, which never means another process, as a number may."""
        for held in self._held.values():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(held, signal.SIGKILL)
            select.select([held], [], [], _END_SECONDS)
        self._forget()

    def _forget(self) -> None:
        while self._held:
            os.close(self._held.popitem()[1])

    def _send(self, message: dict[str, Any]) -> None:
        stdin = self._keeper.stdin
        try:
            if stdin is not None:
                stdin.write(json.dumps(message).encode() + b"\n")
        except (OSError, ValueError) as error:
            msg = f"the lab cannot start: {_KEEPER_GONE}"
            raise SnapkitError(msg) from error

    def _expect(self, key: str) -> Any:
        """The value that the keeper's next answer has under ``key``."""
        deadline = time.monotonic() + _ANSWER_SECONDS
        while (message := self._receive(deadline)) is not None:
            if key in message:
                return message[key]
            if "error" in message:
                msg = f"the lab cannot start: {message['error']}"
                raise SnapkitError(msg)
        msg = "the lab cannot start: its keeper process does not answer. Is the machine very busy?"
        raise SnapkitError(msg)

    def _receive(self, deadline: float) -> dict[str, Any] | None:
        """The keeper's next message. None: the time is up, or the keeper was asked to end."""
        stdout = self._keeper.stdout
        if stdout is None or stdout.closed:
            return None
        while b"\n" not in self._unread:
            left = max(0.0, deadline - time.monotonic())
            poll = select.poll()
            poll.register(stdout, select.POLLIN)
            if not poll.poll(left * 1000):
                return None
            data = os.read(stdout.fileno(), 65536)
            if not data:
                # The program has been killed with it.
                return {"error": _KEEPER_GONE, "exit": -signal.SIGKILL}
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        try:
            message = json.loads(line)
        except ValueError:
            # Python itself is talking: a traceback, or why it cannot start.
            return {"error": (line + b"\n" + self._unread).decode(errors="replace").strip()}
        return message if isinstance(message, dict) else {}


def _start_keeper(directory: Path) -> subprocess.Popen[bytes]:
    """Start the keeper for ``directory`` in a session of its own, where no Ctrl-C reaches it."""
    if not sys.executable:
        msg = "the lab needs a Python interpreter to start, and sys.executable names none"
        raise SnapkitError(msg)
    program = Path(__file__).with_name("keeper.py")
    arguments = [str(os.getpid()), str(directory)]
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(program), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        msg = f"the lab's keeper process cannot start: {error}"
        raise SnapkitError(msg) from error
