"""The throw-away VM that a user holds."""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import ascii_lowercase
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from snapkit import limits
from snapkit.errors import SnapkitError
from snapkit.lab import libvirtd, qemu, sequence
from snapkit.lab.domain import DOMAIN, DomainMachine
from snapkit.lab.keeping import KeptProgram, short_directory
from snapkit.lab.plain import PlainMachine

if TYPE_CHECKING:
    import pandas as pd

    from snapkit.vm import VirtualMachine

__all__ = ["Lab"]

_KVM_SECONDS = 8.0
_LOOK_SECONDS = 0.02

_labs_in_use: weakref.WeakKeyDictionary[VirtualMachine, Lab] = weakref.WeakKeyDictionary()
"""A connection keeps its lab alive, so that ``snapkit.Lab().connect()`` works."""


class Lab:
    """A real QEMU with disks that can be thrown away, running when this returns.

    Its guest writes sequence numbers to all disks in lockstep, the first disk first. At any
    instant the last numbers on two disks differ by 0 or 1; ``sequence`` reads them.

    The lab goes with ``close()``, at the end of a ``with`` block, when nothing refers to it
    or to a connection made by it any more, and when this process ends, even if it is killed.
    All that is in its directory goes with it.

    disks: how many, 1 to 8; the first is raw, the others are qcow2. Each has 64 MiB.
    monitor: "unix" for a UNIX socket, "tcp" for a port of this machine, which is open to all
    its users. Only for backend "qmp": libvirt has QEMU's monitor for itself.
    accel: "tcg" or "kvm". KVM is used only if the guest really boots with it; ``accel`` says
    what is used.
    backend: "qmp" for a plain QEMU, "libvirt" for a domain in a libvirtd of the lab's own,
    which has nothing to do with the user's libvirt. As root, that daemon runs as the user
    ``nobody``, and the images belong to it.
    timeout: how many seconds the guest has to boot and write to every disk.

    Raises SnapkitError if QEMU or libvirt is missing or does not start, or the guest does not
    boot.
    """

    def __init__(
        self,
        *,
        disks: int = 2,
        monitor: str = "unix",
        accel: str = "tcg",
        backend: str = "qmp",
        timeout: float = 20.0,
    ) -> None:
        _check_options(disks, monitor, accel, backend)
        timeout = limits.seconds(timeout)
        self._qemu_img = qemu.find_program("qemu-img")
        self._kept = KeptProgram(_free_directory(backend))
        self._connections: weakref.WeakSet[VirtualMachine] = weakref.WeakSet()
        self._finalizer = weakref.finalize(self, _end, self._kept, self._connections)

        self.directory: Path = self._kept.directory
        """Where its images are. It is removed with the lab."""
        self.images: Mapping[str, str] = MappingProxyType(
            {
                _disk_name(backend, number): str(self.directory / name)
                for number, name in enumerate(qemu.disk_names(disks))
            }
        )
        """Drive id, or target in a domain -> path of the image that it was started with."""
        self.accel: str = accel
        """The accelerator that is used: "tcg" or "kvm"."""
        try:
            self._machine = (
                DomainMachine(self._kept, self.images)
                if backend == "libvirt"
                else PlainMachine(self._kept, self.images, monitor)
            )
            self._start(timeout)
        except BaseException:
            self.close()
            raise

    @property
    def uri(self) -> str:
        """Where its monitor or its libvirtd listens, for ``connect`` and for ``virsh -c``."""
        return self._machine.uri

    @property
    def spare_uri(self) -> str:
        """A second monitor, for another client at the same time; libvirt serves all at one."""
        return self._machine.spare_uri

    @property
    def domain(self) -> str | None:
        """The libvirt domain's name. None: this is a plain QEMU."""
        return self._machine.domain

    @property
    def xml(self) -> str | None:
        """The XML that the libvirt domain was created from. None: this is a plain QEMU."""
        return self._machine.xml

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._machine.pid

    @property
    def command(self) -> list[str]:
        """QEMU's command line."""
        return self._machine.command

    def connect(self, **options: Any) -> VirtualMachine:
        """Connect to the lab's VM: ``snapkit.connect`` with this lab's address.

        The connection is closed with the lab. Raises ConnectError.
        """
        from snapkit.vm import connect

        machine = connect(self.uri, self.domain, **options)
        self._connections.add(machine)
        _labs_in_use[machine] = self
        return machine

    def sequence(
        self, files: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | Mapping[str, str]
    ) -> pd.Series[int]:
        """The last sequence number that the guest wrote to each image file.

        What comes from an image's backing chain counts. 0 means none. Files may be one path,
        several, or a mapping with paths as values, such as ``images``. The index ``file`` has
        the paths as given. The files may be in use: an image that the guest is writing to
        gives the number of this moment. A file whose name ends in ``.img`` is read as raw.

        Raises SnapkitError for a file that is missing or cannot be read.
        """
        if isinstance(files, str | os.PathLike):
            files = [files]
        elif isinstance(files, Mapping):
            files = files.values()
        try:
            names = [os.fsdecode(file) for file in files]
        except TypeError:
            msg = f"sequence() reads files by their names, not {files!r}"
            raise SnapkitError(msg) from None
        scratch = self.directory if self.directory.is_dir() else None
        return sequence.last_sequences(names, scratch)

    def close(self) -> None:
        """End the VM and remove its directory. Closing it again does nothing.

        A process that was forked off this one cannot close the lab.
        """
        if os.getpid() == self._kept.owner:
            self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        disks = ", ".join(f"{drive} {Path(path).name}" for drive, path in self.images.items())
        return f"<Lab {self._state()}: {disks}>"

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr><th scope="row">{drive}</th><td>{Path(path).name}</td>'
            f"<td>{qemu.disk_format(path)}</td></tr>"
            for drive, path in self.images.items()
        )
        names = ("drive" if self.domain is None else "target", "image", "format")
        head = "".join(f'<th scope="col">{name}</th>' for name in names)
        return (
            f"<table><caption>Lab: {self._state()}</caption>"
            f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        )

    def _state(self) -> str:
        if not self._finalizer.alive:
            return "closed"
        return "running" if self._machine.ending() is None else "QEMU has ended"

    def _start(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        qemu.make_floppy(self.directory / qemu.FLOPPY)
        if self.accel == "kvm":
            # That /dev/kvm opens, or that QEMU starts with it, proves nothing.
            try:
                self._boot(min(deadline, time.monotonic() + _KVM_SECONDS))
            except SnapkitError:
                self.accel = "tcg"
            else:
                return
        self._boot(deadline)

    def _boot(self, deadline: float) -> None:
        """Start QEMU with fresh disks and wait until the guest has written to all of them."""
        while True:
            self._kept.stop()
            for path in self.images.values():
                qemu.make_disk(Path(path), self._qemu_img)
            self._machine.boot(self.accel, deadline)
            try:
                self._wait_for_guest(deadline)
            except SnapkitError:
                if not self._machine.may_try_again():
                    raise
            else:
                return

    def _wait_for_guest(self, deadline: float) -> None:
        waiting = dict(self.images)
        first = next(iter(waiting.values()))
        while True:
            waiting = {k: path for k, path in waiting.items() if not sequence.holds_a_record(path)}
            if not waiting and sequence.holds_the_second_record(first):
                return
            ending = self._machine.ending(wait=_LOOK_SECONDS)
            if ending is not None:
                msg = f"the lab's QEMU {ending}"
                raise SnapkitError(msg)
            if time.monotonic() > deadline:
                drives = ", ".join(waiting or self.images)
                said = self._machine.output()
                msg = (
                    f"the lab's guest has not written to {drives} in time. On a slow or busy"
                    " machine, give it longer: Lab(timeout=60)"
                    + (f". QEMU says: {said}" if said else "")
                )
                raise SnapkitError(msg)


def _check_options(disks: object, monitor: str, accel: str, backend: str) -> None:
    if backend not in ("qmp", "libvirt"):
        msg = f'there is no lab with backend={backend!r}: use "qmp" or "libvirt"'
        raise SnapkitError(msg)
    if monitor not in ("unix", "tcp"):
        msg = f'there is no lab with monitor={monitor!r}: use "unix" or "tcp"'
        raise SnapkitError(msg)
    if backend == "libvirt" and monitor != "unix":
        msg = (
            f"there is no lab with monitor={monitor!r} in libvirt, which has QEMU's monitor for"
            " itself: leave monitor out"
        )
        raise SnapkitError(msg)
    if accel not in ("tcg", "kvm"):
        msg = f'there is no lab with accel={accel!r}: use "tcg" or "kvm"'
        raise SnapkitError(msg)
    if not isinstance(disks, int) or disks not in range(1, qemu.MAX_DISKS + 1):
        msg = f"there is no lab with {disks!r} disks: it has 1 to {qemu.MAX_DISKS}"
        raise SnapkitError(msg)


def _free_directory(backend: str) -> Path:
    if backend == "libvirt":
        return libvirtd.free_directory(DOMAIN)
    return short_directory(qemu.QMP_SOCKET, qemu.SPARE_SOCKET)


def _disk_name(backend: str, number: int) -> str:
    return f"vd{ascii_lowercase[number]}" if backend == "libvirt" else f"drive{number}"


def _end(kept: KeptProgram, connections: weakref.WeakSet[VirtualMachine]) -> None:
    """Close the connections, then the VM. In a forked process both are the parent's."""
    if os.getpid() != kept.owner:
        return
    for machine in list(connections):
        with contextlib.suppress(Exception):
            machine.close()
    kept.end()
