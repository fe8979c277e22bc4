"""Checks of the place where the overlay goes: whether it is there, free, and QEMU's to use."""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Iterator

from snapkit.checks.registry import Case, check, same_file_key
from snapkit.model import Finding

__all__ = ["directory", "distinct", "exists", "in_use", "locked", "permission", "visible"]


def _is_usable(case: Case) -> bool:
    return case.path_is_usable


def _can_see(case: Case) -> bool:
    return case.can_see


def _has_a_place(case: Case) -> bool:
    """Whether it makes sense to ask what is there: QEMU can get to the directory."""
    there = case.file.directory_exists or not case.creates
    return case.can_see and case.file.reachable and there


def _creates_visibly(case: Case) -> bool:
    return case.creates and case.can_see and case.file.reachable


def _lock_is_known(case: Case) -> bool:
    return not case.creates and case.can_see and case.file.locked is not None


@check("visible", "Can the place be looked at from here?", "error", "warning", applies=_is_usable)
def visible(case: Case) -> Iterator[Finding]:
    """Where QEMU's files are elsewhere, only QEMU can judge them."""
    if case.file.shared is False:
        there = posixpath.dirname(case.target.file)
        message = f"QEMU sees another directory at {there} than this host"
        yield "error", message, "Choose a directory that both see, or connect with local=False"
    elif not case.file.known:
        message = f"{case.target.file} cannot be looked at from here: {case.facts.locality}"
        who = "libvirt will tell" if case.facts.xml else "QEMU will be asked"
        remedy = f"{who} when it runs; connect with local=True if the files are here"
        yield "warning", message, remedy


@check("directory", "Does the directory exist?", "error", applies=_creates_visibly)
def directory(case: Case) -> Iterator[Finding]:
    """QEMU creates files, never directories."""
    parent = posixpath.dirname(case.target.file)
    if not case.file.directory_exists:
        yield (
            "error",
            f"the directory {parent} does not exist",
            f"Create it: mkdir -p {shlex.quote(parent)}",
        )


@check("permission", "May QEMU write there?", "error", applies=_can_see)
def permission(case: Case) -> Iterator[Finding]:
    """The rights of QEMU's user count, not ours."""
    parent = posixpath.dirname(case.target.file)
    user = f"QEMU's user {case.facts.qemu_user}".rstrip()
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


@check("exists", "Is the place free, or the file there?", "error", applies=_has_a_place)
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


@check("distinct", "Does every device get a file of its own?", "error", applies=_is_usable)
def distinct(case: Case) -> Iterator[Finding]:
    """Also through symbolic links, hard links and ``./``."""
    for other in case.survey.by_file[same_file_key(case.file)]:
        if other is not case.target:
            message = f"{case.target.file} is the same file as the target of {other.device}"
            yield "error", message, "Give each device a file of its own"
            return


@check("in use", "Is the file free of every chain of this VM?", "error", applies=_is_usable)
def in_use(case: Case) -> Iterator[Finding]:
    """No layer of any device, and no other file of this QEMU, may become an overlay."""
    if words := _use(case):
        yield "error", f"{case.target.file} {words}", "Choose another file"


def _use(case: Case) -> str:
    """What this VM does with the target's file; empty if nothing."""
    key = same_file_key(case.file)
    if found := case.survey.layers.get(key):
        device, number = found
        return f"is {f'layer {number}' if number else 'the image'} of {device.name}"
    if node := case.survey.node_files.get(key):
        return f"is the file of the node {node}"
    return "is open in this QEMU" if case.file.held and case.file.kind == "file" else ""


@check("locked", "Has no other process locked the file?", "error", applies=_lock_is_known)
def locked(case: Case) -> Iterator[Finding]:
    """QEMU's own lock says nothing new: that the file is in use is another check's."""
    if case.file.locked and not _use(case):
        message = f"{case.target.file} is locked: another process uses it, perhaps another VM"
        who = f"fuser -v {shlex.quote(case.target.file)} shows who"
        yield "error", message, f"Choose another file, or end what uses it: {who}"
