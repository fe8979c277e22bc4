"""Real QEMUs and storage daemons for the tests, and an own client that looks at them.

What snapkit claims is checked from outside: by ``Qmp``, a client of a few lines on a
monitor of its own, by ``qemu-img``, and by the file system.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

import snapkit
from snapkit.backends import libvirt_hosts

# The table of faults ends a run. With xdist, of all conftest files only this one and the
# root's are read where it is printed.
from tests.faults.matrix import pytest_terminal_summary  # noqa: F401
from tests.libvirtd import PrivateLibvirt, private_libvirt
from tests.recorder import Recorder

SECONDS = 20.0
"""How long a test waits for anything before it says that it never came."""

MIB = 1024 * 1024
TOOLS = ("qemu-system-x86_64", "qemu-img", "qemu-storage-daemon", "libvirtd", "virsh")


@pytest.fixture(scope="session", autouse=True)
def _tools() -> None:
    """A missing program fails, with the command that installs it."""
    # An ordinary user's PATH often lacks the place of daemons.
    places = f"{os.environ['PATH']}:/usr/sbin"
    missing = [tool for tool in TOOLS if shutil.which(tool, path=places) is None]
    if missing:
        packages = "qemu-system-x86 qemu-utils qemu-system-common"
        packages += " libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients"
        pytest.fail(f"missing: {', '.join(missing)}; run: apt-get install {packages}")


@pytest.fixture(autouse=True)
def journal_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has a journal of its own, and the user's is left alone."""
    path = tmp_path / "state" / "journal.sqlite"
    monkeypatch.setenv("SNAPKIT_JOURNAL", str(path))
    return path


@pytest.fixture(autouse=True)
def _tests_libvirt_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks for daemons finds those of tests: the user's own libvirt is left alone."""
    listening, place = libvirt_hosts.listening, os.path.join(tempfile.gettempdir(), "snapkit-")
    monkeypatch.setattr(
        libvirt_hosts, "listening", lambda: [x for x in listening() if x.startswith(place)]
    )


def wait_until(condition: Callable[[], Any], what: str, seconds: float = SECONDS) -> Any:
    """The first true value of ``condition``, which is asked often; fails after a time limit."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:g} s in vain: {what}")
        select.select([], [], [], 0.01)


class Qmp:
    """A QMP client of a few lines: one socket, one command at a time."""

    def __init__(self, address: str | tuple[str, int]) -> None:
        if isinstance(address, str):
            self.socket = socket.socket(socket.AF_UNIX)
        else:
            self.socket = socket.socket(socket.AF_INET)
        self.socket.settimeout(SECONDS)
        self.socket.connect(address)
        self.stream = self.socket.makefile("rwb")
        self.greeting = self._read()
        self.execute("qmp_capabilities")

    def _read(self) -> dict[str, Any]:
        line = self.stream.readline()
        if not line:
            raise ConnectionError("the monitor hung up")
        message: dict[str, Any] = json.loads(line)
        return message

    def send(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send a message as it is and return the reply, events left out."""
        self.stream.write(json.dumps(message).encode() + b"\n")
        self.stream.flush()
        while True:
            reply = self._read()
            if "event" not in reply:
                return reply

    def execute(self, command: str, /, **arguments: Any) -> Any:
        """Run a command whose arguments have underscores for dashes; return its answer."""
        given = {name.replace("_", "-"): value for name, value in arguments.items()}
        reply = self.send({"execute": command, "arguments": given})
        if "error" in reply:
            raise RuntimeError(reply["error"]["desc"])
        return reply["return"]

    def close(self) -> None:
        self.stream.close()
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Process:
    """A QEMU or a storage daemon, its monitor for snapkit, and one to look from outside."""

    def __init__(self, command: list[str], directory: Path, uri: str) -> None:
        self.directory = directory
        self.uri = uri
        self.command = command
        self.log = directory / "qemu.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory
            )
        self.outside = str(directory / "outside.sock")
        wait_until(self._is_up, "QEMU opens its monitor")

    def _is_up(self) -> bool:
        if self.process.poll() is not None:
            pytest.fail(f"QEMU ended: {self.log.read_text(errors='replace')}")
        # The socket is there a moment before anybody listens.
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(self.outside) == 0

    @property
    def pid(self) -> int:
        return self.process.pid

    def qmp(self) -> Qmp:
        """An own client on the second monitor."""
        return Qmp(self.outside)

    def ask(self, command: str, /, **arguments: Any) -> Any:
        """One command over a connection of its own."""
        with self.qmp() as qmp:
            return qmp.execute(command, **arguments)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def run_qemu(
    directory: Path,
    *arguments: str,
    qmp: str | None = None,
    prefix: list[str] | None = None,
) -> Process:
    """Start ``qemu-system-x86_64`` without a guest; ``prefix`` is a command that starts it."""
    monitor = qmp or f"unix:{directory}/qmp.sock"
    command = [
        *(prefix or []),
        *("qemu-system-x86_64", "-machine", "pc", "-accel", "tcg", "-m", "16"),
        *("-display", "none", "-nodefaults", "-no-user-config", "-S"),
        *("-qmp", f"{monitor},server=on,wait=off"),
        *("-qmp", f"unix:{directory}/outside.sock,server=on,wait=off"),
        *arguments,
    ]
    return Process(command, directory, monitor)


