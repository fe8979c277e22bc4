"""The verb ``doctor``: what is missing here, and the command that cures it.

Only the standard library is used, and parts of snapkit that need nothing else.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from snapkit.backends.abilities import ABILITIES
from snapkit.cli.console import Console, Table, size
from snapkit.cli.verb import Verb

if TYPE_CHECKING:
    from snapkit.backends.host import Monitor
    from snapkit.journaling import Journal

__all__ = ["DOCTOR", "PACKAGES", "PARTS", "PYTHON_PACKAGES", "Part"]

OLDEST_PYTHON = (3, 11)
OLDEST_QEMU = (5, 0)
OLDEST_LIBVIRT = (5, 6)
DAEMONS = "/usr/sbin:/sbin"
PROBE_SECONDS = 10
LAB_BYTES = 512 * 1024 * 1024
"""Room that lab VMs and their snapshots may take."""

PACKAGES = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "qemu-storage-daemon": "qemu-system-common",
    "libvirtd": "libvirt-daemon libvirt-daemon-driver-qemu",
    "virsh": "libvirt-clients",
}
"""Program -> packages of Debian and Ubuntu."""

LIBVIRT_PYTHON = "libvirt-dev pkg-config gcc python3-dev"
"""What pip needs to build libvirt's Python module."""

PYTHON_PACKAGES = {
    "anywidget": ("0.9", "0.12", "the panels in a notebook"),
    "ipywidgets": ("8.1", "9", "the panels in a notebook"),
    "pandas": ("2.2", "", "the tables"),
    "platformdirs": ("4", "", "the place of snapkit's own files"),
    "qemu.qmp": ("0.0.6", "0.0.7", "talking to QEMU"),
}
"""Package -> the oldest version that does, the first that does not, what it is needed for."""


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that snapkit needs or can use.

    ``status`` is "ok", "missing", "too old", "too new" or "bad". ``required`` says whether
    snapkit does its main job without it. ``cure`` is a command or an advice, empty when ok.
    """

    part: str
    found: str
    needed_for: str
    status: str = "ok"
    cure: str = ""
    required: bool = True

    @property
    def fails(self) -> bool:
        """Whether this stands in the way."""
        return self.required and self.status != "ok"


PARTS: list[Callable[[], Iterator[Part]]] = []
"""Every examination, in the order of the table."""


def _part(examine: Callable[[], Iterator[Part]]) -> Callable[[], Iterator[Part]]:
    PARTS.append(examine)
    return examine


@_part
def python() -> Iterator[Part]:
    """Python itself."""
    old = sys.version_info[:2] < OLDEST_PYTHON
    yield Part(
        "Python",
        platform.python_version(),
        "everything",
        "too old" if old else "ok",
        _install("python3 python3-venv") if old else "",
    )


@_part
def programs() -> Iterator[Part]:
    """The programs of QEMU."""
    yield _program("qemu-system-x86_64", "the lab VM", required=True)
    yield _program("qemu-img", "images, and chains offline", required=True)
    yield _program("qemu-storage-daemon", "disks without a guest", required=False)


@_part
def libvirt() -> Iterator[Part]:
    """What domains of libvirt need. All of QMP works without it."""
    yield _libvirt_module()
    yield _program("virsh", 'Lab(backend="libvirt")', required=False, oldest=OLDEST_LIBVIRT)
    yield _program("libvirtd", 'Lab(backend="libvirt")', required=False, oldest=OLDEST_LIBVIRT)


def _libvirt_module() -> Part:
    name, needed_for = "libvirt-python", "domains of libvirt"
    cure = f"{_quoted(sys.executable)} -m pip install 'snapkit[libvirt]'"
    try:
        module = importlib.import_module("libvirt")
    except ModuleNotFoundError:
        cure = f"{_install(LIBVIRT_PYTHON)} && {cure}"
        return Part(name, "", needed_for, "missing", cure, required=False)
    except ImportError as error:
        return Part(name, str(error), needed_for, "bad", _install("libvirt0"), required=False)
    number = module.getVersion()
    library = f"{number // 1000000}.{number // 1000 % 1000}.{number % 1000}"
    found = f"for libvirt {library}"
    return Part(name, found, needed_for, required=False)


def _program(
    name: str, needed_for: str, *, required: bool, oldest: tuple[int, ...] = OLDEST_QEMU
) -> Part:
    cure = _install(PACKAGES[name])
    # An ordinary user's PATH often lacks the place of daemons.
    path = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{DAEMONS}")
    if path is None:
        return Part(name, "", needed_for, "missing", cure, required)
    try:
        done = subprocess.run(
            [path, "--version"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Part(name, f"{path} does not run: {error}", needed_for, "bad", cure, required)
    version = re.search(r"\d+(\.\d+)+", done.stdout)
    if done.returncode != 0 or version is None:
        found = f"{path} does not say its version"
        return Part(name, found, needed_for, "bad", cure, required)
    if _numbers(version.group()) < oldest:
        return Part(name, version.group(), needed_for, "too old", cure, required)
    return Part(name, version.group(), needed_for, required=required)


@_part
def python_packages() -> Iterator[Part]:
    """The Python packages that snapkit depends on, and the optional ones."""
    for name, (oldest, beyond, needed_for) in PYTHON_PACKAGES.items():
        yield _python_package(name, oldest, beyond, needed_for, required=True)
    yield _python_package("jupyterlab", "4.4", "5", "the notebooks", required=False)


def _python_package(
    name: str, oldest: str, beyond: str, needed_for: str, *, required: bool
) -> Part:
    wanted = f"{name}>={oldest}" + (f",<{beyond}" if beyond else "")
    cure = f"{_quoted(sys.executable)} -m pip install '{wanted}'"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Part(name, "", needed_for, "missing", cure, required)
    if _numbers(version) < _numbers(oldest):
        return Part(name, version, needed_for, "too old", cure, required)
    if beyond and _numbers(version) >= _numbers(beyond):
        return Part(name, version, needed_for, "too new", cure, required)
    return Part(name, version, needed_for, required=required)


@_part
def guest() -> Iterator[Part]:
    """The lab's guest, which is shipped with snapkit."""
    path = Path(__file__).parent.parent / "lab" / "guest.bin"
    try:
        code = path.read_bytes()
    except OSError:
        code = b""
    good = len(code) == 512 and code.endswith(b"\x55\xaa")
    yield Part(
        "guest.bin",
        f"{len(code)} bytes" if code else "",
        "the lab VM",
        "ok" if good else "bad" if code else "missing",
        "" if good else f"{_quoted(sys.executable)} -m pip install --force-reinstall snapkit",
    )


