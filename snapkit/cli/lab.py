"""The verb ``lab``: a throw-away VM that stays until Ctrl-C."""

from __future__ import annotations

import argparse
import os
import select
import shlex
import threading
from typing import TYPE_CHECKING, Any

from snapkit.cli.console import Console
from snapkit.cli.verb import Verb

if TYPE_CHECKING:
    from snapkit.lab import Lab

__all__ = ["LAB", "add_backend", "add_disks"]


def add_disks(parser: argparse.ArgumentParser) -> None:
    """How many disks a lab VM gets."""
    parser.add_argument(
        "--disks", type=int, default=2, metavar="N", help="how many disks, 1 to 8 (default: 2)"
    )


def add_backend(parser: argparse.ArgumentParser) -> None:
    """What runs a lab VM."""
    parser.add_argument(
        "--backend",
        choices=("qmp", "libvirt"),
        default="qmp",
        help="a plain QEMU (default), or a domain in a libvirtd of the lab's own",
    )


def _add(parser: argparse.ArgumentParser) -> None:
    add_disks(parser)
    parser.add_argument(
        "--monitor",
        choices=("unix", "tcp"),
        default="unix",
        help="where QMP listens: a UNIX socket (default) or a loopback TCP port",
    )
    add_backend(parser)


def _lab(arguments: argparse.Namespace, console: Console) -> int:
    from snapkit.lab import Lab

    options = {"monitor": arguments.monitor, "backend": arguments.backend}
    with Lab(disks=arguments.disks, **options) as lab:
        _introduce(lab, console)
        try:
            _wait_for_end(lab.pid)
        except KeyboardInterrupt:
            console.say("Removing the lab.")
            return 0
    console.say("The lab's QEMU has ended by itself. The lab was removed.")
    return 1


def _introduce(lab: Lab, console: Console) -> None:
    known = {
        "uri": lab.uri,
        "domain": lab.domain,
        "spare_uri": lab.spare_uri,
        "directory": str(lab.directory),
        "pid": lab.pid,
        "images": dict(lab.images),
    }
    if console.form == "json":
        # One line, so that whoever started this knows when it is complete.
        console.json(known, one_line=True)
    else:
        _show(lab, known, console)
    console.say("The lab runs until Ctrl-C.")


def _show(lab: Lab, known: dict[str, Any], console: Console) -> None:
    width = max(map(len, known))
    names = ["uri", "spare_uri" if lab.domain is None else "domain", "directory", "pid"]
    for name in names:
        console.text(f"{name:{width}}  {known[name]}")
    for drive, file in lab.images.items():
        console.text(f"{drive:{width}}  {file}")
    vm = [lab.uri] if lab.domain is None else [lab.uri, lab.domain]
    console.text("")
    console.text(f"Python:  import snapkit; vm = snapkit.connect({', '.join(map(repr, vm))})")
    console.text(f"Shell:   snapkit devices {shlex.join(vm)}")
    if lab.domain is not None:
        console.text(f"virsh:   virsh -c {shlex.quote(lab.uri)} domblklist {lab.domain}")


def _wait_for_end(pid: int) -> None:
    """Wait until a process has ended; for ever where the system cannot tell."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except (AttributeError, OSError):
        threading.Event().wait()
        return
    try:
        select.select([handle], [], [])
    finally:
        os.close(handle)


LAB = Verb(
    "lab",
    "Start a throw-away VM with a raw and a qcow2 disk, and keep it until Ctrl-C.",
    "snapkit lab --disks 4 --monitor tcp\n  snapkit lab --backend libvirt",
    _add,
    _lab,
    forms=("json",),
)
