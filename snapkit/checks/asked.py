"""Checks of what the user asks for: format, mode, file name, engine, quiescing."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from snapkit import paths
from snapkit.checks.registry import Case, check, is_known
from snapkit.model import FORMATS, MODES, Finding, Severity

__all__ = ["engine", "format_", "mode", "path", "quiesce"]


@check("format", "Can overlays have this format?", "error")
def format_(case: Case) -> Iterator[Finding]:
    """Only formats with backing files, and only those that QEMU creates over any base."""
    if case.target.format not in FORMATS:
        message = f"an overlay cannot have the format {case.target.format!r}"
        yield "error", message, f"Use {' or '.join(FORMATS)}"


@check("mode", "Is the mode one that QEMU knows?", "error")
def mode(case: Case) -> Iterator[Finding]:
    """QAPI NewImageMode. libvirt has one flag (REUSE_EXT) for a whole snapshot."""
    if case.target.mode not in MODES:
        yield "error", f"there is no mode {case.target.mode!r}", f"Use {' or '.join(MODES)}"
    elif not case.facts.mixes and case.creates and case.survey.reuses:
        message = "libvirt takes one snapshot either with new overlays or with existing ones"
        yield "error", message, "Give every disk the same mode"


@check("path", "Is the file name absolute, and would QEMU read it as this file?", "error")
def path(case: Case) -> Iterator[Finding]:
    """QEMU would read a relative name from its own directory, or as a protocol."""
    name = case.target.file
    if not name:
        # Without a device to snapshot, the missing file is not what is wrong.
        if case.device is not None and case.device.snapshotable:
            yield "error", "no snapshot file is given", "Fill in an absolute path"
    elif (fault := paths.fault(name)) is not None:
        severity, message, remedy = fault
        yield severity, message, remedy + _such_as(case, name)
    elif case.facts.xml and (character := paths.unfit_for_xml(name)):
        message = f"the file name holds {character!a}, and libvirt cannot be told such a name"
        yield "error", message, "Choose another name"


def _such_as(case: Case, name: str) -> str:
    """Where a relative name could be; nothing for other names."""
    directory = posixpath.dirname(case.device.file) if case.device else ""
    plain = not name.startswith("/") and ":" not in name and "\0" not in name
    if not plain or not directory.startswith("/"):
        return ""
    guess = posixpath.join(directory, posixpath.basename(name))
    return f", such as {guess}" if paths.fault(guess) is None else ""


@check("engine", "Does this QEMU know the commands?", "error", applies=is_known)
def engine(case: Case) -> Iterator[Finding]:
    """Old QEMUs have only ``blockdev-snapshot-sync``."""
    if case.survey.engine not in case.facts.engines:
        message = f"there is no engine {case.survey.engine!r} over libvirt, which prepares overlays"
        yield "error", message, f"Use engine={case.facts.engines[0]!r}"
        return
    needs = {
        "prepared": {"blockdev-snapshot", "blockdev-create", "blockdev-add", "transaction"},
        "classic": {"blockdev-snapshot-sync", "transaction"},
    }[case.survey.engine]
    missing = sorted(needs - case.facts.commands)
    if case.facts.commands and missing:
        prepared = case.survey.engine == "prepared"
        message = f"this QEMU does not know {', '.join(missing)}"
        yield "error", message, "Use engine='classic'" if prepared else "Update it"


@check("quiesce", "Can the guest be quiesced as asked?", "error", "warning")
def quiesce(case: Case) -> Iterator[Finding]:
    """Freezing needs a guest agent that answers."""
    if case.survey.quiesce == "no" or case.facts.agent:
        return
    message = "no guest agent is connected, so the guest's file systems cannot be frozen"
    severity: Severity = "error" if case.survey.quiesce == "require" else "warning"
    yield severity, message, "Use quiesce='no' for a crash-consistent snapshot"
