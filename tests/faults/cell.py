"""One cell of the matrix: a VM with three disks, and a client that is stopped at a moment."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tests.conftest import MIB, SECONDS, StartQemu, blockdev, create_image, wait_until
from tests.faults.room import Room
from tests.faults.view import Disks, Offline, View, file_of, files_of, look, position

__all__ = ["ROOT", "Cell", "Client", "Report", "Subprocess", "scsi_disks"]

ROOT = Path.cwd()
Report = dict[str, Any]


class Client(Protocol):
    """Where ``tests.faults.client`` runs."""

    def start(self, job: Mapping[str, object], journal: Path) -> None:
        """Begin a job."""

    def kill(self) -> None:
        """End it at once."""

    def wait(self) -> None:
        """Wait for its end; a failure of its own fails the test."""


class Subprocess:
    """A Python of its own, with words in front of its command line."""

    def __init__(self, directory: Path, prefix: Sequence[str] = ()) -> None:
        self.prefix = list(prefix)
        self.log = directory / "client.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, job: Mapping[str, object], journal: Path) -> None:
        python = [sys.executable, "-W", "error", "-m", "tests.faults.client"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*self.prefix, *python, json.dumps(job)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, "SNAPKIT_JOURNAL": str(journal)},
            )

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def wait(self) -> None:
        assert self.process is not None
        self.process.wait(SECONDS)
        said = self.log.read_text()
        assert said == "", said


def scsi_disks(directory: Path) -> list[str]:
    """Three disks of 1 MiB that can be unplugged without a guest; the first has a backing file.

    One is raw. Each holds something that could be lost.
    """
    raw = directory / "disk2.img"
    raw.write_bytes(b"precious" * (MIB // 8))
    base = str(directory / "base0.qcow2")
    for image in (base, str(directory / "disk1.qcow2")):
        command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), image]
        subprocess.run(command, check=True)
    top = create_image(directory / "disk0.qcow2", backing=base, backing_format="qcow2")
    images = [(top, "qcow2"), (str(directory / "disk1.qcow2"), "qcow2"), (str(raw), "raw")]
    arguments = ["-device", "virtio-scsi-pci,id=scsi"]
    for number, (image, driver) in enumerate(images):
        arguments += blockdev(f"node{number}", image, driver)
        arguments += ["-device", f"scsi-hd,id=disk{number},drive=node{number}"]
    return arguments


def _open_to_all(directory: Path) -> None:
    """For a QEMU that is another user."""
    for path in (directory, *directory.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)


class Cell:
    """A VM, where its overlays are to go, and the line to a client.

    ``room`` is the namespace that all of it is in, if any.
    """

    def __init__(
        self,
        directory: Path,
        start_qemu: StartQemu,
        journal: Path,
        *,
        room: Room | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.room = room
        self.store = directory / "store"
        self.journal = journal
        words = [*(room.prefix if room else ()), *prefix]
        disks = scsi_disks(directory)
        if prefix:
            _open_to_all(directory)
        self.qemu = start_qemu(*disks, prefix=words)
        self.alive = True
        self.targets = {f"disk{n}": str(self.store / f"over{n}.snap") for n in range(3)}
        self.offline = Offline(room.prefix if room else ())
        self.disks = Disks(self.files(), look(self.qemu), self.targets)
        self._server = socket.socket(socket.AF_UNIX)
        self._server.settimeout(SECONDS)
        self._server.bind(str(directory / "line.sock"))
        self._server.listen()
        self._line: socket.socket | None = None
        self._stream: Any = None
        self._clients: list[Client] = []

    def seen(self, path: Path) -> Path:
        """Where a path of the VM's is for the test."""
        return self.room.seen(path) if self.room else path

    def files(self) -> dict[str, str]:
        """Every file where QEMU is."""
        top = self.seen(self.directory)
        start = len(str(top)) - len(str(self.directory))
        return {path[start:]: what for path, what in files_of(top).items()}

    def view(self) -> View | None:
        """The graph; None where QEMU is no more."""
        return look(self.qemu) if self.alive else None

    def start(self, client: Client, work: str, **job: object) -> None:
        """Have a client begin some work, and pick up its line."""
        self.hang_up()
        line = str(self.directory / "line.sock")
        self._clients.append(client)
        client.start({"work": work, "line": line, "uri": self.qemu.uri, **job}, self.journal)
        self._line, _ = self._server.accept()
        self._line.settimeout(2 * SECONDS)
        self._stream = self._line.makefile("rw")

    def hear(self) -> Report:
        """What the client says next; empty if it has hung up."""
        said = self._stream.readline()
        report: Report = json.loads(said) if said else {}
        return report

    def hear_at(self, moment: str) -> None:
        """The client has come to a moment."""
        said = self.hear()
        assert said == {"at": moment}, said

    def say(self, word: str) -> None:
        self._stream.write(f"{word}\n")
        self._stream.flush()

    def run_to(self, client: Client, moment: str, **options: object) -> None:
        """Start a snapshot and stop it at a moment."""
        undo = moment == "within undo"
        moments = ["before the switch", moment] if undo else [moment]
        given = {"targets": self.targets, "moments": moments, "options": options}
        self.start(client, "snapshot", **given)
        if undo:
            self.hear_at("before the switch")
            self.make_the_switch_fail()
            self.say("go")
        self.hear_at(moment)
        if moment == "switch sent, no reply":
            wait_until(
                lambda: position(look(self.qemu), self.targets) == "new", "the switch is done"
            )

    def make_the_switch_fail(self) -> None:
        """Somebody else closes a prepared overlay."""
        overlay = self.targets["disk2"]
        (name,) = (
            node["node-name"]
            for node in self.qemu.ask("query-named-block-nodes", flat=True)
            if node["drv"] == "qcow2" and file_of(node) == overlay
        )
        self.qemu.ask("blockdev-del", node_name=name)

    def hang_up(self) -> None:
        if self._line is not None:
            self._stream.close()
            self._line.close()
            self._line = None

    def close(self) -> None:
        self.hang_up()
        self._server.close()
        for client in self._clients:
            client.kill()
        if self.room:
            self.room.close()