@_part
def temporary_directory() -> Iterator[Part]:
    """The place of lab VMs and their sockets."""
    needed_for = "lab VMs and their sockets"
    try:
        directory = tempfile.gettempdir()
    except OSError:
        cure = "export TMPDIR=/path/to/a/directory/you/may/write/to"
        yield Part("temporary directory", "", needed_for, "missing", cure)
        return
    free = shutil.disk_usage(directory).free
    found = f"{directory}, {size(free)} free"
    cure = "" if free >= LAB_BYTES else f"make room: {size(LAB_BYTES)} is a good measure"
    yield Part("temporary directory", found, needed_for, "bad" if cure else "ok", cure)


@_part
def socket_path() -> Iterator[Part]:
    """Whether there is a place for sockets whose path is short enough."""
    from snapkit.errors import SnapkitError
    from snapkit.lab.keeping import short_directory
    from snapkit.lab.qemu import QMP_SOCKET, SPARE_SOCKET

    needed_for = "sockets: 107 bytes at most"
    try:
        path = short_directory(QMP_SOCKET, SPARE_SOCKET) / SPARE_SOCKET
    except SnapkitError as error:
        yield Part("socket path", str(error), needed_for, "bad", "export TMPDIR=/tmp")
        return
    length = len(os.fsencode(path))
    good = length <= 107
    cure = "" if good else "export TMPDIR=/tmp"
    yield Part("socket path", f"{length} bytes", needed_for, "ok" if good else "bad", cure)


@_part
def journal() -> Iterator[Part]:
    """The journal, without which no plan is run, and what it has open."""
    from snapkit.journaling import Journal, JournalError, default_path

    needed_for = "running a plan"
    try:
        found = Journal(default_path())
        found.check()
        yield Part("journal", found.path, needed_for)
        yield _open_runs(found)
    except (JournalError, ModuleNotFoundError) as error:
        cure = "export SNAPKIT_JOURNAL=/path/to/a/file/you/may/write"
        yield Part("journal", str(error), needed_for, "bad", cure)


