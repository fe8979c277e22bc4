"""A VM and its files as somebody else sees them, and what must be so after every failure."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from tests.conftest import Qmp, digest

__all__ = ["Disks", "Offline", "Position", "View", "file_of", "files_of", "look", "position"]

Position = Literal["old", "new", "mixed"]


@dataclass(frozen=True)
class View:
    """The block graph: node -> file, node -> backing node, device or export -> its node."""

    files: dict[str, str]
    backing: dict[str, str]
    devices: dict[str, str]
    jobs: tuple[str, ...]

    def chain(self, device: str) -> list[str]:
        """The nodes of a device from the top down; none if it is not there."""
        found: list[str] = []
        node: str | None = self.devices.get(device)
        while node is not None:
            found.append(node)
            node = self.backing.get(node)
        return found

    def in_use(self) -> set[str]:
        """The files of every chain of a device, and of every backing chain."""
        chains = {node for device in self.devices for node in self.chain(device)}
        used = chains | self.backing.keys() | set(self.backing.values())
        return {self.files[node] for node in used if node in self.files}


class _Machine(Protocol):
    def qmp(self) -> Qmp: ...


def look(qemu: _Machine) -> View:
    """One look, over a connection of its own."""
    with qemu.qmp() as qmp:
        nodes = qmp.execute("query-named-block-nodes", flat=True)
        graph = qmp.execute("x-debug-query-block-graph")
        devices = {
            _device(row["qdev"]): row["inserted"]["node-name"]
            for row in qmp.execute("query-block")
            if "inserted" in row
        }
        exports = qmp.execute("query-block-exports")
        jobs = qmp.execute("query-jobs")
    names = {row["id"]: row["name"] for row in graph["nodes"]}
    return View(
        files={row["node-name"]: file_of(row) for row in nodes},
        backing={
            names[edge["parent"]]: names[edge["child"]]
            for edge in graph["edges"]
            if edge["name"] == "backing"
        },
        devices=devices | {row["id"]: row["node-name"] for row in exports},
        jobs=tuple(row["id"] for row in jobs),
    )


def _device(qdev: str) -> str:
    """A device's name. Over libvirt, names that were given begin with ``ua-``."""
    return qdev.removesuffix("/virtio-backend").removeprefix("ua-")


def file_of(node: Mapping[str, Any]) -> str:
    """A node's file. QEMU writes options that no name can hold as JSON."""
    name = str(node["file"])
    if not name.startswith("json:"):
        return name
    options = json.loads(name.removeprefix("json:"))
    while "filename" not in options:
        options = options["file"]
    return str(options["filename"])


def position(view: View, overlays: Mapping[str, str]) -> Position:
    """Whether all of these devices' overlays stand on something, or none does.

    A device that is there has to agree: its chain holds its overlay or it does not.
    """
    above = {view.files[node] for node in view.backing if node in view.files}
    moved = {device: file in above for device, file in overlays.items()}
    for device, file in overlays.items():
        chain = {view.files.get(node) for node in view.chain(device)}
        if device in view.devices and (file in chain) != moved[device]:
            return "mixed"
    if len(set(moved.values())) > 1:
        return "mixed"
    return "new" if any(moved.values()) else "old"


@dataclass(frozen=True)
class Offline:
    """Images as ``qemu-img`` sees them, with words in front of each command line.

    Not even leaked clusters are let pass, also after QEMU was killed: the disks are idle.
    """

    prefix: Sequence[str] = ()

    def check(self, path: str) -> str:
        """What ``qemu-img check`` says against an image, or nothing."""
        done = self._run("check", "--force-share", path)
        # 63: the format, raw, has nothing to check.
        return "" if done.returncode in {0, 63} else f"{path}: {done.stdout}{done.stderr}"

    def chain(self, path: str) -> list[str] | str:
        """The files of a chain as it opens offline, or qemu-img's complaint."""
        done = self._run("info", "--force-share", "--backing-chain", "--output=json", path)
        if done.returncode:
            return done.stderr
        return [str(layer["filename"]) for layer in json.loads(done.stdout)]

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*self.prefix, "qemu-img", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)


