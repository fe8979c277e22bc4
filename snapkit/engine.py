"""Run a plan: observe, check, prepare, switch, verify; and undo what failed before the switch.

Every run ends in one of two states, and says which: all devices are on their overlays, or
none is and what the run made is gone.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from typing import NoReturn

from snapkit import loop
from snapkit.backends.base import Backend, LinkLost, Receipt, Refused
from snapkit.errors import ConnectError, OutcomeUnknown, PlanError, SnapkitError, SnapshotError
from snapkit.model import Device, Graph, Outcome, Switched
from snapkit.plan import Plan
from snapkit.script import Overlay

__all__ = ["PHASES", "Phase", "Progress", "Run", "start"]

PHASES = {
    "observe": "Reading the block graph",
    "check": "Checking every target again",
    "prepare": "Creating and opening the overlays",
    "switch": "Switching all devices at one instant",
    "verify": "Looking at what the VM shows now",
    "undo": "Removing what this run made",
}
_RECONNECT_SECONDS = 10.0


class Phase(str):
    """The name of a phase; ``text`` says in words what is being done."""

    __slots__ = ()

    @property
    def text(self) -> str:
        """One sentence for people."""
        return PHASES[self]


Progress = Callable[[Phase], None]


class _Cancelled(SnapkitError):
    """The user asked to stop, and it was still time."""


class Run:
    """A run that was started. ``future`` holds its outcome."""

    def __init__(self) -> None:
        self.future: Future[Outcome]
        self._cancel = threading.Event()

    def cancel(self) -> None:
        """Stop before the switch and undo. After the switch this does nothing."""
        self._cancel.set()

    @property
    def cancelled(self) -> bool:
        """Whether a stop was asked for."""
        return self._cancel.is_set()

    def result(self) -> Outcome:
        """Wait for the end and return the outcome, or raise what the run raised.

        Interrupted, it stops the run if it can still be stopped, waits for it to be undone
        or finished, and only then raises KeyboardInterrupt.
        """
        try:
            return self.future.result()
        except KeyboardInterrupt:
            self.cancel()
            self.future.exception()
            raise


def start(backend: Backend, plan: Plan, progress: Progress | None = None) -> Run:
    """Start a plan on the loop."""
    run = Run()
    run.future = loop.submit(_Engine(backend, plan, progress, run).run())
    return run


class _Engine:
    """One run of one plan."""

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

    async def run(self) -> Outcome:
        before = await self._observe_and_check()
        try:
            with self._phase("prepare"):
                await self.backend.prepare(self.plan.script, self.receipt)
                await self._look_at_reused_overlays()
            self._stop_if_asked()
        except (SnapkitError, OSError) as err:
            await self._give_up(before, err)
        except asyncio.CancelledError:
            await self._undo()
            raise
        lost = await self._switch(before)
        return await self._verify(before, lost)

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        """Tell the user, and take the time."""
        if self.progress is not None:
            self.progress(Phase(name))
        began = time.perf_counter()
        try:
            yield
        finally:
            self.phases.append((name, time.perf_counter() - began))

    def _stop_if_asked(self) -> None:
        if self.handle.cancelled:
            msg = "the run was cancelled before the switch"
            raise _Cancelled(msg)

    async def _observe_and_check(self) -> Graph:
        """Refuse a plan that does not match the VM any more, or has problems now."""
        if not self.plan.ok:
            raise PlanError(self.plan.refusal(), self.plan.problems)
        targets = self.plan.targets
        reused = [target.file for target in targets if target.mode == "existing"]
        with self._phase("observe"):
            facts = await self.backend.facts([target.file for target in targets], reused)
        with self._phase("check"):
            if facts.graph.fingerprint != self.plan.fingerprint:
                what = "; ".join(_changes(self.plan.graph, facts.graph))
                msg = f"The VM has changed since the plan was made: {what}. Make the plan again."
                raise PlanError(msg)
            fresh = self.plan.again(facts)
            if not fresh.ok:
                raise PlanError(fresh.refusal(), fresh.problems)
        self._stop_if_asked_early()
        return facts.graph

    def _stop_if_asked_early(self) -> None:
        try:
            self._stop_if_asked()
        except _Cancelled as err:
            msg = f"Not started: {err}. Nothing was sent."
            raise PlanError(msg) from None

    async def _look_at_reused_overlays(self) -> None:
        """QEMU checks neither size nor header of an overlay; the live node shows both."""
        script = self.plan.script
        reused = [overlay for overlay in script.overlays if not overlay.create]
        if not reused or not script.prepare:
            return
        nodes = (await self.backend.observe()).nodes
        for overlay in reused:
            node = nodes[overlay.node]
            if node.virtual_size != overlay.virtual_size:
                msg = f"{overlay.file} has {node.virtual_size} bytes, the disk {overlay.virtual_size}"
                raise Refused(msg, overlay.device)
            if not node.header_backing_file:
                msg = f"the header of {overlay.file} names no backing file"
                raise Refused(msg, overlay.device)

    async def _switch(self, before: Graph) -> bool:
        """Send the one command. Returns whether the connection was lost over it."""
        began = time.perf_counter()
        lost: LinkLost | None = None
        try:
            with self._phase("switch"):
                await self.backend.switch(self.plan.script)
        except LinkLost as err:
            lost = err
        except Refused as err:
            await self._give_up(before, err)
        self.switch_seconds = None if lost else time.perf_counter() - began
        if lost is not None:
            await self._find_out(before, lost)
        return lost is not None

    async def _find_out(self, before: Graph, lost: LinkLost) -> None:
        """The reply to the switch never came: look which of the two states it is."""
        try:
            await self.backend.reconnect(_RECONNECT_SECONDS)
            after = await self.backend.observe()
        except (ConnectError, Refused) as err:
            files = ", ".join(overlay.file for overlay in self.plan.script.overlays)
            msg = (
                f"The connection was lost during the switch and the VM cannot be looked at: {err} "
                f"All disks have moved to their overlays, or none has. Nothing was removed: "
                f"keep {files} until the VM has been looked at."
            )
            raise OutcomeUnknown(msg) from err
        moved = [_is_on(after, overlay) for overlay in self.plan.script.overlays]
        if not any(moved):
            await self._give_up(before, lost)

    async def _verify(self, before: Graph, lost: bool) -> Outcome:
        """Observe again; nothing is undone behind the user's back from here on."""
        with self._phase("verify"):
            try:
                after = await self.backend.observe()
                headers = [await self.backend.header(o) for o in self.plan.script.overlays]
            except (ConnectError, Refused) as err:
                msg = (
                    "The switch was done, but the VM could not be looked at afterwards: "
                    f"{err} Connect again and look at the layers."
                )
                raise OutcomeUnknown(msg) from err
        outcome = self._outcome(before, after, [text for text in headers if text])
        if lost:
            note = "the connection was lost during the switch; what is said here was read anew"
            outcome = replace(outcome, findings=(*outcome.findings, note))
        if not outcome.ok:
            msg = "\n".join(
                ["The switch was done and nothing was undone, but not all is as it should be:"]
                + list(outcome.findings)
            )
            raise SnapshotError(msg, outcome)
        return outcome

    def _outcome(self, before: Graph, after: Graph, headers: list[str]) -> Outcome:
        overlays = self.plan.script.overlays
        devices = tuple(_compare(before, after, overlay) for overlay in overlays)
        asked = {overlay.device for overlay in overlays}
        findings = [f"{d.device} is on {d.file_after}" for d in devices if not d.ok]
        findings += [text for text in _changes(before, after) if text.split()[0] not in asked]
        findings += headers
        return Outcome(
            devices=devices,
            switched=all(device.ok for device in devices),
            ok=not findings,
            switch_seconds=self.switch_seconds,
            phases=tuple(self.phases),
            findings=tuple(findings),
        )

    async def _undo(self) -> list[str]:
        with self._phase("undo"):
            if not self.backend.connected:
                try:
                    await self.backend.reconnect(_RECONNECT_SECONDS)
                except ConnectError as err:
                    return [*await self.backend.discard(self.receipt), str(err)]
            return await self.backend.discard(self.receipt)

    async def _give_up(self, before: Graph, cause: Exception) -> NoReturn:
        """Undo, look, and raise SnapshotError with all that was found."""
        remarks = await self._undo()
        outcome: Outcome | None = None
        try:
            after = await self.backend.observe()
        except (ConnectError, Refused):
            remarks.append("the VM could not be looked at afterwards")
        else:
            remarks += _changes(before, after)
            outcome = Outcome(
                devices=tuple(_compare(before, after, o) for o in self.plan.script.overlays),
                switched=False,
                ok=False,
                phases=tuple(self.phases),
                findings=tuple(remarks),
            )
        device = getattr(cause, "device", "")
        where = f"{device}: " if device else ""
        undone = (
            "Everything was undone: no device was switched, and no file of this run is left."
            if not remarks
            else "No device was switched, but: " + "; ".join(remarks) + "."
        )
        msg = f"The snapshot failed. {where}{str(cause).rstrip('.')}. {undone}"
        raise SnapshotError(msg, outcome) from cause


