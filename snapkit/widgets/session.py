"""What the panels of one VM share: connection, devices, targets, plan and run.

Plain Python, no widgets: what a panel does, a script can do with a session too. Methods
return at once; the work runs on snapkit's loop and ends in a change that subscribers are
told about.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from snapkit.errors import ConnectError, PlanError, SnapkitError
from snapkit.model import Graph
from snapkit.vm import VirtualMachine, open_machine
from snapkit.widgets import endpoints
from snapkit.widgets.draft import Draft
from snapkit.widgets.hub import Hub, Topic
from snapkit.widgets.progress import Progress, ended_by, ended_well, is_clean_cancel
from snapkit.widgets.words import count
from snapkit.widgets.work import Report, Work

if TYPE_CHECKING:
    from snapkit.engine import Phase, Run
    from snapkit.plan import Plan

__all__ = ["Session"]

WATCH = 0.5
"""Seconds between two looks at whether the connection stands. Nothing is sent for it."""


class Session(Hub):
    """The state that panels show, and what can be done about it."""

    _of_machine: ClassVar[weakref.WeakValueDictionary[VirtualMachine, Session]] = (
        weakref.WeakValueDictionary()
    )

    def __init__(self, vm: VirtualMachine | None = None) -> None:
        super().__init__()
        # What the panels of one page know each other by.
        self.name = secrets.token_hex(8)
        self.endpoint = ""
        self.domain = ""
        self.endpoints: tuple[endpoints.Found, ...] = ()
        self.connecting = False
        self.vm: VirtualMachine | None = None
        self.graph: Graph | None = None
        self.draft = Draft(self, self._show)
        self.progress = Progress()
        self._run: Run | None = None
        self._told = (False, True)
        self._runs = 0
        self._edits = 0
        if vm is not None:
            self._adopt(vm)

    @classmethod
    def of(cls, source: object) -> Session:
        """The session of a VM, shared by all of its panels; or the one that is handed in."""
        if source is None:
            return cls()
        if isinstance(source, Session):
            return source
        if isinstance(source, VirtualMachine):
            return cls._of_machine.get(source) or cls(source)
        msg = f"A panel takes what snapkit.connect() returns, not {type(source).__name__}."
        raise TypeError(msg)

    def tell(self, *topics: Topic) -> None:
        """Tell all listeners that something changed. For holders of the lock."""
        if "connection" in topics:
            self._told = (self.connected, self.readonly)
        if "targets" in topics and self._edits != self.draft.edits:
            # What the last run came to is no longer about what is filled in.
            self._edits = self.draft.edits
            self.progress = self.progress if self.progress.active else Progress()
        super().tell(*topics)

    # --- connection -----------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether there is a VM and the connection to it stands."""
        return self.vm is not None and self.vm.connected

    @property
    def readonly(self) -> bool:
        """Whether nothing may be changed. The VM's own flag: there is no second one."""
        return self.vm is None or self.vm.readonly

    def discover(self, report: Report) -> None:
        """Look for endpoints of this host."""
        self.work.start(self._discover(), report)

    async def _discover(self) -> None:
        found = await asyncio.to_thread(endpoints.find)
        with self.lock:
            self.endpoints = found
            self.tell("endpoints")

    def type_endpoint(self, endpoint: str, domain: str) -> None:
        """Keep what is typed, so that every view of the panel shows it."""
        with self.lock:
            self.endpoint, self.domain = endpoint, domain
            self.tell("connection")

    def connect(self, report: Report) -> None:
        """Connect to the endpoint, read-only. Raises ConnectError if there is a connection."""
        with self.lock:
            if self.connecting or self.connected:
                msg = "There is a connection already. Disconnect first."
                raise ConnectError(msg)
            self.connecting = True
            self.tell("connection")
            endpoint, domain = self.endpoint, self.domain
        self.work.start(self._connect(endpoint, domain), report)

    async def _connect(self, endpoint: str, domain: str) -> None:
        try:
            vm = await open_machine(endpoint, domain.strip() or None, readonly=True)
            with self.lock:
                self._adopt(vm)
        finally:
            with self.lock:
                self.connecting = False
                self.tell("connection", "devices", "targets", "plan", "run")
        await self._load()

    def disconnect(self, report: Report) -> None:
        """Close the connection. Raises SnapkitError while a run is in progress."""
        with self.lock:
            if self.progress.active:
                msg = "A run is in progress. Wait for its outcome, or cancel it."
                raise SnapkitError(msg)
            vm = self.vm
            self._leave()
            self.tell("connection", "devices", "targets", "plan", "run")
        if vm is not None:
            self.work.start(vm.aclose(), report)

    def allow_changes(self, allowed: bool) -> None:  # noqa: FBT001  a checkbox's value
        """Make the connection writable, or read-only again. Raises ConnectError without one."""
        with self.lock:
            if self.vm is None or not self.vm.connected:
                msg = "There is no connection. Connect first."
                raise ConnectError(msg)
            self.vm.readonly = not allowed
            self.tell("connection", "run")

    def _adopt(self, vm: VirtualMachine) -> None:
        self._leave()
        self.vm = vm
        self.endpoint, self.domain = vm.uri, vm.domain or ""
        self._of_machine[vm] = self
        # Watching is no pending work, and keeps neither the session nor the VM alive.
        Work().start(_watch(weakref.ref(self), weakref.ref(vm)), _raise)

    def _leave(self) -> None:
        """Forget the VM and everything about it; answers that are on their way are late."""
        if self.vm is not None and self._of_machine.get(self.vm) is self:
            del self._of_machine[self.vm]
        self.ticket("observe")
        self.vm = self.graph = None
        self.draft.clear()
        self.progress = Progress()

    def look_at_connection(self) -> None:
        """Notice when the connection has gone, and what code has done with the VM."""
        with self.lock:
            if self._told != (self.connected, self.readonly):
                self.tell("connection", "run")
            vm = self.vm
            moved = vm is not None and vm.runs != self._runs and not self.progress.active
        if moved and self.connected:
            self.work.start(self._load_quietly(), _raise)

    # --- devices --------------------------------------------------------------------------

    def load(self, report: Report) -> None:
        """Read the devices. What the targets say is checked again if the disks have changed."""
        self.work.start(self._load(), report)

    async def _load(self) -> None:
        with self.lock:
            vm, ticket = self.vm, self.ticket("observe")
        if vm is None:
            return
        graph = await vm.observe()
        if not self.is_late("observe", ticket):
            await self._show(vm, graph)

    async def _load_quietly(self) -> None:
        """Read the devices without being asked: what fails is seen when it is asked for."""
        with contextlib.suppress(SnapkitError):
            await self._load()

    async def _show(self, vm: VirtualMachine, graph: Graph) -> None:
        """Take over what the VM shows now, if it is still the one that is connected."""
        with self.lock:
            if self.vm is not vm:
                return
            self.graph, self._runs = graph, vm.runs
            self.tell("devices", "connection")
        await self.draft.follow(vm, graph)

    # --- run ------------------------------------------------------------------------------

    @property
    def not_ready(self) -> str:
        """Why no snapshot can be taken now, in words. Empty when it can."""
        draft = self.draft
        problems = draft.plan.problems if draft.plan else ()
        wrong = sum(problem.severity == "error" for problem in problems)
        reasons = (
            (not self.connected, "Not connected."),
            (self.progress.active, "A run is in progress."),
            (self.readonly, "The connection is read-only: tick “Allow changes” first."),
            (not draft.included, "No disk is included."),
            (draft.checking, "The plan is being checked."),
            (draft.plan is None, "There is no plan: the targets could not be checked."),
            (wrong > 0, f"In the way: {count(wrong, 'problem')}. See Targets."),
        )
        return next((words for applies, words in reasons if applies), "")

    def start_run(self, report: Report, revision: int | None = None) -> None:
        """Run the plan. ``revision`` is that of the plan that the user was looking at.

        Raises PlanError, with nothing sent, when it cannot run or is not the current plan.
        """
        with self.lock:
            plan = self.draft.plan
            if (reason := self.not_ready) or plan is None:
                raise PlanError(reason)
            if revision not in {None, self.draft.revision}:
                msg = "The plan has changed since. Look at it again, then press the button again."
                raise PlanError(msg)
            run = self._run = plan.start(self._phase)
            self.progress = Progress(active=True)
            self.tell("run")
        self.work.start(self._follow(run, plan), report)

    async def _follow(self, run: Run, plan: Plan) -> None:
        """Follow a run to its end; show how it ended, and what the VM looks like then."""
        try:
            # The run goes on to its end whatever becomes of the one who waits for it.
            outcome = await asyncio.shield(asyncio.wrap_future(run.future))
        except BaseException as error:
            self._ended(ended_by(error, self.progress.phase, cancelled=run.cancelled))
            # The failure is what gets reported, not that of a look afterwards.
            await self._load_quietly()
            if not is_clean_cancel(error, cancelled=run.cancelled):
                raise
        else:
            self._ended(ended_well(outcome))
            self.draft.release(target.device for target in plan.targets)
            await self._load()

    def _phase(self, phase: Phase) -> None:
        with self.lock:
            self.progress = replace(self.progress, phase=phase)
            self.tell("run")

    def _ended(self, progress: Progress) -> None:
        with self.lock:
            self._run = None
            self.progress = progress
            self.tell("run")

    def cancel(self) -> None:
        """Stop the run before the switch. Raises PlanError when there is none."""
        run = self._run
        if run is None:
            msg = "There is no run to cancel."
            raise PlanError(msg)
        run.cancel()


async def _watch(of: weakref.ref[Session], vm: weakref.ref[VirtualMachine]) -> None:
    """Look at a session's connection now and then, while it is still this one."""
    while (session := of()) is not None and session.vm is not None and session.vm is vm():
        session.look_at_connection()
        del session
        await asyncio.sleep(WATCH)


def _raise(error: BaseException) -> None:
    raise error
