"""Clients that begin at once: forked from a process that has loaded everything already.

``python -m tests.faults.forks`` reads one order a line from its standard input, in JSON, and
writes the process id of the client that it has made for it.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tests.faults.moments import SECONDS

__all__ = ["Forked", "Forks"]

LOADED = "pandas snapkit.plan snapkit.tables snapkit.vm snapkit.backends.qmp libvirt".split()


class Forks:
    """The process that makes them."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.faults.forks"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Threads of numpy's would not be there in a fork.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            text=True,
        )

    def start(self, order: Mapping[str, object]) -> int:
        """A client's process id."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{json.dumps(order)}\n")
        stdin.flush()
        return int(stdout.readline())

    def close(self) -> None:
        self._process.communicate()


class Forked:
    """A client. What it writes is in ``directory``."""

    def __init__(self, forks: Forks, directory: Path) -> None:
        self._forks = forks
        self._log = directory / "client.log"
        self._handle = -1

    def start(self, job: Mapping[str, object], journal: Path) -> None:
        self._log.write_bytes(b"")
        order = {"job": job, "journal": str(journal), "log": str(self._log)}
        self._handle = os.pidfd_open(self._forks.start(order))

    def kill(self) -> None:
        if self._handle >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)
            self._wait()

    def wait(self) -> None:
        self._wait()
        said = self._log.read_text()
        assert said == "", said

    def _wait(self) -> None:
        ended, _, _ = select.select([self._handle], [], [], SECONDS)
        assert ended, "the client has not ended"
        os.close(self._handle)
        self._handle = -1


def main() -> None:
    """Make clients until nobody wants any."""
    for name in LOADED:
        importlib.import_module(name)
    for line in sys.stdin:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        pid = os.fork()
        if not pid:
            _be_client(**json.loads(line))
        print(pid, flush=True)


def _be_client(job: Mapping[str, object], journal: str, log: str) -> None:
    """What remains of this process's life."""
    os.environ["SNAPKIT_JOURNAL"] = journal
    handle = os.open(log, os.O_WRONLY | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, own in ((nothing, 0), (handle, 1), (handle, 2)):
        os.dup2(number, own)
    from tests.faults import client

    client.main(job)
    sys.exit()


if __name__ == "__main__":
    main()
