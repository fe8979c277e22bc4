"""The preflight: one small function a check, each knows its remedy.

A check is a pure function of a ``Case``: one target, its device, and the facts. It yields
what it finds as ``(severity, message, remedy)``. To add one, write the function below and
decorate it; ``plan.checks()``, the panels and the terminal read the registry.
"""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from snapkit import disk_image, reuse
from snapkit.facts import Facts, FileFacts
from snapkit.model import FORMATS, MODES, Device, Finding, Problem, Severity, Target

__all__ = ["CHECKS", "Case", "Check", "run"]

_PATH_MAX = 1023
"""QEMU keeps image names in 1024 bytes, and so does a qcow2 header its backing file's name."""
_NAMES_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Case:
    """One target with all that a check may know. ``device`` is None if there is none."""

    target: Target
    device: Device | None
    facts: Facts
    targets: tuple[Target, ...]
    engine: str
    quiesce: str

    @property
    def file(self) -> FileFacts:
        """What is at the target's path, where QEMU is."""
        return self.facts.file(self.target.file)

    @property
    def creates(self) -> bool:
        """Whether the overlay is to be created."""
        return self.target.mode != "existing"

    @property
    def path_is_usable(self) -> bool:
        """Whether the path can be looked at, so that file checks mean something."""
        return bool(self.target.file) and not any(path(self))


@dataclass(frozen=True, slots=True)
class Check:
    """A registered check: its name in the tables, what it asks, and the function."""

    name: str
    asks: str
    find: Callable[[Case], Iterator[Finding]]
    applies: Callable[[Case], bool]


CHECKS: list[Check] = []


def _always(_: Case) -> bool:
    return True


def _known(case: Case) -> bool:
    return case.device is not None


def _can_see(case: Case) -> bool:
    return case.path_is_usable and case.file.known and case.file.shared is not False


def _has_a_place(case: Case) -> bool:
    """Whether it makes sense to ask what is there: QEMU can get to the directory."""
    there = case.file.directory_exists or not case.creates
    return _can_see(case) and case.file.reachable and there


def _creates_visibly(case: Case) -> bool:
    return case.creates and _can_see(case) and case.file.reachable


def _reuses_visibly(case: Case) -> bool:
    return not case.creates and _can_see(case) and case.device is not None


def _switches(case: Case) -> bool:
    return case.device is not None and case.device.snapshotable


def _check(
    name: str, asks: str, applies: Callable[[Case], bool] = _always
) -> Callable[[Callable[[Case], Iterator[Finding]]], Callable[[Case], Iterator[Finding]]]:
    """Register a check. ``asks`` is the question that it answers, in words."""

    def register(
        find: Callable[[Case], Iterator[Finding]],
    ) -> Callable[[Case], Iterator[Finding]]:
        CHECKS.append(Check(name, asks, find, applies))
        return find

    return register


def run(cases: Sequence[Case]) -> tuple[tuple[Problem, ...], dict[tuple[str, str], str]]:
    """All problems at once, and the matrix of devices and checks as words."""
    problems: list[Problem] = []
    cells: dict[tuple[str, str], str] = {}
    for case in cases:
        for check in CHECKS:
            if not check.applies(case):
                continue
            found = [Problem(case.target.device, check.name, *f) for f in check.find(case)]
            problems += found
            worst = next((p for p in found if p.severity == "error"), found[0] if found else None)
            cells[case.target.device, check.name] = (
                f"{worst.severity}: {worst.message}" if worst else "ok"
            )
    return tuple(problems), cells


@_check("known", "Is there such a device?")
def known(case: Case) -> Iterator[Finding]:
    """The device is one of this VM's; a node below one is named as what it is."""
    if case.device is not None:
        return
    name = case.target.device
    node = case.facts.graph.nodes.get(name)
    if node is not None:
        user = next((d.name for d in case.facts.graph.devices.values() if _holds(d, name)), "")
        where = f" inside the chain of {user}" if user else ""
        message = f"{name!r} is a {node.kind} node ({node.driver}){where}"
        remedy = f"Name the device {user}" if user else _choices(case)
        yield "error", f"{message}; a snapshot there would damage it", remedy
        return
    close = case.facts.graph.closest(name)
    remedy = f"Did you mean {' or '.join(close)}?" if close else _choices(case)
    yield "error", f"the VM has no device {name!r}", remedy