def _open_runs(journal: Journal) -> Part:
    entries = [entry for entry in journal.entries(closed=False) if entry.state != "running"]
    numbers = ", ".join(str(entry.number) for entry in entries)
    return Part(
        "interrupted runs",
        f"{len(entries)} in the journal: {numbers}" if entries else "none",
        "",
        "bad" if entries else "ok",
        "snapkit recover" if entries else "",
        required=False,
    )


@_part
def proc() -> Iterator[Part]:
    """What the search for monitors reads."""
    readable = os.access("/proc/self/cmdline", os.R_OK)
    yield Part(
        "/proc",
        "readable" if readable else "",
        "finding monitors and files",
        "ok" if readable else "missing",
        "" if readable else "none here: name the endpoint yourself, and pass local=True",
        required=False,
    )


@_part
def kvm() -> Iterator[Part]:
    """KVM, which is never needed and never trusted."""
    usable = os.access("/dev/kvm", os.R_OK | os.W_OK)
    yield Part(
        "/dev/kvm",
        "opens, which proves nothing" if usable else "not for this user",
        "nothing: the lab uses TCG",
        required=False,
    )


@_part
def monitors() -> Iterator[Part]:
    """The monitors of this host, and who holds those that are taken."""
    from snapkit.backends import host

    found = host.monitors()
    yield Part("QMP monitors", f"{len(found)} on this host", "your own VMs", required=False)
    for monitor in found:
        name = f" ({monitor.name})" if monitor.name else ""
        yield Part(
            f"- {monitor.uri or 'address unknown'}",
            f"{monitor.program}{name}, pid {monitor.pid}: {monitor.state}",
            "",
            cure=_advice(monitor),
            required=False,
        )


def _advice(monitor: Monitor) -> str:
    """What to do about a monitor that cannot be connected to."""
    if monitor.managed_by:
        return f"{monitor.managed_by} needs it: connect through {monitor.managed_by}"
    if monitor.state == "in use":
        return f"end {_client(monitor.uri)}, or give QEMU a second -qmp"
    if monitor.state == "no permission":
        return f"run as {monitor.user or 'the user that QEMU runs as'}"
    if monitor.state == "gone":
        return "its socket is not there any more: start QEMU again"
    return ""


def _client(uri: str) -> str:
    from snapkit.address import TcpAddress, UnixAddress, parse
    from snapkit.backends import host

    address = parse(uri)
    client = None
    if isinstance(address, UnixAddress):
        client = host.clients(address.path)
    elif isinstance(address, TcpAddress):
        client = host.clients((address.host, address.port))
    if client is None or client.pid is None:
        return "its client"
    return f"its client {client.program} (pid {client.pid})"


def _install(packages: str) -> str:
    """The command that installs packages of Debian and Ubuntu."""
    sudo = "" if os.geteuid() == 0 else "sudo "
    if shutil.which("apt-get") is None:
        return f"install what Debian calls {packages}"
    return f"{sudo}apt-get install {packages}"


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found.group().split("."))) if found else ()


def _quoted(text: str) -> str:
    return f"'{text}'" if " " in text else text


def _doctor(_: argparse.Namespace, console: Console) -> int:
    found = [part for examine in PARTS for part in examine()]
    columns = ["part", "found", "needed_for", "status", "cure", "required"]
    rows = [[getattr(part, name) for name in columns] for part in found]
    console.table(Table(columns, rows, keys=1), columns[:-1])
    if console.form == "text":
        _show_abilities(console)
    failing = [part.part for part in found if part.fails]
    if failing:
        console.say(f"Not all is well: {', '.join(failing)}.")
        return 1
    console.say("All that snapkit needs is here.")
    if others := [part.part for part in found if part.status == "bad"]:
        console.say(f"Something to do: {', '.join(others)}.")
    return 0


def _show_abilities(console: Console) -> None:
    """What depends on how a VM is connected to; all else is the same."""
    rows = [
        [able.name, able.what, ", ".join(sorted(able.backends)), able.otherwise]
        for able in ABILITIES
    ]
    console.heading("What not every backend can do")
    console.table(Table(["ability", "what", "backends", "otherwise"], rows, keys=1))


DOCTOR = Verb(
    "doctor",
    "Say what is missing here, and the command that cures it.",
    "snapkit doctor --json",
    lambda _: None,
    _doctor,
)
