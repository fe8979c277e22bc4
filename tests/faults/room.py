"""A small file system of one's own, for root and for an ordinary user alike."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.ordinary import is_root

__all__ = ["Room"]

MOUNT = 'mount -t tmpfs -o size=4m tmpfs "$1" && echo ready && exec sleep infinity'


class Room:
    """A mount namespace in which ``store`` is a file system of 4 MiB of its own.

    ``prefix`` are the words that start a command in there. ``seen`` is where a path of that
    namespace is in this one.
    """

    def __init__(self, store: Path) -> None:
        own = ["--mount"] if is_root() else ["--user", "--map-root-user", "--mount"]
        self.store = store
        self.process = subprocess.Popen(
            ["unshare", *own, "sh", "-c", MOUNT, "sh", str(store)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        if said != "ready\n":
            self.close()
            pytest.fail(f"no file system could be mounted in a namespace of its own: {said}")
        same = ["--mount"] if is_root() else ["--user", "--preserve-credentials", "--mount"]
        where = os.getcwd()
        self.prefix = ["nsenter", *same, f"--target={self.process.pid}", f"--wd={where}"]

    def seen(self, path: Path) -> Path:
        return Path(f"/proc/{self.process.pid}/root{path}")

    def mount(self, *arguments: str) -> str:
        """Run mount in there; what it says against it, or nothing."""
        command = [*self.prefix, "mount", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stderr.strip()

    def unmount(self, path: Path) -> None:
        subprocess.run([*self.prefix, "umount", str(path)], check=True)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
