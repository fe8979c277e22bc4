"""A VM with some disks, the same one again and again."""

from __future__ import annotations

import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.conftest import Process, blockdev, qemu_img

SIZE = "1G"
MACHINE = (
    *("qemu-system-x86_64", "-machine", "pc", "-accel", "tcg", "-m", "16", "-display", "none"),
    *("-nodefaults", "-no-user-config", "-S"),
)
SMALL = "cluster_size=4k"
"""Makes small files of images of which there are thousands."""
SLOW_MICROSECONDS = 5000


class Disks:
    """``count`` qcow2 images with ``depth`` images below each: ``e0``, ``e1`` and so on.

    They are in ``place``/base; overlays are meant to go to ``place``/over. ``nbd`` is the
    socket of the exports.
    """

    def __init__(self, place: Path, count: int, depth: int = 0) -> None:
        self.place = place
        self.nbd = place / "nbd.sock"
        self.names = [f"e{number}" for number in range(count)]
        self._kept = place / "kept"
        for name in ("kept", "base", "over"):
            (place / name).mkdir(parents=True)
        qemu_img("create", "-q", "-f", "qcow2", self._kept / "template", SIZE)
        self._base = (self._kept / "template").read_bytes()
        self._overs: dict[int, bytes] = {}
        for name in self.names:
            self._make(name, depth)

    def _make(self, name: str, depth: int) -> None:
        """Make a chain whose top has the disk's name; all of it lies in ``base``."""
        below = self._base
        for number in range(depth):
            layer = self.place / "base" / f"{name}.{number}"
            layer.write_bytes(below)
            below = self._over(layer)
        (self._kept / name).write_bytes(below)

    def _over(self, layer: Path) -> bytes:
        """An image that stands on ``layer``.

        Thousands of them are needed: so the one that qemu-img makes has a backing file of the
        same length, whose name is then replaced.
        """
        named = str(layer).encode()
        length = len(named)
        if length not in self._overs:
            file = self._kept / "template"
            create = ("create", "-q", "-u", "-f", "qcow2", "-o", SMALL, "-F", "qcow2")
            qemu_img(*create, "-b", "x" * length, file, SIZE)
            self._overs[length] = file.read_bytes()
            file.unlink()
        return self._overs[length].replace(b"x" * length, named)

    def targets(self) -> dict[str, str]:
        """An overlay for each disk."""
        return {name: str(self.place / "over" / name) for name in self.names}

    def running(self, slow: Path | None = None) -> AbstractContextManager[Process]:
        """A storage daemon with the disks as they were made and no overlay, exported over NBD.

        ``slow`` is the library that makes the overlays' directory a slow one.
        """
        settings: list[str] = []
        if slow is not None:
            directory = f"SLOW_DIRECTORY={self.place}/over"
            time = f"SLOW_MICROSECONDS={SLOW_MICROSECONDS}"
            settings = ["env", f"LD_PRELOAD={slow}", directory, time]
        monitors = [
            part
            for number, address in enumerate(self._monitors())
            for part in (
                *("--chardev", f"socket,path={address},server=on,wait=off,id=m{number}"),
                *("--monitor", f"chardev=m{number}"),
            )
        ]
        nbd = ["--nbd-server", f"addr.type=unix,addr.path={self.nbd},max-connections=0"]
        exports = [
            part
            for number, name in enumerate(self.names)
            for part in (
                *blockdev(f"n{number}", self.place / "base" / name),
                *("--export", f"type=nbd,id={name},node-name=n{number},name={name},writable=on"),
            )
        ]
        return self._process([*settings, "qemu-storage-daemon", *monitors, *nbd, *exports])

    def machine(self) -> AbstractContextManager[Process]:
        """A QEMU without a guest that has the disks as SCSI ones."""
        monitors = [
            part
            for address in self._monitors()
            for part in ("-qmp", f"unix:{address},server=on,wait=off")
        ]
        disks = [
            part
            for number, name in enumerate(self.names)
            for part in (
                *blockdev(f"n{number}", self.place / "base" / name),
                *("-device", f"scsi-hd,bus=scsi.0,drive=n{number},id={name}"),
            )
        ]
        return self._process([*MACHINE, *monitors, "-device", "virtio-scsi-pci,id=scsi", *disks])

    def _monitors(self) -> list[Path]:
        return [self.place / "qmp.sock", self.place / "outside.sock"]

    @contextmanager
    def _process(self, command: list[str]) -> Iterator[Process]:
        for old in (*(self.place / "over").iterdir(), *self.place.glob("*.sock")):
            old.unlink()
        for name in self.names:
            shutil.copy(self._kept / name, self.place / "base" / name)
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        prefix = ["prlimit", f"--nofile={most}:{most}"]
        process = Process([*prefix, *command], self.place, f"unix:{self.place}/qmp.sock")
        try:
            # The monitor is there before the images are open.
            process.ask("query-version")
            yield process
        finally:
            process.stop()


def build(source: Path, library: Path) -> Path:
    """Compile the library that makes a directory slow."""
    if shutil.which("gcc") is None:
        pytest.fail("missing: gcc; run: apt-get install gcc libc6-dev")
    options = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror"]
    subprocess.run(["gcc", *options, "-o", library, source, "-ldl"], check=True)
    return library
