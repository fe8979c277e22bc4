"""Which file names QEMU can be told, and reads as the file that is meant. Pure."""

from __future__ import annotations

import posixpath
import re

from snapkit.model import Finding

__all__ = ["LONGEST", "fault", "is_misread", "unfit_for_xml"]

LONGEST = 1023
"""QEMU keeps image names in 1024 bytes, and so does a qcow2 header its backing file's name."""

_OF_THE_PROCESS = ("/proc/self", "/proc/thread-self", "/dev/fd", "/dev/stdin", "/dev/stdout")
"""Names that mean another file in every process that uses them."""
_DESCRIPTORS = "/dev/fdset/"
"""QEMU reads these as files that it was handed open."""
_UNFIT_FOR_XML = re.compile("[^\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")
_CDROM = "/dev/cdrom"
"""QEMU takes every name that begins so for a host's drive, and not for a file."""


def fault(name: str) -> Finding | None:
    """What is wrong with the name of an overlay; None if nothing is.

    An absolute name is never read as a protocol, whatever colons and braces it holds.
    """
    longer = "Choose a shorter name"
    if "\0" in name:
        return "error", "the file name holds a NUL character", "Choose another name"
    if not _is_text(name):
        message = f"the file name {name!a} is not UTF-8, and QMP can carry only UTF-8"
        return "error", message, "Choose another name"
    if not name.startswith("/"):
        return "error", f"the file name {name!r} is not absolute", "Give an absolute path"
    if name.endswith("/"):
        return "error", f"{name!r} names a directory, not a file", "Add a file name"
    if len(name.encode()) > LONGEST:
        message = f"the file name has {len(name.encode())} bytes, and QEMU takes {LONGEST}"
        return "error", message, longer
    if len(posixpath.basename(name).encode()) > 255:
        return "error", "the last part of the file name has more than 255 bytes", longer
    if words := is_misread(name):
        return "error", f"{name} {words}", "Choose another directory"
    return None


def unfit_for_xml(name: str) -> str:
    """The first character that libvirt cannot be told as part of a file's name, or nothing.

    XML 1.0 has hardly any control characters; libvirt's schema allows no line end in a path,
    and a tab comes back from libvirt as a space.
    """
    found = _UNFIT_FOR_XML.search(name)
    return found[0] if found else ""


def is_misread(name: str) -> str:
    """How QEMU would read an absolute name as something else; empty if it would not."""
    plain = posixpath.normpath(name)
    if name.startswith(_DESCRIPTORS) or plain.startswith(_DESCRIPTORS):
        return "is no file for QEMU but a number: it stands for one that QEMU was handed open"
    if plain.startswith(_CDROM):
        return "is read by QEMU as a drive of the host, because it begins with /dev/cdrom"
    if any(plain == place or plain.startswith(f"{place}/") for place in _OF_THE_PROCESS):
        return "names another file in QEMU than here"
    return ""


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
