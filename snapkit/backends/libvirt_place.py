"""Where the QEMU of a libvirt domain is: its process, if it is one of this host."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from urllib.parse import urlsplit

from snapkit.backends import locality, processes
from snapkit.backends.libvirt_xml import Domain
from snapkit.backends.locality import Place
from snapkit.backends.qemu_args import split_program
from snapkit.facts import FileFacts

__all__ = ["find", "granted", "has_ended", "is_elsewhere", "qemus"]

_OVERRULED = "the connection was made with this said beforehand"
_HERE = frozenset(("", "localhost", "127.0.0.1", "::1"))


def is_elsewhere(uri: str) -> bool:
    """Whether a libvirt URI names another host."""
    try:
        return (urlsplit(uri).hostname or "") not in _HERE
    except ValueError:
        return True


def find(uri: str, domain: Domain, *, overrule: bool | None) -> Place:
    """Where a running domain's QEMU is. ``overrule`` replaces the verdict on its files.

    On this host it is the process that was started with the domain's uuid. Of several, as
    with several daemons, it is the one that has the domain's images open.
    """
    if is_elsewhere(uri):
        return _without_process(f"{uri} is another host's libvirt", overrule=overrule)
    images = [image.file for disk in domain.disks for image in disk.images]
    pids = qemus().get(domain.uuid, [])
    places = [locality.of_process(pid, images, overrule=None) for pid in pids]
    proved = [place for place in places if place.local]
    if len(proved) == 1 and overrule is not False:
        place = proved[0]
        return place if overrule is None else replace(place, why=_OVERRULED)
    if len(pids) == 1:
        return locality.of_process(pids[0], images, overrule=overrule)
    if not pids:
        why = f"no QEMU process of this host was found that runs the domain {domain.name}"
    else:
        why = f"{len(pids)} QEMU processes of this host run a domain with the uuid {domain.uuid}"
    return _without_process(why, overrule=overrule)


def _without_process(why: str, *, overrule: bool | None) -> Place:
    return Place(local=bool(overrule), why=why if overrule is None else _OVERRULED)


def qemus() -> dict[str, list[int]]:
    """The QEMU processes of this host by the domain's uuid that they were started with."""
    found: dict[str, list[int]] = {}
    for pid in processes.pids():
        program, arguments = split_program(processes.command_line(pid))
        uuids = [value for option, value in pairwise(arguments) if option == "-uuid"]
        if program and uuids:
            found.setdefault(uuids[0], []).append(pid)
    return found


def has_ended(place: Place) -> bool:
    """Whether it is known that the domain's QEMU has ended."""
    return processes.is_gone(place.instance)


def granted(uri: str, files: Iterable[FileFacts]) -> dict[str, FileFacts]:
    """What is at paths, where libvirt's daemon makes files and gives them to QEMU's user.

    A daemon with root's rights needs no permission of QEMU's user in the directory, and takes
    over an image that QEMU's user could not write to.
    """
    rights = _is_privileged(uri)
    return {
        facts.path: replace(
            facts,
            directory_writable=facts.directory_writable or None,
            writable=facts.writable or None,
        )
        if rights
        else facts
        for facts in files
    }


def _is_privileged(uri: str) -> bool:
    """Whether the driver behind a URI has root's rights."""
    parts = urlsplit(uri)
    return parts.path == "/system" or (parts.path == "/embed" and os.geteuid() == 0)
