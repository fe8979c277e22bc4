"""A libvirt domain as a machine, in a libvirtd that nobody else uses."""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree as ET

import snapkit
from tests.conformance.machines import Image, Machine, Tap, run_python, shell
from tests.conftest import wait_until
from tests.libvirt_wire import LibvirtWire
from tests.libvirtd import PrivateLibvirt, domain_xml

_numbers = itertools.count()

FLAGS = {
    "--no-metadata": 4,
    "--disk-only": 16,
    "--reuse-external": 32,
    "--atomic": 128,
    "--validate": 512,
}
"""virsh's options of ``snapshot-create``, as flags of the call that it makes."""


class Domain(Machine):
    """A domain of a daemon that others of the suite use too, each with a domain of its own."""

    kind = "libvirt"
    backend = "libvirt"
    events: ClassVar[frozenset[str]] = frozenset(("LIFECYCLE",))

    def __init__(self, daemon: PrivateLibvirt) -> None:
        super().__init__()
        self.daemon = daemon
        self.domain: str = f"vm{next(_numbers)}"
        self.uri = daemon.uri
        self.directory = daemon.directory / self.domain
        self.directory.mkdir()
        self.give(self.directory)

    @property
    def pid(self) -> int:
        return self.daemon.qemu_pid(self.domain)

    def name(self, number: int) -> str:
        return f"vd{chr(ord('a') + number)}"

    @staticmethod
    def address(socket: str) -> str:
        return f"qemu+unix:///session?socket={socket}"

    def call(self) -> str:
        return self.domain

    def lower(self) -> None:
        """It runs so anyhow."""

    def give(self, *paths: str | Path) -> None:
        self.daemon.give(*paths)

    def launch(self, images: Sequence[Image]) -> None:
        files = [image.file for image in images]
        xml = domain_xml(*files, name=self.domain, copy_on_read=self.copy_on_read)
        self.daemon.create(xml, "--paused")

    def after_end(self) -> None:
        def forgotten() -> bool:
            return self.domain not in self.daemon.virsh("list", "--name").split()

        wait_until(forgotten, "libvirt hears of it")

    def ask(self, command: str, /, **arguments: Any) -> Any:
        given = {name.replace("_", "-"): value for name, value in arguments.items()}
        question = json.dumps({"execute": command, "arguments": given})
        answer = json.loads(self.daemon.virsh("qemu-monitor-command", self.domain, question))
        return answer["return"]

    def chains(self) -> dict[str, list[str]]:
        root = ET.fromstring(self.daemon.virsh("dumpxml", self.domain))  # noqa: S314  libvirt's
        found: dict[str, list[str]] = {}
        for disk in root.iterfind("devices/disk"):
            target = disk.find("target")
            assert target is not None
            found[target.attrib["dev"]] = [s.attrib["file"] for s in _sources(disk)]
        return found

    def take(self, name: str, file: str) -> None:
        rest = [f"{other},snapshot=no" for other in self.names if other != name]
        specs = [f"{name},file={file}", *rest]
        options = [word for spec in specs for word in ("--diskspec", spec)]
        words = ("snapshot-create-as", self.domain, "--disk-only", "--no-metadata")
        self.daemon.virsh(*words, *options)

    def resize(self, name: str, size: int) -> None:
        self.daemon.virsh("blockresize", self.domain, name, f"{size}B")

    def begin_job(self, name: str) -> None:
        copy = self.file(f"{name}.log")
        self.daemon.virsh("blockcopy", self.domain, name, copy, "--transient-job")

    def end_job(self, name: str) -> None:
        self.daemon.virsh("blockjob", self.domain, name, "--abort")
        wait_until(lambda: not self.ask("query-jobs"), "the copy ends")

    def report(self) -> None:
        self.daemon.virsh("resume", self.domain)
        self.daemon.virsh("suspend", self.domain)

    def new_tap(self) -> LibvirtWire:
        return LibvirtWire(self.uri.partition("socket=")[2], self.directory)

    def sent(self, tap: Tap) -> list[Any]:
        assert isinstance(tap, LibvirtWire)
        return list(tap.changes)

    def written(self, plan: snapkit.Plan) -> list[Any]:
        command, _, rest = plan.preview("virsh").partition("\n")
        options = [word for word in shlex.split(command) if word in FLAGS]
        xml = plan.preview("xml")
        assert rest == f"{xml}\n{command.partition('<<')[2].strip(chr(39))}"
        return [("snapshot", xml, sum(FLAGS[word] for word in options))]

    def by_hand(self, form: str, text: str) -> None:
        if form == "virsh":
            shell(text, self.directory)
        elif form == "xml":
            file = self.directory / "by-hand.log"
            file.write_text(text, encoding="utf-8")
            words = ("snapshot-create", self.domain, "--xmlfile", str(file))
            self.daemon.virsh(*words, "--disk-only", "--atomic", "--validate")
        else:
            assert form == "python"
            run_python(text)


def _sources(disk: ET.Element) -> list[ET.Element]:
    """The images of a disk, from the top down."""
    source, below = disk.find("source"), disk.find("backingStore")
    return [] if source is None else [source, *(_sources(below) if below is not None else [])]
