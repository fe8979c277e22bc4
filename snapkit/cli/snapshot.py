"""The verb ``snapshot``: plan, show, run, show."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from snapkit.cli.console import Console, Table
from snapkit.cli.verb import UsageError, Verb, add_endpoint, connect
from snapkit.errors import OutcomeUnknown, PlanError, SnapkitError
from snapkit.model import ENGINES, METADATA, QUIESCE, Target

if TYPE_CHECKING:
    from snapkit.engine import Phase, Progress
    from snapkit.model import Outcome
    from snapkit.plan import Plan
    from snapkit.vm import VirtualMachine

__all__ = ["SNAPSHOT", "report", "run", "show_commands", "show_outcome", "show_plan"]

PLAN_COLUMNS = "node file_before snapshot_file format mode ok".split()
"""What people see of a plan; problems stand below it."""
FORMS = ("qmp", "qmp-shell", "xml", "virsh", "python")
"""What ``plan.preview`` may know; each backend has some of them."""
_READABLE = ("qmp", "virsh")
"""What is shown where no form is asked for: all of a plan, and nothing but what is sent."""
_HEADINGS = {
    "qmp": "The switch: one command for all disks",
    "qmp-shell": "What is sent, for qmp-shell",
    "xml": "The switch: the XML of one call for all disks",
    "virsh": "The switch: one call for all disks, as virsh makes it",
    "python": "A cell that does the same",
}


def _add(parser: argparse.ArgumentParser) -> None:
    add_endpoint(parser)
    parser.add_argument(
        "words",
        metavar="[DOMAIN] DEVICE=FILE",
        nargs="*",
        help="the domain of a libvirt URI (none: the only one that runs there), and a new "
        "overlay's absolute file name for each device",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--devices", metavar="A,B", help="these devices, named by the template")
    which.add_argument("--all", action="store_true", help="every device that can be snapshotted")
    parser.add_argument(
        "--template",
        metavar="T",
        help="file names for --devices and --all (default: {directory}/{stem}.{tag}.{format})",
    )
    parser.add_argument("--tag", metavar="T", help="the tag in those names (default: snap1, ...)")
    parser.add_argument("--format", default="qcow2", metavar="F", help="qcow2 (default) or qed")
    parser.add_argument(
        "--mode",
        default="absolute-paths",
        metavar="M",
        help="absolute-paths (default): make the overlays; existing: use files that are there",
    )
    parser.add_argument(
        "--engine",
        default=ENGINES[0],
        choices=ENGINES,
        help="prepared (default): overlays first, then the switch; classic (QMP): both at once",
    )
    parser.add_argument(
        "--quiesce",
        default=QUIESCE[0],
        choices=QUIESCE,
        help="whether the guest's file systems are frozen for the switch (default: no)",
    )
    _add_remembered(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="show plan, checks and commands; change nothing"
    )
    parser.add_argument(
        "--show",
        choices=FORMS,
        help="show what is sent in this form: QMP has qmp and qmp-shell, libvirt has xml and "
        "virsh, both have python (default: with --dry-run, qmp or virsh)",
    )


def _add_remembered(parser: argparse.ArgumentParser) -> None:
    """How libvirt shall remember the snapshot."""
    parser.add_argument("--name", metavar="N", help="libvirt: its name there (default: snap1, ...)")
    parser.add_argument("--description", metavar="TEXT", help="libvirt: a description to keep")
    parser.add_argument(
        "--metadata", choices=METADATA, help="libvirt: whether it remembers the snapshot"
    )


def _snapshot(arguments: argparse.Namespace, console: Console) -> int:
    domain, targets = _targets(arguments)
    options = {name: getattr(arguments, name) for name in ("format", "mode", "engine", "quiesce")}
    options |= {
        name: getattr(arguments, name)
        for name in ("template", "tag", "name", "description", "metadata")
        if getattr(arguments, name) is not None
    }
    with connect(arguments, domain, readonly=arguments.dry_run) as vm:
        plan = vm.plan(targets or _snapshotable(vm), **options)
        _refuse_unknown_form(plan, arguments.show)
        if arguments.dry_run:
            return _dry_run(plan, console, arguments.show)
        return _run_and_report(plan, console, arguments.show)


def _refuse_unknown_form(plan: Plan, form: str | None) -> None:
    """Raises UsageError for a form that this VM's plans have not."""
    if form is not None and form not in plan.forms:
        msg = f"This VM's plans have no form {form!r}. Choose one of: {', '.join(plan.forms)}."
        raise UsageError(msg)