def _choices(case: Case) -> str:
    names = [device.name for device in case.facts.graph.devices.values() if device.snapshotable]
    if not names:
        return "This VM has no device that can be snapshotted"
    more = ", and more" if len(names) > _NAMES_SHOWN else ""
    return f"Choose one of: {', '.join(names[:_NAMES_SHOWN])}{more}"


def _holds(candidate: Device, node: str) -> bool:
    below = candidate.name, candidate.root, *candidate.filters, *(x.node for x in candidate.layers)
    return node in below or node in candidate.inner


@_check("once", "Is the device named only once?", _known)
def once(case: Case) -> Iterator[Finding]:
    """Two overlays for one device would stack two layers on it."""
    same = [t for t in case.targets if case.facts.graph.find(t.device) == case.device]
    if len(same) > 1:
        yield "error", "the device is named twice", "Leave one of the two out"


@_check("snapshotable", "Can and should this device be snapshotted?", _known)
def snapshotable(case: Case) -> Iterator[Finding]:
    """Empty drives, protocol nodes and busy nodes are refused, with the device's own reason."""
    assert case.device is not None  # noqa: S101  _known says so
    if case.device.why_not:
        yield "error", f"it cannot be snapshotted: {case.device.why_not}", "Leave the device out"


@_check("format", "Can overlays have this format?")
def format_(case: Case) -> Iterator[Finding]:
    """Only formats with backing files, and only those that QEMU creates over any base."""
    if case.target.format not in FORMATS:
        message = f"an overlay cannot have the format {case.target.format!r}"
        yield "error", message, f"Use {' or '.join(FORMATS)}"


@_check("mode", "Is the mode one that QEMU knows?")
def mode(case: Case) -> Iterator[Finding]:
    """QAPI NewImageMode."""
    if case.target.mode not in MODES:
        yield "error", f"there is no mode {case.target.mode!r}", f"Use {' or '.join(MODES)}"


@_check("path", "Is the file name absolute and one that QEMU can be told?")
def path(case: Case) -> Iterator[Finding]:
    """QEMU would read a relative name from its own directory, or as a protocol."""
    name = case.target.file
    if not name:
        # Without a device to snapshot, the missing file is not what is wrong.
        if case.device is not None and case.device.snapshotable:
            yield "error", "no snapshot file is given", "Fill in an absolute path"
    elif "\0" in name:
        yield "error", "the file name holds a NUL character", "Choose another name"
    elif not _is_text(name):
        message = f"the file name {name!a} is not UTF-8, and QMP can carry only UTF-8"
        yield "error", message, "Choose another name"
    elif not name.startswith("/"):
        directory = posixpath.dirname(case.device.file) if case.device else ""
        hint = f", such as {posixpath.join(directory, posixpath.basename(name))}"
        message = f"the file name {name!r} is not absolute"
        good = directory.startswith("/") and ":" not in name
        yield "error", message, f"Give an absolute path{hint if good else ''}"
    elif name.endswith("/"):
        yield "error", f"{name!r} names a directory, not a file", "Add a file name"
    elif len(name.encode()) > _PATH_MAX:
        message = f"the file name has {len(name.encode())} bytes, and QEMU takes {_PATH_MAX}"
        yield "error", message, "Choose a shorter name"
    elif len(posixpath.basename(name).encode()) > 255:
        message = "the last part of the file name has more than 255 bytes"
        yield "error", message, "Choose a shorter name"


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


