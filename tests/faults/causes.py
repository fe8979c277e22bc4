"""The faults: each strikes once, and is mended before anybody recovers."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from typing import ClassVar

import pytest

from tests.conftest import digest
from tests.faults.cell import ROOT, Cell, Client
from tests.faults.view import look
from tests.ordinary import NOBODY, is_root

REFUSED = """\
The kernel refused to make it read-only while overlays were open for writing there (busy).
  It was mounted over itself, read-only."""

__all__ = [
    "AnotherRecovers",
    "ClientKilled",
    "ConnectionCut",
    "DeviceUnplugged",
    "DirectoryRemoved",
    "DiskFull",
    "Fault",
    "FileAppears",
    "PermissionWithdrawn",
    "QemuKilled",
    "ReadOnly",
    "SecondClient",
]


class Fault:
    """Something that goes wrong.

    ``word`` is what the client is told afterwards, empty where it is no more. ``small`` says
    that the overlays need a file system of their own. ``patience`` is for how many seconds the
    client tries to reach the VM again. ``remark`` is what has to be said beside the cell.
    """

    name: ClassVar[str]
    word: ClassVar[str] = "go"
    small: ClassVar[bool] = False
    patience: ClassVar[float | None] = None

    def __init__(self) -> None:
        self.remark = ""

    def prefix(self) -> list[str]:
        """Words in front of QEMU's command line."""
        return []

    def strike(self, cell: Cell, client: Client) -> None:
        raise NotImplementedError

    def mend(self, cell: Cell) -> None:
        """As far as it can be mended."""


class QemuKilled(Fault):
    name = "QEMU killed"
    word = "deaf"

    def strike(self, cell: Cell, client: Client) -> None:
        cell.qemu.stop()
        cell.alive = False


class ClientKilled(Fault):
    name = "client killed"
    word = ""

    def strike(self, cell: Cell, client: Client) -> None:
        client.kill()


class AnotherRecovers(Fault):
    """Somebody recovers while the run is under way."""

    name = "another recovers"

    def strike(self, cell: Cell, client: Client) -> None:
        script = "import snapkit; print(*snapkit.recover(timeout=1)['state'])"
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "SNAPKIT_JOURNAL": str(cell.journal)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.stdout, done.stderr) == ("running\n", "")


class ConnectionCut(Fault):
    name = "connection cut"
    word = "cut"

    def strike(self, cell: Cell, client: Client) -> None:
        """The client ends its own connection."""


class DiskFull(Fault):
    name = "disk full"
    small = True

    def strike(self, cell: Cell, client: Client) -> None:
        path = cell.store / "filler"
        filler = cell.seen(path)
        with filler.open("wb", buffering=0) as file:
            room = os.statvfs(filler)
            file.write(bytes(room.f_bavail * room.f_frsize))
            with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
                file.write(bytes(room.f_frsize))
        cell.disks.others[str(path)] = digest(filler)


class PermissionWithdrawn(Fault):
    """From QEMU, which is another user than root."""

    name = "permission withdrawn"

    def prefix(self) -> list[str]:
        ids = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        return ["setpriv", *ids] if is_root() else []

    def strike(self, cell: Cell, client: Client) -> None:
        for path in sorted(cell.store.iterdir()):
            path.chmod(0)
        cell.store.chmod(0)

    def mend(self, cell: Cell) -> None:
        cell.store.chmod(0o777)
        for path in sorted(cell.store.iterdir()):
            path.chmod(0o600)


class ReadOnly(Fault):
    """The kernel makes no file system read-only while files are open for writing there.

    Then the same file system is mounted over itself, read-only: what is open stays open, and
    everything that goes by a name is refused, which is how a file system behaves that has
    turned read-only after an error.
    """

    name = "file system read-only"
    small = True

    def strike(self, cell: Cell, client: Client) -> None:
        assert cell.room is not None
        store = str(cell.store)
        refused = cell.room.mount("-o", "remount,ro", "tmpfs", store)
        self.covered = bool(refused)
        if refused:
            assert "busy" in refused, refused
            self.remark = REFUSED
            assert cell.room.mount("--bind", store, store) == ""
            assert cell.room.mount("-o", "remount,bind,ro", "tmpfs", store) == ""
        _is_read_only(cell)

    def mend(self, cell: Cell) -> None:
        assert cell.room is not None
        if self.covered:
            cell.room.unmount(cell.store)
        else:
            assert cell.room.mount("-o", "remount,rw", "tmpfs", str(cell.store)) == ""


def _is_read_only(cell: Cell) -> None:
    """The fault is there: not even the test can make a file."""
    with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
        (cell.seen(cell.store) / "trial").touch()


class DeviceUnplugged(Fault):
    name = "device unplugged"

    def strike(self, cell: Cell, client: Client) -> None:
        cell.unplug("disk1")


class SecondClient(Fault):
    """Somebody else takes a snapshot of one of the disks."""

    name = "second client"

    def strike(self, cell: Cell, client: Client) -> None:
        theirs = str(cell.directory / "theirs.snap")
        node = look(cell.qemu).devices["disk1"]
        options = {"snapshot_file": theirs, "snapshot_node_name": "theirs", "format": "qcow2"}
        cell.qemu.ask("blockdev-snapshot-sync", node_name=node, **options)
        cell.disks.others[theirs] = digest(theirs)
        new = {name for name, file in look(cell.qemu).files.items() if file == theirs}
        cell.disks.nodes |= new


class FileAppears(Fault):
    """Somebody else puts a file where an overlay goes, or in its place."""

    name = "file appears"

    def strike(self, cell: Cell, client: Client) -> None:
        theirs, target = cell.directory / "theirs", cell.targets["disk1"]
        theirs.write_text("precious")
        os.replace(theirs, target)
        cell.disks.others[target] = digest(target)
        cell.disks.taken.add(target)


class DirectoryRemoved(Fault):
    name = "directory removed"

    def strike(self, cell: Cell, client: Client) -> None:
        shutil.rmtree(cell.store)
        cell.disks.taken |= {str(cell.store), *cell.targets.values()}
