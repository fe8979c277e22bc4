"""The user's side of the keeper: a directory and a QEMU that vanish with this process."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from snapkit.errors import SnapkitError
from snapkit.lab.keeper import QEMU_OUTPUT, remove_directory

__all__ = ["KeptQemu", "short_directory"]

_SOCKET_PATH_BYTES = 107  # the longest path that a UNIX socket can have
_KEEPER_GONE = "its keeper process has ended. Close the lab and start a new one"
_ANSWER_SECONDS = 10.0
_END_SECONDS = 10.0  # the keeper's own time limits for QEMU and for the directory, and some


def short_directory(*sockets: str) -> Path:
    """A free path for a lab's directory, short enough for sockets of these names in it.

    It is in the directory for temporary files, or in ``/tmp`` where that is too deep.
    Raises SnapkitError if neither will do.
    """
    name = f"snapkit-lab-{secrets.token_hex(4)}"
    tried = list(dict.fromkeys([tempfile.gettempdir(), "/tmp"]))  # noqa: S108  the name is not guessable
    for base in tried:
        directory = Path(base, name)
        longest = max(len(os.fsencode(directory / socket)) for socket in sockets)
        if longest <= _SOCKET_PATH_BYTES and os.access(base, os.W_OK | os.X_OK):
            return directory
    msg = (
        f"no directory for the lab: {' and '.join(tried)} cannot be written to or have too long"
        " a path for a UNIX socket. Set TMPDIR to a writable directory with a short path"
    )
    raise SnapkitError(msg)


class KeptQemu:
    """A directory and at most one QEMU, both held by a keeper process.

    They go with ``end()``, and also when this process ends in any other way.
    Raises SnapkitError if the keeper or the directory cannot be had.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.owner = os.getpid()
        self._lock = threading.RLock()
        self._unread = b""
        self._made = False
        self._exit_status: int | None = None
        self._qemu_fd: int | None = None
        self._keeper = _start_keeper(directory)
        try:
            self._made = bool(self._expect("ready"))
        except BaseException:
            self.end()
            raise

    def run(self, command: list[str]) -> int:
        """Start QEMU with this command line. Its process id.

        Raises SnapkitError if the program cannot be started.
        """
        self._send({"run": command})
        pid = int(self._expect("pid"))
        self._exit_status = None
        self._forget_qemu()
        with contextlib.suppress(AttributeError, OSError):
            self._qemu_fd = os.pidfd_open(pid)
        return pid

    def stop(self) -> None:
        """End QEMU if it runs, and leave the directory."""
        self._send({"stop": True})
        self._expect("stopped")

    def exit_status(self, wait: float = 0.0) -> int | None:
        """How QEMU ended, as in ``subprocess``. None: it had not within ``wait`` seconds."""
        deadline = time.monotonic() + wait
        while self._exit_status is None:
            message = self._receive(deadline)
            if message is None:
                break
            self._exit_status = message.get("exit")
        return self._exit_status

    def output(self) -> str:
        """The end of what QEMU has written to stdout and stderr."""
        try:
            written = (self.directory / QEMU_OUTPUT).read_bytes()
        except OSError:
            return ""
        return written[-2000:].decode(errors="replace").strip()

    def end(self) -> None:
        """End QEMU and the keeper and remove the directory. Again and again, if you like.

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
            # Both are there still if the keeper was killed.
            self._kill_qemu()
            if self._made:
                remove_directory(str(self.directory))

    def _kill_qemu(self) -> None:
        """By its descriptor, which never means another process, as a number may."""
        if self._qemu_fd is None:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._qemu_fd, signal.SIGKILL)
        select.select([self._qemu_fd], [], [], _END_SECONDS)
        self._forget_qemu()

    def _forget_qemu(self) -> None:
        if self._qemu_fd is not None:
            os.close(self._qemu_fd)
            self._qemu_fd = None

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
                # QEMU has been killed with it.
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
