"""The exact QMP commands of a plan, and how they look in other tongues. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from snapkit import node_names, order, space
from snapkit.errors import SnapkitError
from snapkit.facts import Facts
from snapkit.model import Device, Target
from snapkit.node_names import job_id
from snapkit.script import Command, Overlay, Script

__all__ = ["FORMS", "job_id", "render", "write"]

FORMS = ("qmp", "qmp-shell")
"""What a script can be rendered as."""


def write(targets: Sequence[Target], facts: Facts, engine: str) -> Script:
    """The commands that put every target's overlay on its device, all at one instant.

    Overlays are prepared in the order of the targets. The switch lists the disks that the
    guest writes to most last, as far as the facts tell: they then wait least.
    """
    devices = [_device(target, facts) for target in targets]
    names = node_names.propose(devices, facts.graph)
    overlays = tuple(map(_overlay, targets, devices, names))
    by_device = {overlay.device: overlay for overlay in overlays}
    stats = {device.name: device.stats for device in devices}
    last = [by_device[name] for name in order.busiest_last(list(by_device), stats)]
    if engine == "classic":
        return Script(overlays, (), _transaction([_classic(o, facts) for o in last]))
    return Script(
        overlays,
        tuple(_preparation(overlays, facts)),
        _transaction([_switch(overlay) for overlay in last]),
    )


def _device(target: Target, facts: Facts) -> Device:
    device = facts.graph.find(target.device)
    assert device is not None and device.active is not None  # noqa: S101, PT018  checked before
    return device


def _overlay(target: Target, device: Device, name: str) -> Overlay:
    assert device.active is not None  # noqa: S101  checked before
    return Overlay(
        device=device.name,
        file=target.file,
        format=target.format,
        create=target.mode != "existing",
        virtual_size=device.active.virtual_size,
        base_node=device.node,
        backing_file=device.file,
        backing_format=device.active.format,
        node=name,
        file_node=node_names.file_of(name),
    )


def _preparation(overlays: Sequence[Overlay], facts: Facts) -> Iterable[Command]:
    """Create and open every overlay, all devices side by side in each step."""
    made = [overlay for overlay in overlays if overlay.create]
    for overlay in made:
        options = {"driver": "file", "filename": overlay.file, "size": 0}
        yield _create(overlay, overlay.file_node, options)
    yield from (_dismiss(overlay, overlay.file_node) for overlay in made)
    for overlay in overlays:
        file = {"driver": "file", "node-name": overlay.file_node, "filename": overlay.file}
        yield Command("blockdev-add", file, overlay.device)
    for overlay in made:
        yield _create(overlay, overlay.node, _format_options(overlay, facts))
    yield from (_dismiss(overlay, overlay.node) for overlay in made)
    for overlay in overlays:
        arguments: dict[str, object] = {
            "driver": overlay.format,
            "node-name": overlay.node,
            "file": overlay.file_node,
            "backing": None,
        }
        yield Command("blockdev-add", arguments, overlay.device)


def _create(overlay: Overlay, node: str, options: Mapping[str, object]) -> Command:
    arguments = {"job-id": job_id(node), "options": options}
    return Command("blockdev-create", arguments, overlay.device)


def _dismiss(overlay: Overlay, node: str) -> Command:
    return Command("job-dismiss", {"id": job_id(node)}, overlay.device)


def _format_options(overlay: Overlay, facts: Facts) -> dict[str, object]:
    options: dict[str, object] = {
        "driver": overlay.format,
        "file": overlay.file_node,
        "size": overlay.virtual_size,
        "backing-file": overlay.backing_file,
        "backing-fmt": overlay.backing_format,
    }
    cluster = facts.graph.nodes[overlay.base_node].cluster_size
    if overlay.format == overlay.backing_format and cluster not in {None, space.CLUSTER}:
        # Small writes to the overlay then copy no more than they did to the base.
        options["cluster-size"] = cluster
    return options


def _switch(overlay: Overlay) -> Mapping[str, object]:
    data = {"node": overlay.base_node, "overlay": overlay.node}
    return {"type": "blockdev-snapshot", "data": data}


def _classic(overlay: Overlay, facts: Facts) -> Mapping[str, object]:
    """``device`` where the drive has an id and no filter is above; else the node, by name."""
    device = facts.graph.devices[overlay.device]
    if device.drive and not device.filters:
        data = {"device": device.drive}
    else:
        data = {"node-name": overlay.base_node, "snapshot-node-name": overlay.node}
    data |= {
        "snapshot-file": overlay.file,
        "format": overlay.format,
        "mode": "absolute-paths" if overlay.create else "existing",
    }
    return {"type": "blockdev-snapshot-sync", "data": data}


def _transaction(actions: Sequence[Mapping[str, object]]) -> Command:
    return Command("transaction", {"actions": list(actions)})


def render(script: Script, form: str) -> str:
    """The script as text, one command a line.

    Raises SnapkitError for a form that QMP has not, and for a name that qmp-shell cannot
    be given.
    """
    if form == "qmp":
        return "\n".join(command.to_json() for command in script.commands)
    if form == "qmp-shell":
        return "\n".join(_shell(command) for command in script.commands)
    msg = f"A QMP connection has no preview {form!r}. Choose one of: {', '.join(FORMS)}, python."
    raise SnapkitError(msg)


def _shell(command: Command) -> str:
    """One command as qmp-shell reads it: ``name=value``, values as JSON without spaces."""
    if command.execute != "transaction":
        return " ".join([command.execute, *_pairs(command.arguments)])
    actions: Any = command.arguments["actions"]
    lines = [" ".join([action["type"], *_pairs(action["data"])]) for action in actions]
    return "\n".join(["transaction(", *lines, ")"])


def _pairs(arguments: Mapping[str, Any]) -> Iterable[str]:
    for key, value in arguments.items():
        if value is None:
            # qmp-shell has no null. QEMU takes an empty reference for the same.
            yield f"{key}="
        elif isinstance(value, str):
            yield f"{key}={_shell_word(value)}"
        else:
            yield f"{key}={json.dumps(value, separators=(',', ':'))}"


def _shell_word(value: str) -> str:
    """A plain value. qmp-shell has no quoting for these: what it would misread is refused."""
    if re.search(r"""[\s"']""", value) or value.lower() in {"true", "false"}:
        msg = (
            f"qmp-shell cannot be given the name {value!r}: it has no quoting. "
            'Use preview("qmp"), or a name without spaces and quotes.'
        )
        raise SnapkitError(msg)
    return value
