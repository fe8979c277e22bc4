"""The seed's domain in a libvirtd of its own, and what it looks like from outside."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.conftest import digest
from tests.libvirtd import PrivateLibvirt


def pasted(command: str, home: Path) -> str:
    """What a command prints that is pasted into a shell, with nobody's settings."""
    settings = {"PATH": os.environ["PATH"], "HOME": str(home), "LC_ALL": "C"}
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, check=False, env=settings
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class Seed:
    """A paused domain with the seed's two disks: a raw vda and a qcow2 vdb."""

    def __init__(self, daemon: PrivateLibvirt, name: str = "win2003") -> None:
        self.daemon = daemon
        self.uri = daemon.uri
        self.name = name
        self.raw = daemon.image("win2003.img", "raw", "4M")
        self.data = daemon.image("data.qcow2", size="4M")
        self.start()

    def start(self) -> None:
        """Start the domain, or start it once more."""
        self.daemon.paused(self.raw, self.data, name=self.name)

    @property
    def directory(self) -> Path:
        return Path(self.raw).parent

    @property
    def targets(self) -> dict[str, str]:
        return {"vda": self.file("w.snap"), "vdb": self.file("d.snap")}

    def file(self, name: str) -> str:
        return str(self.directory / name)

    def disks(self) -> dict[str, str]:
        """What ``virsh domblklist`` says."""
        lines = self.daemon.virsh("domblklist", self.name).splitlines()
        return dict(line.split() for line in lines if line.strip())

    def shell(self, command: str) -> str:
        """What a command prints that is pasted into a shell, with nobody's settings."""
        return pasted(command, self.directory)

    def images(self) -> dict[str, str]:
        """Every file beside the disks with its digest."""
        found = (path for path in self.directory.iterdir() if path.is_file())
        return {path.name: digest(path) for path in sorted(found)}

    def pid(self) -> int:
        return self.daemon.qemu_pid(self.name)

    def stat(self, name: str) -> tuple[int, int]:
        status = os.stat(self.file(name))
        return status.st_ino, status.st_size
