"""QMP by hand: a preview's lines sent over a monitor, or typed into qmp-shell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import Qmp, wait_until


def feed(qmp: Qmp, text: str) -> None:
    """Send a preview of the form ``qmp``, waiting for jobs where it has to be waited."""
    for line in text.splitlines():
        command = json.loads(line)
        assert qmp.send(command) == {"return": {}}
        if command["execute"] == "blockdev-create":
            wait_for_job(qmp, command["arguments"]["job-id"])


def wait_for_job(qmp: Qmp, job: str) -> None:
    def concluded() -> bool:
        jobs = qmp.execute("query-jobs")
        return any(row["id"] == job and row["status"] == "concluded" for row in jobs)

    wait_until(concluded, f"the job {job} ends")


def type_in(socket: str, home: Path, text: str) -> None:
    """Type a preview of the form ``qmp-shell`` into a qmp-shell."""
    shell = Shell(socket, home)
    try:
        for line in text.splitlines():
            answer = shell.say(line)
            in_transaction = answer.endswith("TRANS> ")
            assert in_transaction or '{"return": {}}' in answer, answer
            if line.startswith("blockdev-create"):
                wait_until(shell.all_jobs_ended, "the job ends")
    finally:
        shell.close()


class Shell:
    """The qmp-shell of qemu.qmp, fed line by line. ``home`` is where its history goes."""

    def __init__(self, socket: str, home: Path) -> None:
        program = Path(sys.executable).with_name("qmp-shell")
        self.process = subprocess.Popen(
            [program, socket],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HOME": str(home), "PYTHONWARNINGS": "ignore"},
        )
        self.read()

    def read(self) -> str:
        """Everything up to the next prompt."""
        assert self.process.stdout is not None
        said = b""
        while not said.endswith((b"(QEMU) ", b"TRANS> ")):
            byte = os.read(self.process.stdout.fileno(), 1)
            assert byte, f"qmp-shell ended: {said.decode()}"
            said += byte
        return said.decode()

    def say(self, line: str) -> str:
        """What it answers to a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        return self.read()

    def all_jobs_ended(self) -> bool:
        """Whether there are jobs, and all of them have ended."""
        said = self.say("query-jobs")
        return said.count('"status": ') == said.count('"status": "concluded"') > 0

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()
