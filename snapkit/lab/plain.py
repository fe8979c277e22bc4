"""The lab's VM as a plain QEMU with monitors."""

from __future__ import annotations

from collections.abc import Mapping

from snapkit.lab import qemu
from snapkit.lab.keeping import KeptProgram

__all__ = ["PlainMachine"]

_PORT_TRIES = 5


class PlainMachine:
    """The lab's VM, a child of the keeper.

    Raises SnapkitError if QEMU is missing.
    """

    domain: str | None = None
    xml: str | None = None

    def __init__(self, kept: KeptProgram, images: Mapping[str, str], monitor: str) -> None:
        self._kept = kept
        self._images = images
        self._monitor = monitor
        self._tries_left = _PORT_TRIES
        self._qemu = qemu.find_program("qemu-system-x86_64")
        self.uri = ""
        self.spare_uri = qemu.spare_endpoint(kept.directory)
        self.command: list[str] = []
        self.pid = 0

    def boot(self, accel: str, deadline: float) -> None:  # noqa: ARG002  a domain needs it
        """Start QEMU on disks that are there.

        Raises SnapkitError if it cannot be started.
        """
        self.uri = qemu.monitor_endpoint(self._monitor, self._kept.directory)
        self.command = qemu.command_line(
            self._qemu, accel, self._kept.directory, dict(self._images), self.uri
        )
        self.pid = self._kept.run(self.command)

    def ending(self, wait: float = 0.0) -> str | None:
        """How QEMU ended, in words. None: it had not within ``wait`` seconds."""
        status = self._kept.exit_status(wait)
        return None if status is None else f"ended with status {status}: {self.output()}"

    def output(self) -> str:
        """The end of what QEMU has written."""
        return self._kept.output()

    def may_try_again(self) -> bool:
        """Whether another program took the TCP port since it was found free, and how often."""
        self._tries_left -= 1
        taken = self._monitor == "tcp" and "Address already in use" in self.output()
        return taken and self._tries_left > 0