def run_daemon(directory: Path, *arguments: str, prefix: list[str] | None = None) -> Process:
    """Start ``qemu-storage-daemon`` with an NBD server."""
    command = [
        *(prefix or []),
        "qemu-storage-daemon",
        *("--chardev", f"socket,path={directory}/qmp.sock,server=on,wait=off,id=m0"),
        *("--monitor", "chardev=m0"),
        *("--chardev", f"socket,path={directory}/outside.sock,server=on,wait=off,id=m1"),
        *("--monitor", "chardev=m1"),
        *("--nbd-server", f"addr.type=unix,addr.path={directory}/nbd.sock"),
        *arguments,
    ]
    return Process(command, directory, f"unix:{directory}/qmp.sock")


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory with a short name: a socket's path holds 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="snapkit-test-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


StartQemu = Callable[..., Process]


@pytest.fixture
def start_qemu(directory: Path) -> Iterator[StartQemu]:
    """Starts ``qemu-system-x86_64`` without a guest, with the given arguments."""
    started: list[Process] = []

    def start(*arguments: str, qmp: str | None = None, prefix: list[str] | None = None) -> Process:
        started.append(run_qemu(directory, *arguments, qmp=qmp, prefix=prefix))
        return started[-1]

    yield start
    for process in started:
        process.stop()


@pytest.fixture
def start_daemon(directory: Path) -> Iterator[StartQemu]:
    """Starts ``qemu-storage-daemon`` with the given arguments and an NBD server."""
    started: list[Process] = []

    def start(*arguments: str) -> Process:
        started.append(run_daemon(directory, *arguments))
        return started[-1]

    yield start
    for process in started:
        process.stop()


def qemu_img(*arguments: str | Path) -> str:
    """Run qemu-img and return what it prints."""
    done = subprocess.run(
        ["qemu-img", *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return done.stdout


def create_image(
    path: Path | str, size: str | int = "64M", format: str = "qcow2", **options: str
) -> str:
    """An empty image; ``backing`` and ``backing_format`` name what it stands on."""
    backing = options.get("backing")
    below = ["-b", backing, "-F", options["backing_format"]] if backing else []
    qemu_img("create", "-q", "-f", format, *below, path, *([] if backing else [str(size)]))
    return str(path)


def blockdev(node: str, file: Path | str, driver: str = "qcow2", **options: str) -> tuple[str, str]:
    """A ``-blockdev`` option; a comma in a file's name is written twice."""
    name = str(file).replace(",", ",,")
    rest = "".join(f",{key}={value}" for key, value in options.items())
    return (
        "--blockdev",
        f"driver={driver},node-name={node},file.driver=file,file.filename={name}{rest}",
    )


def forget_backing_format(overlay: str) -> None:
    """Give the header's extension a number that nobody knows, as an old qemu-img left it out."""
    header = Path(overlay).read_bytes()
    Path(overlay).write_bytes(header.replace(b"\xe2\x79\x2a\xca", b"\x12\x34\x56\x78", 1))


def chain_of(path: Path | str) -> list[dict[str, Any]]:
    """The chain as it opens offline, from the top down."""
    layers: list[dict[str, Any]] = json.loads(
        qemu_img("info", "--force-share", "--backing-chain", "--output=json", path)
    )
    return layers


def digest(path: Path | str) -> str:
    """What tells whether a file's bytes are the same as before."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def contents(directory: Path) -> dict[str, str]:
    """Every file of a directory with its digest, sockets and logs left out."""
    files = [p for p in directory.rglob("*") if p.is_file() and p.suffix != ".log"]
    return {str(path): digest(path) for path in sorted(files)}


@pytest.fixture
def seed_images(directory: Path) -> tuple[str, str]:
    """The seed's disks: a raw ``win2003.img`` and a qcow2 ``data.qcow2``."""
    return (
        create_image(directory / "win2003.img", format="raw"),
        create_image(directory / "data.qcow2"),
    )


@pytest.fixture
def seed_qemu(start_qemu: StartQemu, seed_images: tuple[str, str]) -> Process:
    """A QEMU with the seed's two drives."""
    raw, qcow2 = seed_images
    return start_qemu(
        *("-drive", f"if=none,id=drive0,file={raw},format=raw"),
        *("-device", "virtio-blk-pci,drive=drive0"),
        *("-drive", f"if=none,id=drive1,file={qcow2},format=qcow2"),
        *("-device", "virtio-blk-pci,drive=drive1"),
    )


@pytest.fixture
def seed_vm(seed_qemu: Process) -> Iterator[snapkit.VirtualMachine]:
    """snapkit, connected to the seed's VM."""
    with snapkit.connect(seed_qemu.uri) as vm:
        yield vm


@pytest.fixture
def recorder(directory: Path) -> Iterator[Callable[..., Recorder]]:
    """Puts a recording proxy in front of a monitor: ``recorder(uri)``, connect to ``.uri``."""
    started: list[Recorder] = []

    def start(uri: str, *, tcp: str = "") -> Recorder:
        started.append(Recorder(uri, directory, tcp=tcp))
        return started[-1]

    yield start
    for proxy in started:
        proxy.close()


@pytest.fixture
def libvirt() -> Iterator[PrivateLibvirt]:
    """A libvirtd of the test's own, without a domain."""
    with private_libvirt() as daemon:
        yield daemon


StartDomain = Callable[..., str]


@pytest.fixture
def start_domain(libvirt: PrivateLibvirt) -> StartDomain:
    """Starts a paused domain with ``disks`` small disks, vda raw as in the seed. Its name."""

    def start(disks: int = 2, name: str = "win2003") -> str:
        raw = libvirt.image(f"{name}.img", "raw", "4M")
        rest = [libvirt.image(f"{name}-{number}.qcow2", size="4M") for number in range(1, disks)]
        return libvirt.paused(raw, *rest, name=name)

    return start