@_check("visible", "Can the place be looked at from here?", lambda case: case.path_is_usable)
def visible(case: Case) -> Iterator[Finding]:
    """Where QEMU's files are elsewhere, only QEMU can judge them."""
    if case.file.shared is False:
        there = posixpath.dirname(case.target.file)
        message = f"QEMU sees another directory at {there} than this host"
        yield "error", message, "Choose a directory that both see, or connect with local=False"
    elif not case.file.known:
        message = f"{case.target.file} cannot be looked at from here: {case.facts.locality}"
        remedy = "QEMU will be asked when it runs; connect with local=True if the files are here"
        yield "warning", message, remedy


@_check("directory", "Does the directory exist?", _creates_visibly)
def directory(case: Case) -> Iterator[Finding]:
    """QEMU creates files, never directories."""
    parent = posixpath.dirname(case.target.file)
    if not case.file.directory_exists:
        yield (
            "error",
            f"the directory {parent} does not exist",
            f"Create it: mkdir -p {shlex.quote(parent)}",
        )


@_check("permission", "May QEMU write there?", _can_see)
def permission(case: Case) -> Iterator[Finding]:
    """The rights of QEMU's user count, not ours."""
    parent = posixpath.dirname(case.target.file)
    user = case.facts.qemu_user or "QEMU's user"
    if not case.file.reachable:
        message = f"{user} may not enter the directories above {case.target.file}"
        yield "error", message, "Choose another place, or have the directories opened"
    elif not (case.file.directory_exists if case.creates else case.file.exists):
        return
    elif case.file.read_only_file_system:
        message = f"{parent} is on a read-only file system"
        yield "error", message, "Choose a directory that can be written to"
    elif case.creates and case.file.directory_writable is False:
        message = f"{user} may not create files in {parent}"
        yield "error", message, f"Give {user} write permission there, or choose another place"
    elif not case.creates and case.file.writable is False:
        message = f"{user} may not write to {case.target.file}"
        yield "error", message, f"Give {user} read and write permission"


@_check("exists", "Is the place free, or the file there?", _has_a_place)
def exists(case: Case) -> Iterator[Finding]:
    """QEMU would wipe an unlocked file, such as the disk of a VM that is switched off."""
    name = case.target.file
    if case.creates and case.file.exists:
        what = {"directory": "is a directory", "device": "is a device"}.get(
            case.file.kind, "already exists, and QEMU would overwrite it"
        )
        yield "error", f"{name} {what}", "Choose a name that is free"
    if not case.creates and not case.file.exists:
        message = f"{name} does not exist, and the mode is 'existing'"
        yield "error", message, "Create it beforehand, or use the mode 'absolute-paths'"
    if not case.creates and case.file.exists and case.file.kind not in {"file", "device"}:
        yield "error", f"{name} is no file", "Name an image file"


@_check("distinct", "Does every device get a file of its own?", lambda case: case.path_is_usable)
def distinct(case: Case) -> Iterator[Finding]:
    """Also through symbolic links, hard links and ``./``."""
    mine = _same_file_key(case.file)
    for other in case.targets:
        if other is not case.target and _same_file_key(case.facts.file(other.file)) == mine:
            message = f"{case.target.file} is the same file as the target of {other.device}"
            yield "error", message, "Give each device a file of its own"
            return


def _same_file_key(file: FileFacts) -> object:
    return file.identity or file.real_path or posixpath.normpath(file.path)


@_check("in use", "Is the file free of every chain of this VM?", lambda case: case.path_is_usable)
def in_use(case: Case) -> Iterator[Finding]:
    """No layer of any device may become an overlay."""
    mine = _same_file_key(case.file)
    for other in case.facts.graph.devices.values():
        for number, layer in enumerate(other.layers):
            if layer.file and _same_file_key(case.facts.file(layer.file)) == mine:
                where = "the image" if number == 0 else f"layer {number}"
                message = f"{case.target.file} is {where} of {other.name}"
                yield "error", message, "Choose another file"
                return


