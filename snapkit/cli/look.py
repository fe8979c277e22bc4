"""The verbs that only look: ``discover``, ``devices``, ``layers``."""

from __future__ import annotations

import argparse

from snapkit.cli.console import Console, Table
from snapkit.cli.verb import Verb, add_endpoint, connect

__all__ = ["DEVICES", "DEVICE_COLUMNS", "DISCOVER", "LAYERS"]

DEVICE_COLUMNS = (
    "node format file virtual_size actual_size backing_file depth read_only snapshotable why_not"
).split()
"""What people see of the device table without ``--wide``."""


def _discover(_: argparse.Namespace, console: Console) -> int:
    from snapkit.discovery import discover

    found = discover()
    if found.empty:
        console.say(
            "No QMP monitor was found on this host. Start QEMU with "
            "-qmp unix:/path/to/vm.qmp,server=on,wait=off, or try `snapkit lab`."
        )
    if not found.empty or console.form != "text":
        console.table(Table.of(found), "uri domain name state pid program user".split())
    return 0


def _add_look(parser: argparse.ArgumentParser) -> None:
    add_endpoint(parser)
    parser.add_argument("domain", metavar="DOMAIN", nargs="?", help="the domain of a libvirt URI")
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


DISCOVER = Verb(
    "discover",
    "List the QMP monitors of this host. Nothing is connected to.",
    "snapkit discover --json",
    lambda _: None,
    _discover,
)
DEVICES = Verb(
    "devices",
    "Show a VM's disks, a row each.",
    "snapkit devices unix:/run/vm.qmp",
    _add_look,
    _devices,
)
LAYERS = Verb(
    "layers",
    "Show every image of every disk's backing chain.",
    "snapkit layers localhost:4444 --csv",
    _add_look,
    _layers,
)