def _is_on(graph: Graph, overlay: Overlay) -> bool:
    device = graph.devices.get(overlay.device)
    return device is not None and device.file == overlay.file


def _compare(before: Graph, after: Graph, overlay: Overlay) -> Switched:
    old, new = before.devices[overlay.device], after.devices.get(overlay.device)
    if new is None:
        new = Device(old.name)
    whole = new.file == overlay.file and new.layers[1:] and _same_chain(new, old, skip=1)
    return Switched(
        device=old.name,
        file_before=old.file,
        file_after=new.file,
        depth_before=old.depth,
        depth_after=new.depth,
        ok=bool(whole),
    )


def _same_chain(new: Device, old: Device, skip: int = 0) -> bool:
    """Whether two chains are the same images in the same order, below the first ``skip``."""
    return [(x.node, x.file) for x in new.layers[skip:]] == [(x.node, x.file) for x in old.layers]


def _changes(before: Graph, after: Graph) -> list[str]:
    """What differs between two readings, a sentence a device, which begins with its name."""
    found: list[str] = []
    for name, old in before.devices.items():
        new = after.devices.get(name)
        if not old.attached:
            continue
        if new is None:
            found.append(f"{name} is gone")
        elif not _same_chain(new, old):
            found.append(f"{name} was on {old.file or 'nothing'} and is on {new.file or 'nothing'}")
        elif (new.root, new.read_only) != (old.root, old.read_only):
            found.append(f"{name} has another node or access mode")
    found += [f"{n} is new" for n, d in after.devices.items() if d.attached and n not in before.devices]
    return found