def _targets(arguments: argparse.Namespace) -> tuple[str | None, Sequence[Target | str]]:
    """The domain, and the targets; no target means every device.

    Raises UsageError for what cannot be understood.
    """
    words = list(arguments.words)
    domain = words.pop(0) if words and "=" not in words[0] else None
    bare = next((word for word in words if "=" not in word), None)
    if bare is None and domain is not None and "://" not in arguments.endpoint:
        bare = domain
    if bare is not None:
        msg = (
            f"{bare!r} is no target: write {bare}=FILE with the overlay's file name, "
            f"or --devices {bare} to have the name made by the template."
        )
        raise UsageError(msg)
    by_template = arguments.devices is not None or arguments.all
    if by_template == bool(words):
        msg = "Name each device and its overlay, DEVICE=FILE; or --devices; or --all."
        raise UsageError(msg)
    if words and (arguments.template or arguments.tag):
        msg = "--template and --tag make file names: they go with --devices or --all."
        raise UsageError(msg)
    if arguments.devices is not None:
        return domain, [name for name in arguments.devices.split(",") if name] or [""]
    pairs = (word.partition("=") for word in words)
    return domain, [Target(name, file, arguments.format, arguments.mode) for name, _, file in pairs]


def _snapshotable(vm: VirtualMachine) -> list[str]:
    devices = vm.devices()
    return [str(name) for name in devices.index[devices["snapshotable"].astype(bool)]]


def _dry_run(plan: Plan, console: Console, form: str | None) -> int:
    if console.form == "json":
        console.json(report(plan, None) | _preview(plan, form))
    elif console.form == "csv":
        console.table(Table.of(plan.to_frame()))
    else:
        show_plan(plan, console)
        _show_checks(plan, console)
        show_commands(plan, console, form)
    if plan.ok:
        console.say("Dry run: nothing was changed.")
        return 0
    console.say("The plan is refused. Dry run: nothing was changed.")
    return 1


def _run_and_report(plan: Plan, console: Console, form: str | None) -> int:
    preview = _preview(plan, form)
    if console.form == "text":
        show_plan(plan, console)
        if not plan.ok:
            # The problems stand above, each with its remedy.
            raise PlanError(plan.refusal().splitlines()[0], plan.problems)
        if form is not None:
            show_commands(plan, console, form)
    outcome: Outcome | None = None
    error: SnapkitError | None = None
    try:
        outcome = run(plan, console)
    except SnapkitError as err:
        outcome, error = getattr(err, "outcome", None), err
    if console.form == "json":
        console.json(report(plan, outcome, error) | preview)
    elif outcome is not None:
        show_outcome(outcome, console)
    if error is not None:
        raise error
    return 0


def run(plan: Plan, console: Console) -> Outcome:
    """Run a plan and tell its phases.

    Interrupted, it is undone if the switch has not been sent; either way the end is awaited.
    Raises KeyboardInterrupt then, and what the run raises.
    """
    started = plan.start(_tell(console))
    try:
        return started.future.result()
    except KeyboardInterrupt:
        started.cancel()
        console.say("Interrupted: what was made is removed, unless the switch has been sent.")
        try:
            error = started.future.exception()
        except KeyboardInterrupt:
            msg = (
                "Interrupted again, before the end was known. `snapkit recover` looks at the VM, "
                "and finishes or undoes what was begun."
            )
            raise OutcomeUnknown(msg) from None
        done = "Too late to stop: the snapshot was taken, and it is as planned."
        console.say(done if error is None else str(error))
        raise
    except SnapkitError:
        raise
    except Exception as err:
        msg = (
            f"Something unexpected happened during the run ({type(err).__name__}: {err}). "
            "`snapkit recover` looks at the VM, and finishes or undoes what was begun."
        )
        raise OutcomeUnknown(msg) from err


