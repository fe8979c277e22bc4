"""Checks beside the disks of the set: the others, the firmware, the TPM, the snapshot's name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple

from snapkit import eligible, paths
from snapkit.checks.registry import SetFinding, Survey, check_set
from snapkit.model import Device

__all__ = ["firmware", "left_out", "remembered", "tpm"]

_NAMES_SHOWN = 8
_LONGEST_NAME = 251
"""libvirt keeps a snapshot in a file of its name and ".xml"."""
_LAYOUT = str.maketrans("", "", "\n\t")
"""Characters that a description may have, and a name not."""


def _all_are_known(survey: Survey) -> bool:
    """Where a name means no device, it is not clear which one is left out."""
    return all(case.device is not None for case in survey.cases)


def _missing(survey: Survey) -> list[Device]:
    """The devices that could be in the set, are written to, and are not in it."""
    asked = {*survey.named, *survey.unread}
    devices = survey.facts.graph.devices.values()
    # A drive that no guest device uses is written to by nobody.
    used = [d for d in devices if d.snapshotable and d.attached and (d.qdev or not d.drive)]
    return [device for device in used if device.name not in asked]


@check_set("left out", "Are all disks of the VM in the set?", "warning", applies=_all_are_known)
def left_out(survey: Survey) -> Iterator[SetFinding]:
    """Disks of one guest belong together: going back with some of them mixes two instants."""
    missing = [d.name for d in _missing(survey) if not eligible.is_firmware(d)]
    mixes = "not in the set: after going back to this snapshot, disks of two instants would mix"
    if len(missing) > _NAMES_SHOWN:
        names = ", ".join(missing[:_NAMES_SHOWN])
        message = f"{len(missing)} disks are {mixes}; they are {names}, and more"
        yield SetFinding("", "warning", message, "Add them, unless the guest keeps them apart")
        return
    for name in missing:
        remedy = "Add the disk, unless the guest keeps nothing on it that belongs to the others"
        yield SetFinding(name, "warning", f"it is {mixes}", remedy)


@check_set("firmware", "Are the firmware's variables in the set?", "warning")
def firmware(survey: Survey) -> Iterator[SetFinding]:
    """Boot entries and Secure Boot keys live in flash, which is no disk."""
    asked = {*survey.named, *survey.unread}
    for device in survey.facts.graph.devices.values():
        if eligible.is_firmware(device) and not device.read_only and device.name not in asked:
            message = "the firmware's variables (flash) are not in the set"
            remedy = f"copy {device.file or 'its file'} when the VM is off"
            remedy = f"Add {device.name}, or {remedy}" if device.snapshotable else f"C{remedy[1:]}"
            yield SetFinding(device.name, "warning", message, remedy)


@check_set("tpm", "Is there no TPM, whose state is on no disk?", "warning")
def tpm(survey: Survey) -> Iterator[SetFinding]:
    """A guest whose disk is sealed by a TPM may not open it with another state of the TPM."""
    if survey.facts.tpm:
        message = f"the state of the TPM ({', '.join(survey.facts.tpm)}) is not in a disk snapshot"
        remedy = "Keep the guest's recovery keys, or copy the TPM's state when the VM is off"
        yield SetFinding("", "warning", message, remedy)


@check_set(
    "snapshot name",
    "Can libvirt remember the snapshot as asked?",
    "error",
    "warning",
    applies=lambda survey: survey.facts.xml,
)
def remembered(survey: Survey) -> Iterator[SetFinding]:
    """Otherwise libvirt refuses a name only when the overlays are there."""
    name, description, metadata = astuple(survey.wishes)
    for what, text in (("name", name), ("description", description.translate(_LAYOUT))):
        if character := paths.unfit_for_xml(text):
            message = f"the snapshot's {what} holds {character!a}, and libvirt cannot be told that"
            yield SetFinding("", "error", message, f"Choose another {what}")
    if name and (not name.strip() or "/" in name or name.startswith(".")):
        message = f"a snapshot of libvirt cannot be called {name!r}"
        yield SetFinding("", "error", message, "Choose a name without '/', not beginning with '.'")
    if len(name.encode(errors="surrogatepass")) > _LONGEST_NAME:
        message = f"the snapshot's name is longer than {_LONGEST_NAME} bytes"
        yield SetFinding("", "error", message, "Choose a shorter one")
    if metadata == "no" and (name or description):
        message = "libvirt will not remember the snapshot, and so no name or description of it"
        yield SetFinding("", "warning", message, "Leave them out, or metadata='no'")
    elif name in survey.facts.snapshots:
        message = f"libvirt remembers a snapshot {name!r} already"
        yield SetFinding(
            "", "error", message, "Choose another name, or none: then it is a free one"
        )
