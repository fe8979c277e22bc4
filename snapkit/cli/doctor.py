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
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from snapkit.backends.abilities import ABILITIES, Ability
from snapkit.cli import present
from snapkit.cli.console import Console, Table, size
from snapkit.cli.part import Part, install, quoted
from snapkit.cli.verb import Verb

if TYPE_CHECKING:
    from snapkit.journaling import Journal

__all__ = ["DOCTOR", "PACKAGES", "PARTS", "PYTHON_PACKAGES"]

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
        install("python3 python3-venv") if old else "",
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
    cure = f"{quoted(sys.executable)} -m pip install 'snapkit[libvirt]'"
    try:
        module = importlib.import_module("libvirt")
    except ModuleNotFoundError:
        cure = f"{install(LIBVIRT_PYTHON)} && {cure}"
        return Part(name, "", needed_for, "missing", cure, required=False)
    except ImportError as error:
        return Part(name, str(error), needed_for, "bad", install("libvirt0"), required=False)
    number = module.getVersion()
    library = f"{number // 1000000}.{number // 1000 % 1000}.{number % 1000}"
    found = f"for libvirt {library}"
    return Part(name, found, needed_for, required=False)


def _program(
    name: str, needed_for: str, *, required: bool, oldest: tuple[int, ...] = OLDEST_QEMU
) -> Part:
    cure = install(PACKAGES[name])
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
    cure = f"{quoted(sys.executable)} -m pip install '{wanted}'"
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
        "" if good else f"{quoted(sys.executable)} -m pip install --force-reinstall snapkit",
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


_part(present.monitors)
_part(present.daemons)


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found.group().split("."))) if found else ()


def _doctor(_: argparse.Namespace, console: Console) -> int:
    found = [part for examine in PARTS for part in examine()]
    if console.form == "text":
        _show(found, console)
        _show_abilities(console)
    else:
        columns = ["part", "found", "needed_for", "status", "cure", "required"]
        parts = [*found, *map(_as_part, ABILITIES)]
        rows = [[getattr(part, name) for name in columns] for part in parts]
        console.table(Table(columns, rows, keys=1))
    failing = [part.part for part in found if part.fails]
    if failing:
        console.say(f"Not all is well: {', '.join(failing)}.")
        return 1
    console.say("All that snapkit needs is here.")
    if others := [part.part for part in found if part.status == "bad"]:
        console.say(f"Something to do: {', '.join(others)}.")
    return 0


def _show(parts: Sequence[Part], console: Console) -> None:
    """A line a part; below it the cure, in one piece, so that it can be copied."""
    width = max(len(part.part) for part in parts if not part.part.startswith("-"))
    for part in parts:
        if part.part.startswith("-"):
            label, text = f"{'':10}", f"{part.part.removeprefix('- ')}\n  {part.found}"
        else:
            label, text = f"{part.status:10}{part.part:{width}}  ", part.found
        if part.status != "ok" and part.needed_for:
            text = "; ".join(filter(None, (text, f"needed for {part.needed_for}")))
        console.item(label, text)
        if part.cure:
            console.text(f"{'':{len(label)}}  {part.cure}".replace("\n", " "))


def _show_abilities(console: Console) -> None:
    """What depends on how a VM is connected to; all else is the same."""
    console.heading("What not every backend can do")
    width = max(len(able.name) for able in ABILITIES)
    for able in ABILITIES:
        can = ", ".join(sorted(able.backends))
        console.item(f"{able.name:{width}}  {can:9}", able.what)
        console.item(f"{'':{width}}  {'others':9}", able.otherwise)


def _as_part(able: Ability) -> Part:
    """An ability as a row of the table that programs read."""
    can = f"{', '.join(sorted(able.backends))}; otherwise {able.otherwise}"
    return Part(f"ability: {able.name}", can, able.what, required=False)


DOCTOR = Verb(
    "doctor",
    "Say what is missing here, and the command that cures it.",
    "snapkit doctor --json",
    lambda _: None,
    _doctor,
)