def _tell(console: Console) -> Progress:
    """A progress function that tells each phase as it begins."""

    def progress(phase: Phase) -> None:
        console.say(f"{phase.text} ...")

    return progress


def show_plan(plan: Plan, console: Console) -> None:
    """The plan as a table, and the problems below it."""
    console.heading("Plan")
    console.table(Table.of(plan.to_frame()), PLAN_COLUMNS)
    if plan.problems:
        console.heading("Problems")
        for problem in plan.problems:
            console.text(f"{problem.severity}: {problem}")


def _show_checks(plan: Plan, console: Console) -> None:
    """A row a check, a column a device; the problems are told elsewhere."""
    frame = plan.checks()
    rows = [
        [str(check), *(str(cell).partition(":")[0] for cell in frame[check])] for check in frame
    ]
    if rows and len(frame):
        console.heading("Checks")
        console.table(Table(["check", *map(str, frame.index)], rows, keys=1))


def show_commands(plan: Plan, console: Console, form: str | None = None) -> None:
    """What is sent, in its order, in one of the plan's forms. Nothing of a refused plan."""
    if not plan.ok:
        return
    form = form or next(name for name in _READABLE if name in plan.forms)
    lines = str(plan.preview(form)).splitlines()
    # A command of QMP is one line.
    before = len(plan.script.prepare) if form == "qmp" else 0
    if before:
        console.heading("Commands that prepare")
        console.text("\n".join(lines[:before]))
    console.heading(_HEADINGS[form])
    console.text("\n".join(lines[before:]))


def _preview(plan: Plan, form: str | None) -> dict[str, str | None]:
    """The form that was asked for, for JSON; None for a refused plan."""
    return {} if form is None else {"preview": str(plan.preview(form)) if plan.ok else None}


def show_outcome(outcome: Outcome, console: Console) -> None:
    """Before and after, and what was found."""
    console.heading("Outcome")
    console.table(Table.of(outcome.to_frame()))
    for finding in outcome.findings:
        console.say(f"Found: {finding}")
    if outcome.switch_seconds is not None:
        console.text(f"{outcome}; the switch took {outcome.switch_seconds * 1000:.1f} ms.")


def _commands(plan: Plan) -> list[Any]:
    """The exact messages of a plan, as values; none if it is refused."""
    if not plan.ok:
        return []
    return [
        {"execute": command.execute}
        | ({"arguments": command.arguments} if command.arguments else {})
        for command in plan.script.commands
    ]


def report(plan: Plan, outcome: Outcome | None, error: Exception | None = None) -> dict[str, Any]:
    """All of a run as one JSON object. Without an outcome, ``ok`` is the plan's."""
    problems = [
        {name: getattr(problem, name) for name in _PROBLEM_FIELDS} for problem in plan.problems
    ]
    ok = plan.ok if outcome is None else outcome.ok
    return {
        "plan": Table.of(plan.to_frame()).records(),
        "problems": problems,
        "checks": _checks(plan),
        "commands": _commands(plan),
        "outcome": None if outcome is None else Table.of(outcome.to_frame()).records(),
        "findings": [] if outcome is None else list(outcome.findings),
        "switched": None if outcome is None else outcome.switched,
        "switch_seconds": None if outcome is None else outcome.switch_seconds,
        "ok": ok and error is None,
        "error": None if error is None else str(error),
    }


def _checks(plan: Plan) -> list[dict[str, Any]]:
    """An object a device, its checks by name."""
    frame = plan.checks()
    rows = zip(frame.index, frame.to_dict("records"), strict=True)
    return [{"device": device, "checks": cells} for device, cells in rows]


_PROBLEM_FIELDS = ("device", "check", "severity", "message", "remedy")

SNAPSHOT = Verb(
    "snapshot",
    "Take a snapshot of several disks of a VM at one instant.",
    "snapkit snapshot unix:/run/vm.qmp drive0=/imgs/win2003.snap drive1=/imgs/data.snap --dry-run"
    "\n  snapkit snapshot qemu:///system win2003 vda=/imgs/win2003.snap --description 'before SP2'",
    _add,
    _snapshot,
)