def files_of(directory: Path) -> dict[str, str]:
    """Every file with its digest, and what is none with its kind; sockets and logs left out."""
    found: dict[str, str] = {}
    for where, directories, names in os.walk(directory):
        for name in (*directories, *names):
            path = os.path.join(where, name)
            if os.path.islink(path):
                found[path] = f"link to {os.readlink(path)}"
            elif os.path.isdir(path):
                found[path] = "directory"
            elif os.path.isfile(path) and not name.endswith(".log"):
                found[path] = digest(path)
    return found


@dataclass
class Disks:
    """What there was before, to be compared with what there is.

    ``others`` are the files of somebody else that came meanwhile, with their digests;
    ``taken`` are the paths that somebody else has removed; ``nodes`` what somebody else added.
    """

    files: dict[str, str]
    view: View
    overlays: Mapping[str, str]
    others: dict[str, str] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    nodes: set[str] = field(default_factory=set)
    _sound: set[object] = field(default_factory=set)
    """What qemu-img had nothing against, with the digests that it had then."""

    def changed(self, now: Mapping[str, str]) -> list[str]:
        """The files of others that are not what they were."""
        kept = {path: was for path, was in self.files.items() if path not in self.taken}
        return [
            f"{path} {'has changed' if path in now else 'is gone'}"
            for path, was in {**kept, **self.others}.items()
            if now.get(path) != was
        ]

    def left(self, now: Mapping[str, str], view: View | None) -> list[str]:
        """What the run made and nobody uses: files, and where the VM can be asked nodes, jobs."""
        used = view.in_use() if view else set()
        left = [
            path
            for path in now
            if path not in self.files and path not in self.others and path not in used
        ]
        if view is None:
            return left
        mine = view.files.keys() - self.view.files.keys() - self.nodes
        left += [node for node in sorted(mine) if view.files[node] not in used]
        return left + [f"job {job}" for job in view.jobs if job not in self.view.jobs]

    def unsound(self, now: Mapping[str, str], view: View | None, offline: Offline) -> list[str]:
        """What qemu-img has against the images that there are, and against every live chain."""
        images = [*self.files, *(view.in_use() if view else ())]
        paths = [path for path in dict.fromkeys(images) if path in now and path not in self.taken]
        complaints = []
        for path in filter(_is_image, paths):
            seen = path, now[path]
            if seen in self._sound:
                continue
            if said := offline.check(path):
                complaints.append(said)
            else:
                self._sound.add(seen)
        return complaints + (self._unfit(now, view, offline) if view else [])

    def _unfit(self, now: Mapping[str, str], view: View, offline: Offline) -> list[str]:
        """The devices that would be on something else if they were started anew."""
        complaints = []
        for device in view.devices:
            live = _files_of_chain(view, device)
            seen = tuple((path, now.get(path)) for path in live)
            if seen in self._sound or self.taken.intersection(live):
                continue
            offline_chain = offline.chain(live[0])
            if offline_chain != live:
                complaints.append(f"{device} is on {live}, offline that is {offline_chain}")
            else:
                self._sound.add(seen)
        return complaints

    def lost(self, view: View) -> list[str]:
        """The devices whose old chain is not there any more, whole, below what they are on."""
        found = []
        for device in view.devices:
            was, chain = (_files_of_chain(seen, device) for seen in (self.view, view))
            if was and chain[-len(was) :] != was:
                found.append(f"{device}: {was} has become {chain}")
        return found


def _files_of_chain(view: View, device: str) -> list[str]:
    return [view.files[node] for node in view.chain(device)]


def _is_image(path: str) -> bool:
    return path.endswith((".qcow2", ".img", ".snap"))
