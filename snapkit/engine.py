"""Run a plan: journal, observe, check, prepare, flush, switch, verify; and undo what failed.

Every run ends in one of two states, and says which: all devices are on their overlays, or
none is and what the run made is gone. The journal has it, whatever becomes of this process.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import NoReturn
from weakref import WeakKeyDictionary

from snapkit import backends, compare, loop, offline, telling, undo, verify
from snapkit.backends.base import Backend, LinkLost, Receipt, Refused
from snapkit.errors import ConnectError, OutcomeUnknown, PlanError, SnapshotError
from snapkit.journaling import Journal, JournalError, Record, Start, default_path
from snapkit.model import Graph, Outcome
from snapkit.plan import Plan
from snapkit.run import PHASES, Phase, Progress, Run
from snapkit.script import Script

__all__ = ["PHASES", "Phase", "Progress", "Run", "start", "turn"]

_SHOWN = 5
_FLUSH_SECONDS = 60.0
"""How long the switch waits for the flush; what is left of it, QEMU does itself."""
_POLL_SECONDS = 0.1
_NOTHING_YET = frozenset(("observe", "check", "prepare", "flush"))
"""Phases that begin with nothing sent or made: the journal has them before that happens."""

_log = logging.getLogger(__name__)


def start(backend: Backend, plan: Plan, progress: Progress | None = None) -> Run:
    """Start a plan on the loop."""
    run = Run()
    loop.submit(_carry_out(_Engine(backend, plan, progress, run)))
    return run


_turns: WeakKeyDictionary[Backend, asyncio.Lock] = WeakKeyDictionary()


def turn(backend: Backend) -> asyncio.Lock:
    """Held by who changes a VM: the next one then sees what this one has changed."""
    return _turns.setdefault(backend, asyncio.Lock())


async def _carry_out(engine: _Engine) -> None:
    future = engine.handle.future
    try:
        async with turn(engine.backend):
            outcome = await engine.run()
        future.set_result(outcome)
    except BaseException as err:  # noqa: BLE001  whoever waits for the future has to be told
        future.set_exception(err)


class _Engine:
    """One run of one plan."""

    record: Record
    first_look: asyncio.Future[Graph]

    def __init__(
        self, backend: Backend, plan: Plan, progress: Progress | None, handle: Run
    ) -> None:
        self.backend = backend
        self.plan = plan
        self.progress = progress
        self.handle = handle
        self.receipt = Receipt()
        self.phases: list[tuple[str, float]] = []
        self.switch_seconds: float | None = None
        self.notes: list[str] = []
        self.clean = True
        """Whether nothing of a run that failed is left."""

    async def run(self) -> Outcome:
        """The whole run, between the two ends of its entry in the journal."""
        if not self.plan.ok:
            raise PlanError(self.plan.refusal(), self.plan.problems)
        # The VM is only looked at meanwhile.
        self.first_look = asyncio.ensure_future(self.backend.observe())
        try:
            await self._begin()
        except BaseException:
            self.first_look.cancel()
            raise
        try:
            outcome = await self._run()
        except PlanError as err:
            await self._end("not switched", str(err))
            raise
        except SnapshotError as err:
            switched = err.outcome is not None and err.outcome.switched
            await self._end("switched" if switched else "not switched", str(err))
            raise
        except OutcomeUnknown as err:
            self.clean = False
            await self._end("unknown", str(err))
            raise
        except (ConnectError, Refused) as err:
            # Only the first look lets these through. Where QEMU itself had to look, it may not have
            # been able to close what it opened.
            self.clean = self.backend.local
            await self._end("not switched", str(err))
            raise
        else:
            await self._end("switched", "")
        finally:
            await asyncio.to_thread(self.record.release)
        return outcome

    async def _begin(self) -> None:
        """The plan is on the disk before the first command leaves."""
        self._tell(Phase("journal"))
        began = time.perf_counter()
        script, backend = self.plan.script, self.backend
        what = Start(
            uri=backend.uri,
            domain=backend.domain,
            vm=backend.name,
            instance=backend.instance,
            local=backend.local,
            told=self.plan.bound.local,
            engine=self.plan.engine,
            fingerprint=self.plan.fingerprint,
            overlays=script.overlays,
            commands=tuple(command.to_json() for command in script.commands),
        )
        try:
            self.record = await asyncio.to_thread(Journal(default_path()).begin, what)
        except JournalError as err:
            msg = f"The plan is refused; nothing was sent. {telling.ended(str(err))}"
            raise PlanError(msg) from err
        self.receipt.keep = self.record.keep
        self.phases.append(("journal", time.perf_counter() - began))

    async def _end(self, state: str, message: str) -> None:
        try:
            await asyncio.to_thread(self.record.end, state, message, closed=self.clean)
        except JournalError as err:
            _log.warning("The end of run %d could not be written down. %s", self.record.number, err)

    async def _run(self) -> Outcome:
        before = await self._observe_and_check()
        script = self.plan.script
        try:
            async with self._phase("prepare"):
                await self.backend.prepare(script, self.receipt)
                await verify.reused_overlays(self.backend, script)
            async with self._phase("flush"):
                await asyncio.gather(
                    self._flush(script), self._refuse_moved_devices(before, script)
                )
            async with self._phase("switch"):
                self._stop_if_asked()
                await self.backend.confirm(script, self.receipt)
                await self._switch(before, script)
        except (OutcomeUnknown, SnapshotError):
            # Nobody can look, or the VM was switched and has ended: nothing is undone.
            raise
        except (Exception, asyncio.CancelledError) as err:  # noqa: BLE001  all of it is undone
            await self._give_up(before, script, err)
        return await self._verify(before, script)

    @asynccontextmanager
    async def _phase(self, name: str) -> AsyncIterator[None]:
        """Write it down, tell the user, and take the time."""
        began = time.perf_counter()
        await self._step(name)
        self._tell(Phase(name))
        try:
            yield
        finally:
            self.phases.append((name, time.perf_counter() - began))

    async def _step(self, name: str) -> None:
        """Raises JournalError while it is time to stop; afterwards that is a finding."""
        if name in _NOTHING_YET:
            self.record.note(name)
            return
        try:
            await asyncio.to_thread(self.record.step, name)
        except JournalError as err:
            if name not in {"verify", "undo"}:
                raise
            self.notes.append(str(err))

    def _tell(self, phase: Phase) -> None:
        """Call the user's function. What it raises is its own affair and stops nothing."""
        if self.progress is None:
            return
        try:
            self.progress(phase)
        except BaseException:  # noqa: BLE001  it must not end the loop either
            _log.exception("The progress function failed at %r; the run goes on", str(phase))

    def _stop_if_asked(self) -> None:
        if self.handle.cancelled:
            msg = "The run was cancelled before the switch"
            raise telling.Cancelled(msg)

    async def _observe_and_check(self) -> Graph:
        """Refuse a plan that does not match the VM any more, or has problems now."""
        targets = self.plan.targets
        reused = [target.file for target in targets if target.mode == "existing"]
        async with self._phase("observe"):
            files = [target.file for target in targets]
            graph = await self.first_look
            facts = await self.backend.facts(graph, files, reused, thorough=True)
        async with self._phase("check"):
            self._refuse_another_vm(facts.graph)
            fresh = self.plan.again(facts)
        if not fresh.ok:
            raise PlanError(fresh.refusal(), fresh.problems)
        if self.handle.cancelled:
            msg = "The run was cancelled before it began. Nothing was sent."
            raise PlanError(msg)
        return facts.graph

    def _refuse_another_vm(self, now: Graph) -> None:
        """Refuse if the devices, or the free node-names, are not those of the plan."""
        news = list(compare.changes(self.plan.graph, now).values())
        if not news:
            names = {name for o in self.plan.script.overlays for name in (o.node, o.file_node)}
            news = [f"there is a node {name} now" for name in sorted(names & now.nodes.keys())]
        if news or now.fingerprint != self.plan.fingerprint:
            more = [f"and {len(news) - _SHOWN} more"] if len(news) > _SHOWN else []
            what = "; ".join([*news[:_SHOWN], *more]) or "its block graph is another one"
            msg = f"The VM has changed since the plan was made: {what}. Make the plan again."
            raise PlanError(msg)

    async def _flush(self, script: Script) -> None:
        """Wait for the disks' own writing, as long as it takes, unless that is too long."""
        flush = asyncio.ensure_future(self.backend.flush(script))
        deadline = time.monotonic() + _FLUSH_SECONDS
        while not (await asyncio.wait([flush], timeout=_POLL_SECONDS))[0]:
            self._stop_if_asked()
            if time.monotonic() > deadline:
                self.notes.append("the disks were still being flushed when they were switched")
                return
        flush.result()

    async def _refuse_moved_devices(self, before: Graph, script: Script) -> None:
        """QEMU would put an overlay on a node whose device has gone meanwhile."""
        changes = compare.changes(before, await self.backend.observe())
        for overlay in script.overlays:
            if change := changes.get(overlay.device):
                msg = f"the VM has changed since it was checked: {change}"
                raise Refused(msg, overlay.device)

    async def _switch(self, before: Graph, script: Script) -> None:
        """Send the one command. Raises if no device was switched."""
        began = time.perf_counter()
        try:
            await self.backend.switch(script)
        except Refused as err:
            raise Refused(str(err), err.device or telling.blamed(str(err), script)) from err
        except (Exception, asyncio.CancelledError) as err:  # noqa: BLE001  it may have been sent
            await self._find_out(before, script, err)
        else:
            self.switch_seconds = time.perf_counter() - began

    async def _find_out(self, before: Graph, script: Script, cause: BaseException) -> None:
        """The reply to the switch never came: look which of the two states it is."""
        try:
            after = await self._look_again()
            moved = self._has_moved(after, script)
        except (Exception, asyncio.CancelledError) as err:
            if self.backend.gone and await self._find_out_offline(before, script):
                msg = "The VM has ended within the switch; nothing was written to its overlays"
                raise telling.Ended(msg) from err
            files = ", ".join(overlay.file for overlay in script.overlays)
            msg = (
                f"The connection was lost during the switch and the VM cannot be looked at: "
                f"{telling.ended(telling.words(err))} All disks have moved to their overlays, or "
                f"none has. Nothing was removed: keep {files} until the VM has been looked at. "
                f"{telling.recoverable(self.record.number)}"
            )
            raise OutcomeUnknown(msg, self.record.number) from err
        if not moved:
            raise cause
        if isinstance(cause.__cause__, Refused):
            self.notes.append(f"the disks were switched, and the answer was all the same: {cause}")
            return
        self.notes.append(
            "the connection was lost during the switch; what is said here was read anew"
        )

    async def _find_out_offline(self, before: Graph, script: Script) -> bool:
        """Whether a VM that has ended within the switch is known to have none of its overlays.

        Raises SnapshotError if they hold data, or it is to be started from them.
        """
        if not offline.can_tell(self.receipt, script.overlays):
            return False
        if await asyncio.to_thread(offline.written, self.receipt):
            self._raise_gone(before, script, "the VM has ended, and its overlays hold data")
        where = self.backend.uri, self.backend.domain
        try:
            defined = await backends.defined_images(*where, undo.RECONNECT_SECONDS)
        except ConnectError:
            return False
        if any(overlay.file in defined for overlay in script.overlays):
            self._raise_gone(before, script, "the VM has ended")
        return True

    def _has_moved(self, after: Graph, script: Script) -> bool:
        """Which of the two states it is. Raises ConnectError if it is not the same VM."""
        if any(compare.is_on(after, overlay) for overlay in script.overlays):
            return True
        if not after.nodes.keys() >= set(self.receipt.nodes):
            msg = f"{self.backend.uri} is another VM now: the prepared nodes are gone."
            raise ConnectError(msg)
        return False

    async def _look_again(self) -> Graph:
        """Observe, over a new connection where the old one has gone. Raises SnapkitError."""
        if self.backend.connected:
            with suppress(LinkLost):
                return await self.backend.observe()
        await self.backend.reconnect(undo.RECONNECT_SECONDS)
        return await self.backend.observe()

    async def _verify(self, before: Graph, script: Script) -> Outcome:
        """Observe again; nothing is undone behind the user's back from here on."""
        async with self._phase("verify"):
            headers = asyncio.ensure_future(self.backend.headers(script.overlays))
            try:
                after = await self._look_again()
            except Exception as err:
                headers.cancel()
                if self.backend.gone:
                    self._raise_gone(before, script, "the VM has ended since")
                msg = (
                    "The switch was done, but the VM cannot be looked at: "
                    f"{telling.ended(telling.words(err))} Connect again and look at the layers. "
                    f"{telling.recoverable(self.record.number)}"
                )
                raise OutcomeUnknown(msg, self.record.number) from err
            wrong, notes = await verify.verify(self.backend, before, after, script, headers)
        outcome = Outcome(
            devices=tuple(compare.switched(before, after, o) for o in script.overlays),
            switched=True,
            ok=not wrong,
            switch_seconds=self.switch_seconds,
            phases=tuple(self.phases),
            findings=(*wrong, *self.notes, *notes),
        )
        if wrong:
            msg = "The switch was done and nothing was undone, but not all is as it should be:"
            raise SnapshotError("\n".join([msg, *map(telling.short, outcome.findings)]), outcome)
        return outcome

    def _raise_gone(self, before: Graph, script: Script, why: str) -> NoReturn:
        """The disks were switched, and there is no VM to look at any more."""
        files = ", ".join(overlay.file for overlay in script.overlays)
        msg = (
            f"The switch was done and nothing was undone, but {why}. "
            f"Its disks are {files}: start it again from these."
        )
        outcome = verify.gone(before, script, why)
        raise SnapshotError(telling.short(msg), replace(outcome, phases=tuple(self.phases)))

    async def _give_up(self, before: Graph, script: Script, cause: BaseException) -> NoReturn:
        """Undo, look, and raise SnapshotError with all that was found."""
        async with self._phase("undo"):
            remarks = await undo.undo(self.backend, self.receipt, cause)
        self.clean = not remarks
        outcome: Outcome | None = None
        try:
            after = await self.backend.observe()
        except Exception:  # noqa: BLE001  the cause is what has to be told
            if not self.backend.gone:
                remarks.append("the VM could not be looked at afterwards")
        else:
            remarks += compare.changes(before, after).values()
            found = verify.not_switched(before, after, script, remarks)
            outcome = replace(found, phases=tuple(self.phases))
        msg = telling.failure(cause, remarks, None if self.clean else self.record.number)
        raise SnapshotError(telling.short(msg), outcome) from cause
