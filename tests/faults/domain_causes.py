"""What goes wrong with a libvirt domain: its daemon, its start, and who else is at it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

from tests.conftest import SECONDS, digest, wait_until
from tests.faults.causes import DeviceUnplugged, Fault
from tests.faults.cell import ROOT, Cell, Client
from tests.faults.domain import DomainCell
from tests.faults.view import look

__all__ = [
    "DaemonAway",
    "DaemonRestarted",
    "DiskDetached",
    "LinkCut",
    "QemuQuits",
    "SecondSnapkit",
    "StartedAnew",
    "Undefined",
    "VirshSnapshot",
]


class DomainFault(Fault):
    """Something that only a libvirt domain can meet."""

    def strike(self, cell: Cell, client: Client) -> None:
        assert isinstance(cell, DomainCell)
        self.hit(cell)

    def hit(self, cell: DomainCell) -> None:
        raise NotImplementedError


class LinkCut(DomainFault):
    """Between snapkit and the daemon, which goes on with what it was asked for."""

    name = "connection cut"

    def hit(self, cell: DomainCell) -> None:
        link = cell.domain.link
        before = link.connections
        link.cut()
        if cell.daemon_is_at_it:
            wait_until(lambda: link.connections > before, "it is asked what became of it")


class DaemonRestarted(DomainFault):
    name = "daemon restarted"

    def hit(self, cell: DomainCell) -> None:
        cell.domain.kill_daemon()
        cell.domain.daemon.restart()


class DaemonAway(DomainFault):
    """It is started again only after the run."""

    name = "daemon away"
    patience: ClassVar[float | None] = 0.3

    def hit(self, cell: DomainCell) -> None:
        cell.domain.kill_daemon()

    def mend(self, cell: Cell) -> None:
        assert isinstance(cell, DomainCell)
        cell.domain.daemon.restart()


class QemuQuits(DomainFault):
    """By itself, as after a guest's shutdown."""

    name = "domain ends"

    def hit(self, cell: DomainCell) -> None:
        cell.qemu.ask("quit")
        cell.domain.wait()
        cell.alive = False


class StartedAnew(DomainFault):
    """The domain is destroyed, and runs again under the same name and uuid."""

    name = "domain started anew"

    def hit(self, cell: DomainCell) -> None:
        cell.domain.virsh("destroy")
        cell.domain.start()


class Undefined(DomainFault):
    name = "domain undefined"

    def hit(self, cell: DomainCell) -> None:
        cell.domain.virsh("undefine")


class _Other(DomainFault):
    """Somebody else takes a snapshot of one of the disks at the same time.

    While the daemon is at ours, theirs waits.
    """

    def command(self, cell: DomainCell, file: str) -> list[str]:
        raise NotImplementedError

    def hit(self, cell: DomainCell) -> None:
        self.file = str(cell.directory / "theirs.snap")
        self.process = subprocess.Popen(
            self.command(cell, self.file),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env={**os.environ, "SNAPKIT_JOURNAL": f"{cell.journal}.second"},
        )
        if not cell.daemon_is_at_it:
            self._note(cell)

    def mend(self, cell: Cell) -> None:
        assert isinstance(cell, DomainCell)
        self._note(cell)

    def _note(self, cell: DomainCell) -> None:
        """What they have made is theirs, whatever of it."""
        said, _ = self.process.communicate(timeout=2 * SECONDS)
        assert self.process.returncode == 0, said
        cell.disks.others[self.file] = digest(self.file)


class VirshSnapshot(_Other):
    name = "virsh snapshot"

    def command(self, cell: DomainCell, file: str) -> list[str]:
        rest = [word for disk in "ac" for word in ("--diskspec", f"sd{disk},snapshot=no")]
        return [
            *("virsh", "-q", "-c", cell.domain.daemon.uri, "snapshot-create-as", "vm"),
            *("--disk-only", "--no-metadata", "--diskspec", f"sdb,file={file}", *rest),
        ]


class SecondSnapkit(_Other):
    name = "second snapkit"

    def command(self, cell: DomainCell, file: str) -> list[str]:
        script = (
            "import sys, snapkit\n"
            "with snapkit.connect(sys.argv[1], 'vm', timeout=20) as vm:\n"
            "    vm.snapshot({'sdb': sys.argv[2]}, metadata='no')\n"
        )
        return [sys.executable, "-c", script, cell.domain.daemon.uri, file]


class DiskDetached(DeviceUnplugged):
    """libvirt closes a disk's images too, once its guest has let go of it."""

    def mend(self, cell: Cell) -> None:
        assert isinstance(cell, DomainCell)
        wait_until(lambda: "disk1" not in cell.domain.images(), "libvirt has let go of the disk")
        was = cell.disks.view.files[cell.disks.view.devices["disk1"]]
        wait_until(lambda: was not in look(cell.qemu).files.values(), "its images are closed")
        cell.unplugged.add("disk1")
        overlay = Path(cell.targets["disk1"])
        if overlay.exists() and cell.position(look(cell.qemu)) == "new":
            # The image of a disk that is somewhere else now.
            cell.disks.others[str(overlay)] = digest(overlay)