@_check("overlay", "Does the existing overlay fit the disk?", _reuses_visibly)
def overlay(case: Case) -> Iterator[Finding]:
    """QEMU checks neither header nor size: a wrong one loses data at the next start."""
    disk = case.device.active if case.device else None
    if disk is not None and case.file.kind in {"file", "device"}:
        yield from reuse.find(case.target, disk, case.file.image, lambda x: _is_image(x, case))


def _is_image(backing: str, case: Case) -> bool:
    """Whether a header's backing file is the device's active image."""
    assert case.device is not None  # noqa: S101  _reuses_visibly says so
    mine, theirs = case.facts.file(case.device.file), case.facts.file(backing)
    return _same_file_key(mine) == _same_file_key(theirs)


@_check("base", "Can the overlay's header name the disk's image?", _switches)
def base(case: Case) -> Iterator[Finding]:
    """A header with a name that cannot be opened later breaks the chain at the next start."""
    assert case.device is not None  # noqa: S101  _switches says so
    yield from disk_image.nameable(case.device.file, _PATH_MAX)


@_check("image", "Is the disk's image still the file that QEMU has open?", _switches)
def image(case: Case) -> Iterator[Finding]:
    """The overlay's header names a file, and at the next start that file would be opened."""
    assert case.device is not None  # noqa: S101  _switches says so
    for words in disk_image.replaced(case.facts.graph, case.device, case.facts.files):
        yield "error", words, "Put the disk's own image back under its name"


@_check("encryption", "Would the overlay be as secret as the disk?", _switches)
def encryption(case: Case) -> Iterator[Finding]:
    """An overlay is not encrypted only because its base is."""
    assert case.device is not None  # noqa: S101  _switches says so
    if case.creates and case.facts.graph.nodes[case.device.node].encrypted:
        message = "the disk is encrypted, and the overlay would not be: new data would be readable"
        yield "warning", message, "Keep the overlay where nobody else reads it, or leave it out"


@_check("engine", "Does this QEMU know the commands?", _known)
def engine(case: Case) -> Iterator[Finding]:
    """Old QEMUs have only ``blockdev-snapshot-sync``."""
    needs = {
        "prepared": {"blockdev-snapshot", "blockdev-create", "blockdev-add", "transaction"},
        "classic": {"blockdev-snapshot-sync", "transaction"},
    }[case.engine]
    missing = sorted(needs - case.facts.commands)
    if case.facts.commands and missing:
        message = f"this QEMU does not know {', '.join(missing)}"
        yield "error", message, "Use engine='classic'" if case.engine == "prepared" else "Update it"


@_check("classic name", "Will the classic engine write a header that can be opened?", _switches)
def classic_name(case: Case) -> Iterator[Finding]:
    """``blockdev-snapshot-sync`` records the name that QEMU was given, relative or not."""
    assert case.device is not None  # noqa: S101  _switches says so
    if case.engine != "classic" or not case.creates:
        return
    node = case.facts.graph.nodes[case.device.node]
    here = posixpath.dirname(case.target.file)
    remedy = "Use engine='prepared', which writes the header itself"
    if (
        disk_image.is_relative(node.given_name)
        and posixpath.normpath(here) != case.facts.qemu_directory
    ):
        message = f"QEMU would record the relative backing file {node.given_name!r}"
        yield "error", f"{message}, lost from {here}", remedy
    elif node.given_name.startswith("json:") and node.file != node.given_name:
        message = f"QEMU would record the options of {node.file} instead of its name"
        yield "error", f"{message}, and they cannot be opened later", remedy


@_check("quiesce", "Can the guest be quiesced as asked?")
def quiesce(case: Case) -> Iterator[Finding]:
    """Freezing needs a guest agent that answers."""
    if case.quiesce == "no" or case.facts.agent:
        return
    message = "no guest agent is connected, so the guest's file systems cannot be frozen"
    severity: Severity = "error" if case.quiesce == "require" else "warning"
    yield severity, message, "Use quiesce='no' for a crash-consistent snapshot"
