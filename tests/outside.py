"""What a VM looks like to somebody else: its own connection, and the directory."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import Process, contents, create_image


def graph(qemu: Process) -> dict[str, Any]:
    """The nodes, what every device is on, and the jobs."""
    with qemu.qmp() as qmp:
        nodes = qmp.execute("query-named-block-nodes", flat=True)
        blocks = qmp.execute("query-block")
        return {
            "nodes": sorted((n["node-name"], n["file"], n["ro"]) for n in nodes),
            "devices": {
                b["device"] or b["qdev"]: (b["inserted"]["file"], b["inserted"]["node-name"])
                for b in blocks
                if "inserted" in b
            },
            "jobs": qmp.execute("query-jobs"),
        }


def state(qemu: Process) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """The graph, every file with its digest, and every name, directories and links too."""
    names = sorted(
        os.path.join(where, name)
        for where, directories, files in os.walk(qemu.directory)
        for name in (*directories, *files)
        if not name.endswith((".sock", ".log"))
    )
    return graph(qemu), contents(qemu.directory), names


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process does nothing within the block, and answers nobody."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def drives(directory: Path, count: int) -> list[str]:
    """``-drive`` and ``-device`` arguments for ``disk0.qcow2`` and so on, 1 MiB each."""
    arguments: list[str] = []
    for number in range(count):
        image = create_image(directory / f"disk{number}.qcow2", "1M")
        arguments += ["-drive", f"if=none,id=drive{number},file={image},format=qcow2"]
        arguments += ["-device", f"virtio-blk-pci,drive=drive{number}"]
    return arguments


def overlays(directory: Path, count: int) -> dict[str, str]:
    """A free name for each of these devices."""
    return {f"drive{number}": str(directory / f"over{number}.snap") for number in range(count)}
