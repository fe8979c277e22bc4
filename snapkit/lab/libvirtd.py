"""A libvirtd of a lab's own, which shares nothing with the user's libvirt.

It runs without privileges, so that it needs no D-Bus, no virtlogd and no right to anything.
Everything that it reads and writes is in the lab's directory.
"""

from __future__ import annotations

import grp
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from snapkit.errors import SnapkitError
from snapkit.lab.keeping import KeptProgram, short_directory

__all__ = ["Libvirtd", "find_program", "free_directory"]

_HOME = "libvirt"
_LOG = f"{_HOME}/libvirtd.log"
_SOCKET = f"{_HOME}/run/libvirt/libvirt-sock"
_FOLDERS = ("etc", "run", "cache", "data")
_CONFIGURATION = b"""\
stdio_handler = "file"
security_driver = "none"
"""
_PACKAGES = {
    "libvirtd": "libvirt-daemon libvirt-daemon-driver-qemu",
    "virsh": "libvirt-clients",
}
_GROUPS = range(40000, 60000)  # given out last, and known in containers without privileges too
_LOOK_SECONDS = 0.005
_START_SECONDS = 10.0
_VIRSH_SECONDS = 60.0

_capabilities: dict[str, bytes] = {}
"""Path below a daemon's home -> what it found out about QEMU there, which takes 2 s."""


def free_directory(domain: str = 20 * "n") -> Path:
    """A free path for a daemon's directory, in which domains have names as long as this one.

    Raises SnapkitError if there is no place for it.
    """
    # libvirt shortens the names to 20 characters.
    longest = f"{_HOME}/etc/libvirt/qemu/lib/domain-999-{domain[:20]}/monitor.sock"
    return short_directory(longest, for_others=os.geteuid() == 0)


def find_program(name: str) -> str:
    """The path of a program of libvirt.

    Raises SnapkitError with the command that installs it.
    """
    path = shutil.which(name, path=_search_path())
    if path is None:
        msg = (
            f"{name} is missing: a lab with libvirt needs it. On Debian and Ubuntu:"
            f" apt-get install {_PACKAGES[name]}"
        )
        raise SnapkitError(msg)
    return path


