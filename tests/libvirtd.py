"""A libvirtd of a test's own, and the domains in it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.sax.saxutils import quoteattr

from snapkit.lab.keeping import KeptProgram
from snapkit.lab.libvirtd import Libvirtd, free_directory


class PrivateLibvirt:
    """A running libvirtd that nobody else uses; its domains are VMs without a guest.

    ``directory`` is where images for its domains belong: ``image()`` makes one there. As root
    the daemon and its QEMUs run as ``nobody``; ``give()`` lets files belong to it.
    """

    def __init__(self, kept: KeptProgram, *options: str) -> None:
        self.kept = kept
        self._daemon = Libvirtd(kept, *options)
        self._daemon.start()
        self.uri = self._daemon.uri
        self.directory = self._daemon.directory
        self.give = self._daemon.give

    @property
    def pid(self) -> int:
        """The daemon's process id."""
        return self._daemon.pid

    def restart(self) -> None:
        """End the daemon if it runs, and start it again. Its domains go on running."""
        self._daemon.start()

    def virsh(self, *arguments: str) -> str:
        """What virsh prints, run as from a shell that has never heard of snapkit."""
        return self._daemon.virsh(*arguments).strip()

    def create(self, xml: str, *options: str) -> int:
        """Start a transient domain, as ``virsh create``. Its QEMU's process id."""
        return self._daemon.create(xml, *options)

    def define(self, xml: str) -> None:
        """Define a persistent domain, which does not run yet."""
        file = self.directory / "defined.xml"
        file.write_text(xml, encoding="utf-8")
        self._daemon.virsh("define", str(file))

    def qemu_pid(self, domain: str) -> int:
        """The process id of a running domain's QEMU."""
        return self._daemon.qemu_pid(domain)

    def image(self, name: str, format: str = "qcow2", size: str = "64M", **backing: str) -> str:
        """An empty image that the daemon's QEMUs can use. ``backing`` is a path."""
        path = self.directory / name
        below = ["-b", backing["backing"], "-F", backing["backing_format"]] if backing else []
        command = ["qemu-img", "create", "-q", "-f", format, *below, str(path)]
        subprocess.run([*command, *([] if backing else [size])], check=True)
        self.give(path)
        return str(path)

    def paused(self, *disks: str, name: str = "win2003") -> str:
        """Start a domain without a guest, paused, with these images as vda, vdb, ... Its name."""
        self.create(domain_xml(*disks, name=name), "--paused")
        return name


def domain_xml(*disks: str, name: str = "win2003", copy_on_read: bool = False) -> str:
    """A small domain on TCG. A disk's format is raw if its name ends in ``.img``."""
    reading = " copy_on_read='on'" if copy_on_read else ""
    elements = "".join(
        "<disk type='file' device='disk'>"
        f"<driver name='qemu' type='{'raw' if disk.endswith('.img') else 'qcow2'}'{reading}/>"
        f"<source file={quoteattr(disk)}/>"
        f"<target dev='vd{chr(ord('a') + number)}' bus='virtio'/></disk>"
        for number, disk in enumerate(disks)
    )
    return (
        f"<domain type='qemu'><name>{name}</name><memory unit='MiB'>16</memory><vcpu>1</vcpu>"
        "<os><type arch='x86_64' machine='pc'>hvm</type></os><devices>"
        f"{elements}<controller type='usb' model='none'/><memballoon model='none'/>"
        "</devices></domain>"
    )


@contextmanager
def private_libvirt(
    keep: Callable[[Path], KeptProgram] = KeptProgram,
) -> Iterator[PrivateLibvirt]:
    """A daemon that is there within the block. Nothing of it is left afterwards."""
    kept = keep(free_directory())
    try:
        yield PrivateLibvirt(kept)
    finally:
        kept.end()
