"""What the suite asks of a machine, whatever snapkit reaches it by: to be made, looked at from
outside, changed behind snapkit's back, and ended.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import snapkit
from snapkit.backends import abilities, processes
from tests.conftest import MIB, contents, create_image, qemu_img, wait_until

ROOT = Path(__file__).parents[2]


class Tap(Protocol):
    """A proxy between snapkit and a machine. ``uri`` is what to connect to."""

    uri: str
    connections: int

    def hang_up(self) -> None:
        """End every connection instead of passing the next message on."""

    def lose_reply(self, carried_out: Callable[[], object]) -> None:
        """End every connection instead of bringing the reply back that comes after this is so."""

    def refuse(self) -> None:
        """Let nobody connect any more."""

    def mend(self) -> None:
        """Let everybody connect again."""

    def cut(self) -> None:
        """End every connection that there is."""

    def close(self) -> None:
        """End everything."""


@dataclass(frozen=True)
class Image:
    """An image that a machine can use; ``size`` in bytes."""

    file: str
    format: str
    size: int
    below: Image | None = None

    @property
    def chain(self) -> list[str]:
        """Its file and those below it."""
        return [self.file, *(self.below.chain if self.below else [])]


class Machine(Protocol):
    """One VM, or one storage daemon, that has no guest. It runs after ``boot``."""

    kind: ClassVar[str]
    """The name in the suite's table of machines."""
    backend: ClassVar[str]
    """The name in snapkit's table of abilities."""
    events: ClassVar[frozenset[str]]
    """What ``report`` makes the machine tell."""
    uri: str
    domain: str | None
    directory: Path
    """Where its images are, and its overlays shall be."""
    images: dict[str, Image]
    """What each device was started with, by the device's name."""
    copy_on_read: bool
    _runs: bool
    _taps: list[Tap]

    def __init__(self) -> None:
        self.images = {}
        self.copy_on_read = False
        self._runs = False
        self._taps: list[Tap] = []

    @classmethod
    def engines(cls) -> tuple[str, ...]:
        """The engines that plans for it may have."""
        return ("prepared", "classic") if cls.can("classic") else ("prepared",)

    @classmethod
    def can(cls, ability: str) -> bool:
        """Whether snapkit's table says that its backend can do that."""
        return ability in abilities.of(cls.backend)

    @property
    def pid(self) -> int:
        """The process id of what has the disks open."""

    @staticmethod
    def address(socket: str) -> str:
        """What to connect to where such a machine is reached by that socket."""

    def name(self, number: int) -> str:
        """The name of the disk with that number, from 0."""

    def lower(self) -> None:
        """Have it run without privileges, also as root: as the user ``nobody``."""

    def call(self) -> str:
        """The name that the machine itself was given; empty if it has none."""

    def give(self, *paths: str | Path) -> None:
        """Let files belong to the user that the machine runs as."""

    def launch(self, images: Sequence[Image]) -> None:
        """Start with these disks, paused, and wait until it answers."""

    def ask(self, command: str, /, **arguments: Any) -> Any:
        """What QEMU itself answers, asked beside snapkit."""

    def chains(self) -> dict[str, list[str]]:
        """The files of every device's chain, from the top down, as somebody else sees them."""

    def take(self, name: str, file: str) -> None:
        """Take a snapshot of one disk, as somebody else."""

    def resize(self, name: str, size: int) -> None:
        """Give a disk another size in bytes, as somebody else."""

    def begin_job(self, name: str) -> None:
        """Begin to copy a disk, as somebody else; the copy goes on until ``end_job``."""

    def end_job(self, name: str) -> None:
        """Give the copy up."""

    def report(self) -> None:
        """Have it report ``events``."""

    def new_tap(self) -> Tap:
        """A proxy in front of it."""

    def sent(self, tap: Tap) -> list[Any]:
        """What went through the tap and could change something."""

    def written(self, plan: snapkit.Plan) -> list[Any]:
        """The same, as the plan's preview says it."""

    def by_hand(self, form: str, text: str) -> None:
        """Do what a preview of that form shows, with the program that the form is for."""

    def after_end(self) -> None:
        """Wait until it is known everywhere that the machine has ended."""

    def boot(self, *images: Image, copy_on_read: bool = False) -> None:
        """Start with these disks. With ``copy_on_read``, each is below such a filter."""
        self.images = {self.name(number): image for number, image in enumerate(images)}
        self.copy_on_read = copy_on_read
        self.launch(images)
        self._runs = True

    def boot_small(self, count: int) -> None:
        """Start with so many empty qcow2 disks of 1 MiB."""
        self.boot(*(self.image(f"disk{number}") for number in range(count)))

    def end(self) -> None:
        """Kill it, and wait until it is no more."""
        pid = self.pid
        os.kill(pid, 9)
        wait_until(lambda: processes.has_ended(pid), f"{pid} ends")
        self._runs = False
        self.after_end()

    def restart(self) -> None:
        """End it if it runs, and start it again with the disks that it had first."""
        if self._runs:
            self.end()
        self.launch(list(self.images.values()))
        self._runs = True

    def close(self) -> None:
        """End it and all that was made for it."""
        with ExitStack() as later:
            later.callback(shutil.rmtree, self.directory)
            for tap in self._taps:
                later.callback(tap.close)
            if self._runs:
                later.callback(self.end)

    def tap(self) -> Tap:
        """A proxy in front of it, which ends with it."""
        self._taps.append(self.new_tap())
        return self._taps[-1]

    def connect(self, tap: Tap | None = None, **options: Any) -> snapkit.VirtualMachine:
        """Snapkit, connected to it, perhaps through a tap."""
        if tap is None:
            return snapkit.connect(self.uri, self.domain, **options)
        return snapkit.connect(tap.uri, self.domain, **{"local": True, **options})

    def file(self, name: str) -> str:
        """A path in its directory."""
        return str(self.directory / name)

    def folder(self, name: str) -> Path:
        """A new directory in which it can make files."""
        path = self.directory / name
        path.mkdir()
        self.give(path)
        return path

    def image(
        self, name: str, format: str = "qcow2", size: int = MIB, below: Image | None = None
    ) -> Image:
        """An empty image that it can use."""
        suffix = ".img" if format == "raw" else ""
        path = self.file(f"{name}{suffix}")
        under = {"backing": below.file, "backing_format": below.format} if below else {}
        create_image(path, size, format, **under)
        self.give(path)
        return Image(path, format, below.size if below else size, below)

    def relate(self, image: Image) -> None:
        """Have an image's header name what is below by its name alone, which is relative."""
        assert image.below is not None
        below = Path(image.below.file).name
        qemu_img("rebase", "-q", "-u", "-b", below, "-F", image.below.format, image.file)

    def overlay(self, name: str, device: str, format: str = "qcow2") -> str:
        """An overlay for a device, made beforehand."""
        return self.image(name, format, below=self.images[device]).file

    @property
    def names(self) -> list[str]:
        """The devices."""
        return list(self.images)

    def targets(self, count: int | None = None, where: Path | None = None) -> dict[str, str]:
        """A free name for each of the first devices."""
        place = where or self.directory
        return {name: str(place / f"{name}.snap") for name in self.names[:count]}

    def active(self) -> dict[str, str]:
        """What every device is on."""
        return {name: chain[0] for name, chain in self.chains().items()}

    def first(self) -> dict[str, str]:
        """What every device was on when it was started."""
        return {name: image.file for name, image in self.images.items()}

    def state(self) -> dict[str, Any]:
        """All that could be changed: the graph, the jobs, every file, and whose they are."""
        nodes = self.ask("query-named-block-nodes", flat=True)
        names = sorted(
            os.path.join(where, name)
            for where, directories, files in os.walk(self.directory)
            for name in (*directories, *files)
            if not name.endswith((".sock", ".log"))
        )
        owners = {name: os.lstat(name) for name in names}
        return {
            "chains": self.chains(),
            "nodes": sorted((n["node-name"], n["file"], n["ro"]) for n in nodes),
            "jobs": self.ask("query-jobs"),
            "files": contents(self.directory),
            "names": {name: (s.st_mode, s.st_uid, s.st_gid) for name, s in owners.items()},
        }


class Held:
    """Another process holds an image from ``take`` on, until the block ends."""

    def __init__(self, directory: Path, image: str) -> None:
        self.directory, self.image = directory, image
        self.process: subprocess.Popen[bytes] | None = None

    def take(self) -> None:
        node = f"driver=qcow2,node-name=held,backing=,file.driver=file,file.filename={self.image}"
        pid = self.directory / "holder.pid.log"
        options = ["--export", "type=nbd,id=e,node-name=held,writable=on"]
        server = ["--nbd-server", f"addr.type=unix,addr.path={self.directory}/held.sock"]
        command = ["qemu-storage-daemon", *server, "--blockdev", node, *options]
        self.process = subprocess.Popen([*command, "--pidfile", pid])
        wait_until(pid.exists, "the image is held")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()


def run_python(text: str) -> None:
    """Run a script in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


def shell(command: str, home: Path) -> str:
    """What a command prints that is pasted into a shell, with nobody's settings."""
    settings = {"PATH": os.environ["PATH"], "HOME": str(home), "LC_ALL": "C"}
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, check=False, env=settings
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
