"""A cell whose VM is a libvirt domain, with wires before the daemon and behind it."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from xml.sax.saxutils import quoteattr

from snapkit.backends import processes
from snapkit.lab.keeping import KeptProgram
from tests.conftest import SECONDS, Qmp, wait_until
from tests.faults.cell import Cell, Client, disk_images
from tests.faults.room import Room
from tests.faults.view import Position, View, position
from tests.faults.wires import Gate, Link, Stop
from tests.libvirtd import PrivateLibvirt
from tests.ordinary import is_root

__all__ = ["Domain", "DomainCell", "RoomyProgram"]

_NAME = "vm"
_GATED: Mapping[str, Literal["transaction", "answer"]] = {
    "within the switch": "transaction",
    "within undo": "transaction",
    "QEMU has switched": "answer",
}
"""At which moments QEMU's monitor is stopped, and with what."""


class RoomyProgram(KeptProgram):
    """A program that sees the overlays' place as a small file system of its own."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        store = directory / "cell" / "store"
        store.mkdir(parents=True)
        self.room = Room(store)

    def run(self, command: list[str], output: str = "qemu.log", **how: Any) -> int:
        """Start it in there, as the user that it would be outside."""
        user, group, groups = (how.pop(name, None) for name in ("user", "group", "groups"))
        if is_root():
            more = ",".join(map(str, groups or ()))
            ids = [f"--reuid={user}", f"--regid={group}"]
            own = ["setpriv", *ids, f"--groups={more}" if more else "--clear-groups"]
        else:
            # In the room everybody is root, and a libvirtd of root's takes hold of the host.
            own = ["unshare", f"--map-user={os.geteuid()}", f"--map-group={os.getegid()}"]
        return super().run([*self.room.prefix, *own, *command], output, **how)

    def end(self) -> None:
        """End the program, then its room."""
        super().end()
        self.room.close()


class Domain:
    """A persistent domain with three SCSI disks, and a monitor of the tests' own.

    ``link`` is what snapkit talks to.
    """

    def __init__(self, daemon: PrivateLibvirt, directory: Path) -> None:
        self.daemon = daemon
        self._outside = str(directory / "outside.sock")
        self.log = daemon.directory / f"libvirt/cache/libvirt/qemu/log/{_NAME}.log"
        images = disk_images(directory)
        daemon.give(directory, *directory.iterdir())
        daemon.define(_xml(images, self._outside))
        self.pid = 0
        self.start()
        self.link = Link(daemon.uri.partition("socket=")[2], daemon.directory)
        self.uri = f"qemu+unix:///session?socket={self.link.path}"
        self.gate: Gate | None = None

    def start(self) -> None:
        """Start it, paused."""
        self.daemon.virsh("start", _NAME, "--paused")
        self.pid = self.daemon.qemu_pid(_NAME)

    def virsh(self, command: str, *arguments: str) -> str:
        """A command about this domain."""
        return self.daemon.virsh(command, _NAME, *arguments)

    def kill_daemon(self) -> None:
        """Once this returns, none of its threads has a connection open any more."""
        handle = os.pidfd_open(self.daemon.pid)
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        ended, _, _ = select.select([handle], [], [], SECONDS)
        os.close(handle)
        assert ended, "the daemon has not ended"

    def put_gate(self, hold: Literal["transaction", "answer"]) -> Stop:
        """Put a gate before QEMU's monitor. A daemon connects to that when it starts."""
        (monitor,) = self.daemon.directory.rglob("monitor.sock")
        self.kill_daemon()
        self.gate = Gate(monitor, hold)
        self.daemon.restart()
        return self.gate.stop

    def images(self) -> dict[str, str]:
        """The disks, as libvirt has them."""
        rows = [line.split() for line in self.virsh("domblklist").splitlines() if line.strip()]
        return {f"disk{'abc'.index(target[-1])}": file for target, file in rows}

    def qmp(self) -> Qmp:
        return Qmp(self._outside)

    def ask(self, command: str, /, **arguments: Any) -> Any:
        with self.qmp() as qmp:
            return qmp.execute(command, **arguments)

    def stop(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> None:
        """Wait for QEMU's end, and until libvirt has heard of it."""
        wait_until(lambda: processes.has_ended(self.pid), "QEMU ends")
        wait_until(lambda: self.virsh("domstate") == "shut off", "libvirt hears of the end")

    def close(self) -> None:
        self.link.close()
        if self.gate:
            # Asked to end, it would wait for what the gate has kept from it.
            if not processes.has_ended(self.daemon.pid):
                self.kill_daemon()
            self.gate.close()


def _xml(images: list[tuple[str, str]], outside: str) -> str:
    disks = "".join(
        f"<disk type='file' device='disk'><driver name='qemu' type='{format_}'/>"
        f"<source file={quoteattr(image)}/><target dev='sd{'abc'[number]}' bus='scsi'/>"
        f"<alias name='ua-disk{number}'/></disk>"
        for number, (image, format_) in enumerate(images)
    )
    monitor = quoteattr(f"unix:{outside},server=on,wait=off")
    return (
        "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>"
        f"<name>{_NAME}</name><memory unit='MiB'>16</memory><vcpu>1</vcpu>"
        "<os><type arch='x86_64' machine='pc'>hvm</type></os><devices>"
        f"<controller type='scsi' model='virtio-scsi'/>{disks}"
        "<controller type='usb' model='none'/><memballoon model='none'/></devices>"
        f"<qemu:commandline><qemu:arg value='-qmp'/><qemu:arg value={monitor}/>"
        "</qemu:commandline></domain>"
    )


class DomainCell(Cell):
    """A domain, where its overlays are to go, and the line to a client.

    ``held`` is where the one call waits on a wire. ``unplugged`` are disks that libvirt has
    let go of, with their images.
    """

    prefix = "ua-"

    def __init__(
        self, directory: Path, domain: Domain, journal: Path, *, room: Room | None = None
    ) -> None:
        super().__init__(directory, domain, journal, room=room)
        self.domain = domain
        self.held: Stop | None = None
        self.unplugged: set[str] = set()

    @property
    def address(self) -> dict[str, Any]:
        return {"uri": self.domain.uri, "domain": _NAME}

    def position(self, view: View) -> Position:
        kept = {disk: file for disk, file in self.targets.items() if disk not in self.unplugged}
        return position(view, kept)

    def run_to(
        self, client: Client, moment: str, *, patience: float | None = None, **options: object
    ) -> None:
        stop = None
        if moment in _GATED:
            stop = self.domain.put_gate(_GATED[moment])
        elif moment == "switch sent, no reply":
            self.domain.link.holds, stop = True, self.domain.link.stop
        self.begin(client, [moment], patience, options)
        if stop is not None:
            assert stop.reached.wait(SECONDS), self.hear()
            if moment == "within undo":
                self.make_the_switch_fail()
                stop.let_go()
                stop = None
        if stop is None:
            self.hear_at(moment)
        self.held = stop

    def contradictions(self, state: str) -> list[str]:
        """The disks as libvirt has them: those of the VM, or what it will be started from."""
        view = self.view()
        seen = view or self.disks.view
        wanted = {device: seen.files[node] for device, node in seen.devices.items()}
        if view is None and state == "switched":
            wanted = dict(self.targets)
        found = self.domain.images()
        return [f"libvirt has {found}, which is {wanted}"] if found != wanted else []

    def is_named(self, thing: str, said: str) -> bool:
        """A node is the daemon's, and named by its file."""
        view = self.view()
        return super().is_named(view.files.get(thing, thing) if view else thing, said)

    @property
    def daemon_is_at_it(self) -> bool:
        """Whether the daemon waits for QEMU, and lets nobody else change the domain."""
        gate = self.domain.gate
        return gate is not None and self.held is gate.stop

    def say(self, word: str) -> None:
        """Let the client go on, or what it waits for."""
        if self.held is None:
            super().say(word)
        else:
            self.held.let_go()
            self.held = None

    def settle(self) -> None:
        if self.daemon_is_at_it:
            self.say("go")
            wait_until(lambda: self.domain.images() == self.targets, "the daemon has switched")

    def unplug(self, device: str) -> None:
        if self.daemon_is_at_it:
            super().unplug(device)
        else:
            self.domain.virsh("detach-disk", f"sd{'abc'[int(device[-1])]}")
