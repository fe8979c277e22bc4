"""What is being filled in: a row a device, and the plan that it makes.

Every edit disarms the plan and begins a check; an answer to an older edit is thrown away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from snapkit.errors import PlanError
from snapkit.model import Graph, Target
from snapkit.naming import TEMPLATE
from snapkit.widgets.hub import Hub
from snapkit.widgets.words import visible
from snapkit.widgets.work import Report

if TYPE_CHECKING:
    from snapkit.plan import Plan
    from snapkit.vm import VirtualMachine

__all__ = ["Draft", "Row"]

Moved = Callable[["VirtualMachine", Graph], Awaitable[None]]
"""Is told when a check finds that the VM's disks are not those that are shown."""

TYPING = 0.12
"""Seconds of rest after an edit before the targets are checked."""


@dataclass(frozen=True, slots=True)
class Row:
    """What is filled in for one device. ``edited``: by hand, so that no template changes it."""

    device: str
    file: str = ""
    format: str = "qcow2"
    mode: str = "absolute-paths"
    include: bool = True
    edited: bool = False

    @property
    def target(self) -> Target:
        """The row as a target of a plan."""
        return Target(self.device, self.file, self.format, self.mode)


class Draft:
    """The rows, the template, and the plan made of them. State changes under the hub's lock."""

    def __init__(self, hub: Hub, moved: Moved) -> None:
        self._hub = hub
        self._moved = moved
        self._vm: VirtualMachine | None = None
        self._graph: Graph | None = None
        self.rows: dict[str, Row] = {}
        self.template = TEMPLATE
        self.plan: Plan | None = None
        self.checking = False
        self.edits = 0
        """How often the user has changed what is filled in."""

    @property
    def included(self) -> tuple[Target, ...]:
        """The targets of the devices that are included."""
        return tuple(row.target for row in self.rows.values() if row.include)

    @property
    def revision(self) -> int:
        """A number that changes with every edit and every new plan."""
        return self._hub.latest("check")

    def clear(self) -> None:
        """Forget the VM and everything about it; answers that are on their way are late."""
        self._hub.ticket("fill")
        self._hub.ticket("check")
        self._vm = self._graph = self.plan = None
        self.rows = {}
        self.checking = False

    async def follow(self, vm: VirtualMachine, graph: Graph) -> None:
        """Take over what a VM shows now. If its disks have changed, fill in and check again."""
        with self._hub.lock:
            changed = self._graph is None or self._graph.fingerprint != graph.fingerprint
            self._vm, self._graph = vm, graph
            names = [device.name for device in graph.devices.values() if device.snapshotable]
            self.rows = {name: self.rows.get(name, Row(name)) for name in names}
            self._hub.tell("targets", "run")
            if not changed:
                return
            check = self._begin_check()
            unedited = [row.device for row in self.rows.values() if not row.edited]
        await self._fill_and_check(unedited, self.template, check)

    def release(self, devices: Iterable[str]) -> None:
        """Let the template name these again: what was typed for them has been used."""
        with self._hub.lock:
            for name in devices:
                if (row := self.rows.get(name)) is not None:
                    self.rows[name] = replace(row, edited=False)

    def edit(self, device: str, report: Report, **changes: Any) -> None:
        """Change what is filled in for a device: ``file``, ``format``, ``mode``, ``include``.

        Raises PlanError for a device that is not there or cannot be snapshotted.
        """
        with self._hub.lock:
            row = self.rows.get(device)
            if row is None:
                raise PlanError(self._no_row(device))
            if "file" in changes:
                changes["edited"] = True
            self.rows[device] = row = replace(row, **changes)
            self.edits += 1
            self._hub.tell("targets")
            check = self._begin_check()
        # A name that the template made follows the format; one that was typed does not.
        refill = [device] if "format" in changes and not row.edited else []
        work = self._fill_and_check(refill, self.template, check, TYPING)
        self._hub.work.start(work, report)

    def _no_row(self, name: str) -> str:
        device = self._graph.find(name) if self._graph else None
        if device is not None and device.why_not:
            return f"{visible(name)} cannot be snapshotted: {visible(device.why_not)}."
        known = ", ".join(map(visible, self.rows)) or "none"
        return f"There is no device {visible(name)!r}. The devices are: {known}."

    def include_all(self, include: bool, report: Report) -> None:  # noqa: FBT001  a checkbox's value
        """Include every device, or none."""
        with self._hub.lock:
            self.rows = {name: replace(row, include=include) for name, row in self.rows.items()}
            self.edits += 1
            self._hub.tell("targets")
            check = self._begin_check()
        self._hub.work.start(self._check(check), report)

    def type_template(self, template: str) -> None:
        """Keep the template as it is typed. It is used when it is filled in."""
        with self._hub.lock:
            self.template = template
            self._hub.tell("targets")

    def fill(self, template: str, report: Report) -> None:
        """Name every device's snapshot file by the template, also where a name was typed."""
        with self._hub.lock:
            self.type_template(template)
            self.edits += 1
            check = self._begin_check()
            names = list(self.rows)
        self._hub.work.start(self._fill_and_check(names, template, check), report)

    async def _fill_and_check(
        self, devices: list[str], template: str, check: int, delay: float = 0
    ) -> None:
        try:
            await self._fill(devices, template)
        finally:
            await self._check(check, delay)

    async def _fill(self, devices: list[str], template: str) -> None:
        """Set the file names of ``devices`` by the template, each in its row's format.

        Raises PlanError when the template cannot be used.
        """
        with self._hub.lock:
            vm, ticket = self._vm, self._hub.ticket("fill") if devices else 0
            wanted = {name: self.rows[name].format for name in devices if name in self.rows}
        if vm is None:
            return
        for form in dict.fromkeys(wanted.values()):
            names = [name for name, its in wanted.items() if its == form]
            plan = await vm.make_plan(names, template=template, format=form)
            for problem in plan.problems:
                if problem.check == "template":
                    raise PlanError(str(problem))
            with self._hub.lock:
                if self._hub.is_late("fill", ticket):
                    return
                for target in plan.targets:
                    if (row := self.rows.get(target.device)) is not None:
                        self.rows[row.device] = replace(row, file=target.file, edited=False)
                self._hub.tell("targets")

    def _begin_check(self) -> int:
        """Disarm the plan. What is being checked is out of date from here on."""
        ticket = self._hub.ticket("check")
        self.checking = True
        self._hub.tell("plan", "run")
        return ticket

    async def _check(self, ticket: int, delay: float = 0) -> None:
        """Make the plan of what is filled in, unless a newer check has been begun."""
        if delay:
            await asyncio.sleep(delay)
        with self._hub.lock:
            vm, targets = self._vm, self.included
            if self._hub.is_late("check", ticket):
                return
        plan = None
        try:
            if vm is not None and targets:
                # Every file is named: looking for a tag that is free would be for nothing.
                plan = await vm.make_plan(targets, tag="")
        finally:
            with self._hub.lock:
                if not self._hub.is_late("check", ticket):
                    self.plan, self.checking = plan, False
                    self._hub.tell("plan", "run")
        if vm is not None and plan is not None and self._shows_other_disks(plan.graph):
            await self._moved(vm, plan.graph)

    def _shows_other_disks(self, graph: Graph) -> bool:
        return self._graph is not None and self._graph.fingerprint != graph.fingerprint
