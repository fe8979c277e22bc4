"""The verbs that only look: ``discover``, ``devices``, ``layers``, ``snapshots``."""

from __future__ import annotations

import argparse
from dataclasses import replace

from snapkit.cli.console import Console, Table, moment
from snapkit.cli.verb import Verb, add_domain, add_endpoint, connect

__all__ = ["DEVICES", "DEVICE_COLUMNS", "DISCOVER", "LAYERS", "SNAPSHOTS"]

DEVICE_COLUMNS = (
    "node format file virtual_size actual_size backing_file depth read_only snapshotable why_not"
).split()
"""What people see of the device table without ``--wide``."""
SNAPSHOT_COLUMNS = "parent created current disks description agrees why_not".split()
"""What people see of the snapshots without ``--wide``."""


def _discover(_: argparse.Namespace, console: Console) -> int:
    from snapkit.discovery import discover

    found = discover()
    if found.empty:
        console.say(
            "No QMP monitor and no running libvirt domain was found on this host. Start QEMU with "
            "-qmp unix:/path/to/vm.qmp,server=on,wait=off, start a domain (virsh start), or try "
            "`snapkit lab`."
        )
    if not found.empty or console.form != "text":
        console.table(Table.of(found), "uri domain name state pid program user".split())
    return 0


def _add_look(parser: argparse.ArgumentParser) -> None:
    add_endpoint(parser)
    add_domain(parser)
    parser.add_argument("--wide", action="store_true", help="show every column as text too")


def _devices(arguments: argparse.Namespace, console: Console) -> int:
    with connect(arguments, arguments.domain) as vm:
        table = Table.of(vm.devices())
    console.table(table, None if arguments.wide else DEVICE_COLUMNS)
    return 0


def _layers(arguments: argparse.Namespace, console: Console) -> int:
    with connect(arguments, arguments.domain) as vm:
        table = Table.of(vm.layers())
    console.table(table, None if arguments.wide else table.columns)
    return 0


def _snapshots(arguments: argparse.Namespace, console: Console) -> int:
    with connect(arguments, arguments.domain) as vm:
        table = Table.of(vm.snapshots())
    if not table.rows and console.form == "text":
        console.say(f"libvirt remembers no snapshot of {vm.name}.")
        return 0
    if console.form == "text":
        rows = [row | {"created": moment(row["created"])} for row in table.records()]
        table = replace(table, rows=[list(row.values()) for row in rows])
    console.table(table, None if arguments.wide else SNAPSHOT_COLUMNS)
    return 0


DISCOVER = Verb(
    "discover",
    "List the QMP monitors and the running libvirt domains of this host.",
    "snapkit discover --json",
    lambda _: None,
    _discover,
)
DEVICES = Verb(
    "devices",
    "Show a VM's disks, a row each.",
    "snapkit devices unix:/run/vm.qmp\n  snapkit devices qemu:///system win2003",
    _add_look,
    _devices,
)
LAYERS = Verb(
    "layers",
    "Show every image of every disk's backing chain.",
    "snapkit layers localhost:4444 --csv\n  snapkit layers qemu:///session win2003",
    _add_look,
    _layers,
)
SNAPSHOTS = Verb(
    "snapshots",
    "Show the snapshots that libvirt remembers of a domain.",
    "snapkit snapshots qemu:///system win2003",
    _add_look,
    _snapshots,
)
