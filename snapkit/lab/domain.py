"""The lab's VM as a libvirt domain, in a libvirtd of its own."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree as ET

from snapkit.lab import qemu
from snapkit.lab.keeping import KeptProgram
from snapkit.lab.libvirtd import Libvirtd

__all__ = ["DOMAIN", "DomainMachine", "domain_xml"]

DOMAIN = "win2003"

_BUSES = {"disk": "virtio", "floppy": "fdc"}


class DomainMachine:
    """The lab's VM, started and owned by libvirt.

    Raises SnapkitError if a program is missing.
    """

    def __init__(self, kept: KeptProgram, images: Mapping[str, str]) -> None:
        self._kept = kept
        self._images = images
        self._qemu = qemu.find_program("qemu-system-x86_64")
        self._daemon = Libvirtd(kept)
        self._pid = 0
        self.domain: str | None = DOMAIN
        self.uri = self._daemon.uri
        self.spare_uri = self._daemon.uri
        self.xml: str | None = None
        self.command: list[str] = []

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        self._look_again()
        return self._pid

    def boot(self, accel: str, deadline: float) -> None:
        """Start libvirtd, and the domain on disks that are there.

        Raises SnapkitError if libvirt cannot start them, or not in time.
        """
        floppy = str(self._kept.directory / qemu.FLOPPY)
        self.xml = domain_xml(self._qemu, accel, self._images, floppy)
        self._daemon.start(_left(deadline))
        self._daemon.give(floppy, *self._images.values())
        self._pid = self._daemon.create(self.xml, timeout=_left(deadline))
        with contextlib.suppress(OSError):
            parts = Path(f"/proc/{self._pid}/cmdline").read_bytes().split(b"\0")[:-1]
            self.command = [os.fsdecode(part) for part in parts]

    def ending(self, wait: float = 0.0) -> str | None:
        """How QEMU ended, in words. None: it had not within ``wait`` seconds.

        A libvirtd that has ended leaves its domain running.
        """
        if self._kept.has_ended(self._pid, wait):
            self._look_again()
        return f"ended: {self.output()}" if self._kept.has_ended(self._pid) else None

    def _look_again(self) -> None:
        """A domain that was destroyed and created once more, by hand, is another process."""
        with contextlib.suppress(OSError, ValueError):
            pid = self._daemon.qemu_pid(DOMAIN)
            if pid != self._pid:
                self._kept.hold(pid)
                self._pid = pid

    def output(self) -> str:
        """The end of what QEMU has written."""
        return self._daemon.qemu_output(DOMAIN)

    def may_try_again(self) -> bool:
        """Nothing that another program does stands in the way."""
        return False


def domain_xml(emulator: str, accel: str, images: Mapping[str, str], floppy: str) -> str:
    """The domain with these images by their targets, booted from a floppy image."""
    domain = ET.Element("domain", type="kvm" if accel == "kvm" else "qemu")
    ET.SubElement(domain, "name").text = DOMAIN
    ET.SubElement(domain, "memory", unit="MiB").text = "32"
    ET.SubElement(domain, "vcpu").text = "1"
    system = ET.SubElement(domain, "os")
    ET.SubElement(system, "type", arch="x86_64", machine="pc").text = "hvm"
    ET.SubElement(ET.SubElement(domain, "features"), "acpi")
    devices = ET.SubElement(domain, "devices")
    ET.SubElement(devices, "emulator").text = emulator
    # The BIOS leaves out disks that have no place in the order of booting.
    for order, (target, image) in enumerate(images.items(), 2):
        _add_disk(devices, "disk", target, image, order)
    ET.SubElement(_add_disk(devices, "floppy", "fda", floppy, 1), "readonly")
    # libvirt would add both.
    ET.SubElement(devices, "controller", type="usb", model="none")
    ET.SubElement(devices, "memballoon", model="none")
    ET.indent(domain)
    return ET.tostring(domain, encoding="unicode") + "\n"


def _add_disk(devices: ET.Element, kind: str, target: str, image: str, order: int) -> ET.Element:
    disk = ET.SubElement(devices, "disk", type="file", device=kind)
    ET.SubElement(disk, "driver", name="qemu", type=qemu.disk_format(image))
    ET.SubElement(disk, "source", file=image)
    ET.SubElement(disk, "target", dev=target, bus=_BUSES[kind])
    ET.SubElement(disk, "boot", order=str(order))
    return disk


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
