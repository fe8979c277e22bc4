"""The verb ``demo``: the main job on the lab VM, with the proof."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from snapkit.cli.console import Console, Table
from snapkit.cli.lab import add_backend, add_disks
from snapkit.cli.snapshot import report, run, show_commands, show_outcome, show_plan
from snapkit.cli.verb import Verb
from snapkit.errors import PlanError
from snapkit.model import ENGINES

if TYPE_CHECKING:
    from snapkit.lab import Lab
    from snapkit.vm import VirtualMachine

__all__ = ["DEMO", "of_one_instant", "proof"]

_COLUMNS = "node format file backing_file depth snapshotable why_not".split()


def _add(parser: argparse.ArgumentParser) -> None:
    add_disks(parser)
    add_backend(parser)
    parser.add_argument("--engine", default=ENGINES[0], choices=ENGINES)


def _demo(arguments: argparse.Namespace, console: Console) -> int:
    from snapkit.lab import Lab

    console.say("Starting the lab VM ...")
    with Lab(disks=arguments.disks, backend=arguments.backend) as lab, lab.connect() as vm:
        return _snapshot_and_prove(lab, vm, arguments.engine, console)


def _snapshot_and_prove(lab: Lab, vm: VirtualMachine, engine: str, console: Console) -> int:
    before = Table.of(vm.devices())
    _show("Devices before", before, console)
    plan = vm.plan(list(lab.images), engine=engine)
    if console.form == "text":
        show_plan(plan, console)
    if not plan.ok:
        raise PlanError(plan.refusal(), plan.problems)
    show_commands(plan, console)
    outcome = run(plan, console)
    after = Table.of(vm.devices())
    _show("Devices after", after, console)
    if console.form == "text":
        show_outcome(outcome, console)
    frozen = {device.device: device.file_before for device in outcome.devices}
    numbers = dict(zip(frozen, map(int, lab.sequence(frozen)), strict=True))
    consistent = of_one_instant(numbers)
    if console.form == "json":
        found: dict[str, Any] = {"before": before.records(), "after": after.records()}
        found |= {"sequence": numbers, "one_instant": consistent}
        console.json(report(plan, outcome) | found)
    else:
        console.heading("The last sequence number that each frozen image holds")
        rows = [[name, file, numbers[name]] for name, file in frozen.items()]
        console.table(Table(["device", "file", "sequence"], rows, keys=1))
        console.text(proof(numbers))
    return 0 if outcome.ok and consistent else 1


def _show(heading: str, table: Table, console: Console) -> None:
    if console.form == "text":
        console.heading(heading)
        console.table(table, _COLUMNS)


def of_one_instant(numbers: Mapping[str, int]) -> bool:
    """Whether images can be of one instant, by the last number that each of them holds.

    The guest writes each number to the first device, then to the second and so on. So at any
    instant the numbers fall by at most 1 from the first device to the last, and never rise.
    """
    found = list(numbers.values())
    falling = all(one >= other for one, other in pairwise(found))
    return bool(found) and min(found) > 0 and falling and found[0] - found[-1] <= 1


def proof(numbers: Mapping[str, int]) -> str:
    """The sentence that says what the numbers prove."""
    names = list(numbers)
    rule = (
        f"The guest writes each number to {', then to '.join(names)}: "
        f"at any one instant the first is ahead of the last by 0 or 1."
    )
    ahead = numbers[names[0]] - numbers[names[-1]]
    if of_one_instant(numbers):
        which = "Both images" if len(names) == 2 else f"All {len(names)} images"
        which = "The image" if len(names) == 1 else which
        verb = "is" if len(names) == 1 else "are"
        return f"{rule}\nHere it is {ahead}. {which} {verb} of one instant."
    return f"{rule}\nHere it is {ahead}. The images are NOT of one instant."


DEMO = Verb(
    "demo",
    "Do the main job on a lab VM: table, plan, switch, outcome and proof.",
    "snapkit demo --engine classic\n  snapkit demo --backend libvirt",
    _add,
    _demo,
    forms=("json",),
)
