"""Checks of what is not in the set: other disks, and what no disk snapshot holds."""

from __future__ import annotations

from collections.abc import Iterator

from snapkit import eligible
from snapkit.checks.registry import SetFinding, Survey, check_set
from snapkit.model import Device

__all__ = ["firmware", "left_out", "tpm"]

_NAMES_SHOWN = 8


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
