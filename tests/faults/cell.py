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

from tests.conftest import MIB, SECONDS, Qmp, blockdev, create_image, wait_until
from tests.faults.room import Room
from tests.faults.view import Disks, Offline, Position, View, file_of, files_of, look, position

__all__ = ["ROOT", "Cell", "Client", "Machine", "Report", "Subprocess", "disk_images", "scsi_disks"]

ROOT = Path.cwd()
Report = dict[str, Any]


class Machine(Protocol):
    """A VM, as the tests see it: over a monitor that snapkit knows nothing of."""

    uri: str
    log: Path

    def qmp(self) -> Qmp:
        """An own client."""

    def ask(self, command: str, /, **arguments: Any) -> Any:
        """One command over a connection of its own."""

    def stop(self) -> None:
        """Kill QEMU, and wait for its end."""


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


def disk_images(directory: Path) -> list[tuple[str, str]]:
    """Three images of 1 MiB, each with its format; the first has a backing file.

    One is raw. Each holds something that could be lost.
    """
    raw = directory / "disk2.img"
    raw.write_bytes(b"precious" * (MIB // 8))
    base = str(directory / "base0.qcow2")
    for image in (base, str(directory / "disk1.qcow2")):
        command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), image]
        subprocess.run(command, check=True)
    top = create_image(directory / "disk0.qcow2", backing=base, backing_format="qcow2")
    return [(top, "qcow2"), (str(directory / "disk1.qcow2"), "qcow2"), (str(raw), "raw")]


def scsi_disks(directory: Path) -> list[str]:
    """The three images as disks of QEMU that can be unplugged without a guest."""
    arguments = ["-device", "virtio-scsi-pci,id=scsi"]
    for number, (image, driver) in enumerate(disk_images(directory)):
        arguments += blockdev(f"node{number}", image, driver)
        arguments += ["-device", f"scsi-hd,id=disk{number},drive=node{number}"]
    return arguments


class Cell:
    """A VM, where its overlays are to go, and the line to a client.

    ``room`` is the namespace that all of it is in, if any.
    """

    prefix = ""
    """What stands before a disk's name where snapkit knows it."""

    def __init__(
        self, directory: Path, qemu: Machine, journal: Path, *, room: Room | None = None
    ) -> None:
        self.directory = directory
        self.qemu = qemu
        self.room = room
        self.store = directory / "store"
        self.journal = journal
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

    @property
    def address(self) -> dict[str, Any]:
        """Where snapkit finds the VM."""
        return {"uri": self.qemu.uri, "domain": None}

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

    def position(self, view: View) -> Position:
        """Where the disks are, as somebody else sees it."""
        return position(view, self.targets)

    def start(self, client: Client, work: str, **job: object) -> None:
        """Have a client begin some work, and pick up its line."""
        self.hang_up()
        line = str(self.directory / "line.sock")
        self._clients.append(client)
        client.start({"work": work, "line": line, **self.address, **job}, self.journal)
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

    def run_to(
        self, client: Client, moment: str, *, patience: float | None = None, **options: object
    ) -> None:
        """Start a snapshot and stop it at a moment.

        ``patience`` is for how many seconds it tries to reach the VM again.
        """
        undo = moment == "within undo"
        self.begin(client, ["before the switch"] * undo + [moment], patience, options)
        if undo:
            self.hear_at("before the switch")
            self.make_the_switch_fail()
            self.say("go")
        self.hear_at(moment)
        if moment == "switch sent, no reply":
            wait_until(lambda: self.position(look(self.qemu)) == "new", "the switch is done")

    def begin(
        self,
        client: Client,
        moments: Sequence[str],
        patience: float | None,
        options: Mapping[str, object],
    ) -> None:
        """Start a snapshot of all disks."""
        targets = {f"{self.prefix}{device}": file for device, file in self.targets.items()}
        limit = {} if patience is None else {"patience": patience}
        job = {"targets": targets, "moments": moments, "options": options, **limit}
        self.start(client, "snapshot", **job)

    def is_named(self, thing: str, said: str) -> bool:
        """Whether a message names what is left: a file, a node or a job."""
        return thing in said

    def contradictions(self, state: str) -> list[str]:
        """Where who manages the VM tells something else than it and the journal do."""
        return []

    def settle(self) -> None:
        """What goes on without the client comes to its end."""

    def unplug(self, device: str) -> None:
        """The guest has let go of a disk."""
        self.qemu.ask("device_del", id=f"{self.prefix}{device}")
        wait_until(lambda: device not in look(self.qemu).devices, "the device is gone")

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
