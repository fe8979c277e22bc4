"""What the lab's QEMU is made of: programs, images, and its command line."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

from snapkit.errors import SnapkitError

__all__ = ["DISK_BYTES", "MAX_DISKS", "command_line", "disk_names", "find_program", "make_disk"]

DISK_BYTES = 64 * 1024 * 1024
"""Size of every disk. The guest needs half of it."""

MAX_DISKS = 8
"""The BIOS finds few disks more than that on this machine."""

FLOPPY = "guest.img"
QMP_SOCKET = "qmp.sock"
SPARE_SOCKET = "spare.sock"

_FLOPPY_BYTES = 1474560
_PACKAGES = {"qemu-system-x86_64": "qemu-system-x86", "qemu-img": "qemu-utils"}


def find_program(name: str) -> str:
    """The path of a program of QEMU.

    Raises SnapkitError with the command that installs it.
    """
    path = shutil.which(name)
    if path is None:
        msg = (
            f"{name} is missing: the lab needs it. On Debian and Ubuntu:"
            f" apt-get install {_PACKAGES[name]}"
        )
        raise SnapkitError(msg)
    return path


def disk_names(disks: int) -> list[str]:
    """The file names of the disks: a raw one, and qcow2 ones."""
    return ["win2003.img", "data.qcow2", *(f"disk{i}.qcow2" for i in range(2, disks))][:disks]


def disk_format(path: str) -> str:
    """The format that a disk of the lab has, by its name."""
    return "raw" if path.endswith(".img") else "qcow2"


def make_floppy(path: Path) -> None:
    """Make the floppy image that the guest is booted from."""
    path.write_bytes(Path(__file__).with_name("guest.bin").read_bytes())
    _extend(path, _FLOPPY_BYTES)


def make_disk(path: Path, qemu_img: str) -> None:
    """Make an empty disk. One that is there is replaced.

    Raises SnapkitError if it cannot be made.
    """
    if disk_format(path.name) == "raw":
        path.write_bytes(b"")
        _extend(path, DISK_BYTES)
        return
    command = [qemu_img, "create", "-q", "-f", "qcow2", str(path), str(DISK_BYTES)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        msg = f"the lab's disk {path.name} cannot be made: {done.stderr.strip()}"
        raise SnapkitError(msg)


def _extend(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


def monitor_endpoint(monitor: str, directory: Path) -> str:
    """Where QMP listens, as QEMU and ``connect`` both write it.

    A TCP port is free at this moment; QEMU may find that it no longer is.
    """
    if monitor == "unix":
        return f"unix:{directory / QMP_SOCKET}"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    return f"tcp:localhost:{port}"


def spare_endpoint(directory: Path) -> str:
    """Where a second monitor listens, for another client at the same time."""
    return f"unix:{directory / SPARE_SOCKET}"


def command_line(
    qemu: str, accel: str, directory: Path, images: dict[str, str], endpoint: str
) -> list[str]:
    """QEMU's command line."""
    disks: list[str] = []
    for number, (drive, path) in enumerate(images.items()):
        image = f"file={_value(path)},format={disk_format(path)}"
        disks += ["-drive", f"if=none,id={drive},{image}"]
        disks += ["-device", f"virtio-blk-pci,drive={drive},id=disk{number}"]
    floppy = _value(str(directory / FLOPPY))
    return [
        *(qemu, "-name", "snapkit-lab", "-no-user-config", "-nodefaults", "-display", "none"),
        *("-machine", "pc", "-accel", accel, "-m", "32"),
        *("-drive", f"if=floppy,id=floppy0,file={floppy},format=raw,readonly=on", "-boot", "a"),
        *disks,
        *("-qmp", f"{_value(endpoint)},server=on,wait=off"),
        *("-qmp", f"{_value(spare_endpoint(directory))},server=on,wait=off"),
    ]


def _value(text: str) -> str:
    """A value within an option: QEMU reads two commas as one of its own."""
    return text.replace(",", ",,")
