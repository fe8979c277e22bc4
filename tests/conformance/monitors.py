"""Machines that are reached by a QMP monitor: a QEMU, and a qemu-storage-daemon."""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import snapkit
from tests.conformance.machines import Image, Machine, Tap, run_python
from tests.conftest import Process, blockdev, run_daemon, run_qemu, wait_until
from tests.qmp_shell import feed, type_in
from tests.recorder import Recorder
from tests.wire import changes

NOBODY = 65534
_numbers = itertools.count()
FILTERS = frozenset(("copy-on-read",))


class Monitored(Machine):
    """What a QEMU and a storage daemon have in common: their QMP."""

    backend = "qmp"
    process: Process

    def __init__(self) -> None:
        super().__init__()
        # A socket's path holds 107 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="snapkit-test-"))
        self.lowered = False
        self.uri = self.address(f"{self.directory}/qmp.sock")
        self.domain = None

    @property
    def pid(self) -> int:
        return self.process.pid

    @staticmethod
    def address(socket: str) -> str:
        return f"unix:{socket}"

    def call(self) -> str:
        return ""

    def lower(self) -> None:
        self.lowered = os.geteuid() == 0
        self.give(self.directory)

    def give(self, *paths: str | Path) -> None:
        if self.lowered:
            for path in paths:
                os.chown(path, NOBODY, NOBODY, follow_symlinks=False)

    @property
    def prefix(self) -> list[str]:
        """What it is started by."""
        if not self.lowered:
            return []
        return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]

    def launch(self, images: Sequence[Image]) -> None:
        for name in ("qmp", "outside", "nbd"):
            (self.directory / f"{name}.sock").unlink(missing_ok=True)
        arguments = [x for number, image in enumerate(images) for x in self.disk(number, image)]
        self.process = self.run(*arguments)

    def disk(self, number: int, image: Image) -> list[str]:
        """The arguments for one disk."""
        raise NotImplementedError

    def run(self, *arguments: str) -> Process:
        """Start the program with these arguments."""
        raise NotImplementedError

    def roots(self) -> dict[str, str]:
        """The node that every device has, by name."""
        raise NotImplementedError

    def ask(self, command: str, /, **arguments: Any) -> Any:
        return self.process.ask(command, **arguments)

    def after_end(self) -> None:
        self.process.stop()

    def chains(self) -> dict[str, list[str]]:
        rows = self.ask("query-named-block-nodes", flat=True)
        graph = self.ask("x-debug-query-block-graph")
        names = {row["id"]: row["name"] for row in graph["nodes"]}
        edges = {(names[e["parent"]], e["name"]): names[e["child"]] for e in graph["edges"]}
        nodes = {row["node-name"]: row for row in rows}
        return {
            name: [nodes[node]["file"] for node in layers(root, nodes, edges)]
            for name, root in self.roots().items()
        }

    def which(self, name: str) -> dict[str, str]:
        """How a command names a device."""
        return {"node_name": self.roots()[name]}

    def take(self, name: str, file: str) -> None:
        self.ask(
            "blockdev-snapshot-sync",
            **self.which(name),
            snapshot_file=file,
            snapshot_node_name=f"theirs-{next(_numbers)}",
        )

    def resize(self, name: str, size: int) -> None:
        self.ask("block_resize", **self.which(name), size=size)

    def begin_job(self, name: str) -> None:
        options = {"target": self.file(f"{name}.log"), "sync": "full", "format": "raw"}
        self.ask("drive-mirror", device=self.roots()[name], job_id=f"copy-{name}", **options)

    def end_job(self, name: str) -> None:
        self.ask("block-job-cancel", device=f"copy-{name}", force=True)
        wait_until(lambda: not self.ask("query-jobs"), "the copy ends")

    def new_tap(self) -> Recorder:
        return Recorder(self.uri, self.directory)

    def sent(self, tap: Tap) -> list[Any]:
        assert isinstance(tap, Recorder)
        return list(changes(tap))

    def written(self, plan: snapkit.Plan) -> list[Any]:
        return [json.loads(line) for line in plan.preview("qmp").splitlines()]

    def by_hand(self, form: str, text: str) -> None:
        if form == "qmp":
            with self.process.qmp() as qmp:
                feed(qmp, text)
        elif form == "qmp-shell":
            type_in(self.process.outside, self.directory, text)
        else:
            assert form == "python"
            run_python(text)


def layers(root: str, nodes: dict[str, Any], edges: dict[tuple[str, str], str]) -> Iterable[str]:
    """The format nodes of a chain, from the top down; filters are left out."""
    node: str | None = root
    while node is not None:
        if nodes[node]["drv"] in FILTERS:
            node = edges[node, "file"]
        else:
            yield node
            node = edges.get((node, "backing"))


class Qemu(Monitored):
    """A QEMU whose disks are drives, or nodes below a filter."""

    kind = "qemu"
    events: ClassVar[frozenset[str]] = frozenset(("STOP", "RESUME"))

    def name(self, number: int) -> str:
        return f"drive{number}"

    def disk(self, number: int, image: Image) -> list[str]:
        name = self.name(number)
        if self.copy_on_read:
            return [
                *blockdev(f"fmt{number}", image.file, image.format),
                *("-blockdev", f"driver=copy-on-read,node-name=cor{number},file=fmt{number}"),
                *("-device", f"virtio-blk-pci,drive=cor{number},id={name}"),
            ]
        file = image.file.replace(",", ",,")
        return [
            *("-drive", f"if=none,id={name},file={file},format={image.format}"),
            *("-device", f"virtio-blk-pci,drive={name}"),
        ]

    def run(self, *arguments: str) -> Process:
        return run_qemu(self.directory, *arguments, prefix=self.prefix)

    def roots(self) -> dict[str, str]:
        return {
            row["device"] or row["qdev"].split("/")[3]: row["inserted"]["node-name"]
            for row in self.ask("query-block")
        }

    def which(self, name: str) -> dict[str, str]:
        return {"device": name}

    def report(self) -> None:
        self.ask("cont")
        self.ask("stop")


class StorageDaemon(Monitored):
    """A qemu-storage-daemon that exports its disks over NBD."""

    kind = "storage-daemon"
    events: ClassVar[frozenset[str]] = frozenset(("JOB_STATUS_CHANGE", "BLOCK_JOB_COMPLETED"))

    def name(self, number: int) -> str:
        return f"export{number}"

    def disk(self, number: int, image: Image) -> list[str]:
        top = f"cor{number}" if self.copy_on_read else f"fmt{number}"
        reading = ["--blockdev", f"driver=copy-on-read,node-name={top},file=fmt{number}"]
        export = f"type=nbd,id={self.name(number)},node-name={top},name=d{number},writable=on"
        return [
            *blockdev(f"fmt{number}", image.file, image.format),
            *(reading if self.copy_on_read else []),
            *("--export", export),
        ]

    def run(self, *arguments: str) -> Process:
        return run_daemon(self.directory, *arguments, prefix=self.prefix)

    def roots(self) -> dict[str, str]:
        return {row["id"]: row["node-name"] for row in self.ask("query-block-exports")}

    def report(self) -> None:
        top = next(name for name, image in self.images.items() if image.below)
        self.ask("block-stream", job_id="stream", device=self.roots()[top])
        wait_until(lambda: not self.ask("query-jobs"), "the job ends")