class Libvirtd:
    """A libvirtd in the directory of a keeper, for any number of clients.

    As root it runs as the user ``nobody``, for only without privileges a libvirtd leaves the
    host's settings alone, and in a further group of its own, so that no other process of
    ``nobody`` can get into the directory. It ends with the keeper, and its VMs with it.
    options: further words of its command line.

    Raises SnapkitError if a program is missing.
    """

    def __init__(self, kept: KeptProgram, *options: str) -> None:
        self._kept = kept
        self._command = [find_program("libvirtd"), *options]
        self._virsh = find_program("virsh")
        self._identity = _unprivileged() if os.geteuid() == 0 else None
        self._own_group = _free_group()
        self.directory: Path = kept.directory
        """Where images are that its VMs can use."""
        self._home = self.directory / _HOME
        self.uri: str = f"qemu+unix:///session?socket={self.directory / _SOCKET}"
        """What ``virsh -c`` and ``snapkit.connect`` take."""
        self.pid: int = 0
        """The daemon's process id."""

    def start(self, timeout: float = _START_SECONDS) -> None:
        """Start the daemon, also once more after it has ended, and wait until it answers.

        VMs that it left running are found again. Raises SnapkitError if it does not answer
        within ``timeout`` seconds.
        """
        self._write_settings()
        how: dict[str, Any] = {"env": self._environment()}
        if self._identity is not None:
            how["user"], how["group"] = self._identity
            how["groups"] = [self._own_group]
        self.pid = self._kept.run(self._command, _LOG, **how)
        deadline = time.monotonic() + timeout
        while not self._answers():
            status = self._kept.exit_status(wait=_LOOK_SECONDS)
            if status is not None or time.monotonic() > deadline:
                what = "does not answer" if status is None else f"ended with status {status}"
                msg = f"the lab's libvirtd {what}: {self._kept.output()}"
                raise SnapkitError(msg)

    def virsh(self, *arguments: str, timeout: float = _VIRSH_SECONDS) -> str:
        """Run virsh on this daemon and return what it prints.

        Raises SnapkitError with its message if it fails, or takes longer than ``timeout``.
        """
        try:
            done = subprocess.run(
                [self._virsh, "--quiet", "-c", self.uri, *arguments],
                capture_output=True,
                text=True,
                errors="replace",
                env=self._environment(),
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            msg = (
                f"virsh {arguments[0]} has not ended within {timeout:.0f} s. On a slow or busy"
                " machine, give the lab longer: Lab(timeout=60)"
            )
            raise SnapkitError(msg) from error
        if done.returncode != 0:
            msg = f"virsh {arguments[0]}: {done.stderr.strip()}"
            raise SnapkitError(msg)
        return done.stdout

    def create(self, xml: str, *options: str, timeout: float = _VIRSH_SECONDS) -> int:
        """Start a VM that is forgotten when it ends. Its QEMU's process id.

        The XML stays in the directory, in a file with the domain's name. options: those of
        ``virsh create``. Raises SnapkitError if libvirt cannot start it.
        """
        name = ET.fromstring(xml).findtext("name", "")  # noqa: S314  the lab's own XML
        file = self.directory / f"{name}.xml"
        file.write_text(xml, encoding="utf-8")
        self.virsh("create", str(file), *options, timeout=timeout)
        self._remember_capabilities()
        pid = self.qemu_pid(name)
        self._kept.hold(pid)
        return pid

    def qemu_pid(self, domain: str) -> int:
        """The process id of a running domain's QEMU."""
        return int((self._home / f"run/libvirt/qemu/run/{domain}.pid").read_text())

    def qemu_output(self, domain: str) -> str:
        """The end of what a domain's QEMU has written."""
        try:
            written = (self._home / f"cache/libvirt/qemu/log/{domain}.log").read_bytes()
        except OSError:
            return ""
        return written[-2000:].decode(errors="replace").strip()

    def give(self, *paths: str | Path) -> None:
        """Let files of this process belong to the user that the daemon and its VMs run as."""
        if self._identity is not None:
            for path in paths:
                os.chown(path, *self._identity, follow_symlinks=False)

    def _answers(self) -> bool:
        # The socket is there a moment before anybody listens.
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.directory / _SOCKET)) == 0

    def _environment(self) -> dict[str, str]:
        """Nothing of the user's: no home, no bus, no settings of libvirt's."""
        home = str(self._home)
        return {
            "PATH": _search_path(),
            "LANG": "C.UTF-8",
            "HOME": home,
            "XDG_CONFIG_HOME": f"{home}/etc",
            "XDG_RUNTIME_DIR": f"{home}/run",
            "XDG_CACHE_HOME": f"{home}/cache",
            "XDG_DATA_HOME": f"{home}/data",
        }

    def _write_settings(self) -> None:
        if self._identity is not None:
            os.chown(self.directory, -1, self._own_group)
            self.directory.chmod(0o770)
        for folder in ("", *_FOLDERS):
            (self._home / folder).mkdir(mode=0o700, exist_ok=True)
            self.give(self._home / folder)
        for name, content in {"etc/libvirt/qemu.conf": _CONFIGURATION, **_capabilities}.items():
            self._write(name, content)

    def _write(self, name: str, content: bytes) -> None:
        path = self._home / name
        for folder in reversed(path.relative_to(self._home).parents[:-1]):
            (self._home / folder).mkdir(mode=0o700, exist_ok=True)
            self.give(self._home / folder)
        path.write_bytes(content)
        self.give(path)

    def _remember_capabilities(self) -> None:
        """Spare the next daemon of this process the questions; it checks that nothing changed."""
        for learnt in self._home.glob("cache/libvirt/**/capabilities/*.xml"):
            _capabilities[str(learnt.relative_to(self._home))] = learnt.read_bytes()


def _search_path() -> str:
    """Where programs are; an ordinary user's PATH often lacks the place of daemons."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def _unprivileged() -> tuple[int, int]:
    """The numbers of a user and of its group, without any rights.

    Both have to exist: a libvirtd whose group has no name uses memory that it has freed.
    """
    try:
        user = pwd.getpwnam("nobody")
        return user.pw_uid, grp.getgrgid(user.pw_gid).gr_gid
    except KeyError:
        msg = "a lab with libvirt does not run as root, and there is no user nobody to run as"
        raise SnapkitError(msg) from None


def _free_group() -> int:
    """The number of a group that does not exist, so that nobody is in it."""
    existing = {group.gr_gid for group in grp.getgrall()}
    return secrets.choice([gid for gid in _GROUPS if gid not in existing])
