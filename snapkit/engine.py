"""Run a plan: observe, check, prepare, switch, verify; and undo what failed before the switch.

Every run ends in one of two states, and says which: all devices are on their overlays, or
none is and what the run made is gone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import posixpath
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn
from weakref import WeakKeyDictionary

from snapkit import compare, disk_image, loop
from snapkit.backends.base import Backend, LinkLost, Receipt, Refused
from snapkit.errors import ConnectError, OutcomeUnknown, PlanError, SnapkitError, SnapshotError
from snapkit.model import Graph, Outcome
from snapkit.plan import Plan
from snapkit.printable import printable
from snapkit.run import PHASES, Phase, Progress, Run
from snapkit.script import Overlay, Script

__all__ = ["PHASES", "Phase", "Progress", "Run", "start"]

_RECONNECT_SECONDS = 10.0
_STUCK_SECONDS = 60.0
"""How long a VM that has stopped answering is given before the undo is told as unfinished."""
_SHOWN = 5
_LONGEST = 20_000
"""Characters of one message; names of devices and files in it are not ours."""

_log = logging.getLogger(__name__)


class _Cancelled(SnapkitError):
    """The user asked to stop, and it was still time."""


def start(backend: Backend, plan: Plan, progress: Progress | None = None) -> Run:
    """Start a plan on the loop."""
    run = Run()
    loop.submit(_carry_out(_Engine(backend, plan, progress, run)))
    return run


_turns: WeakKeyDictionary[Backend, asyncio.Lock] = WeakKeyDictionary()
"""One run at a time for each VM: the next one then sees what this one has changed."""


async def _carry_out(engine: _Engine) -> None:
    future = engine.handle.future
    try:
        async with _turns.setdefault(engine.backend, asyncio.Lock()):
            outcome = await engine.run()
        future.set_result(outcome)
    except BaseException as err:  # noqa: BLE001  whoever waits for the future has to be told
        future.set_exception(err)


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
        self.notes: list[str] = []

    async def run(self) -> Outcome:
        before = await self._observe_and_check()
        script = self.plan.script
        try:
            with self._phase("prepare"):
                await self.backend.prepare(script, self.receipt)
                await self._look_at_reused_overlays(script)
            with self._phase("switch"):
                self._stop_if_asked()
                await self.backend.confirm(script, self.receipt)
                await self._switch(script)
        except OutcomeUnknown:
            raise
        except (Exception, asyncio.CancelledError) as err:  # noqa: BLE001  all of it is undone
            await self._give_up(before, script, err)
        return await self._verify(before, script)

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        """Tell the user, and take the time."""
        self._tell(Phase(name))
        began = time.perf_counter()
        try:
            yield
        finally:
            self.phases.append((name, time.perf_counter() - began))

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
            raise _Cancelled(msg)

    async def _observe_and_check(self) -> Graph:
        """Refuse a plan that does not match the VM any more, or has problems now."""
        if not self.plan.ok:
            raise PlanError(self.plan.refusal(), self.plan.problems)
        targets = self.plan.targets
        reused = [target.file for target in targets if target.mode == "existing"]
        with self._phase("observe"):
            files = [target.file for target in targets]
            graph = await self.backend.observe()
            facts = await self.backend.facts(graph, files, reused, thorough=True)
        with self._phase("check"):
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

    async def _look_at_reused_overlays(self, script: Script) -> None:
        """QEMU checks neither size nor header of an overlay; the opened node shows both."""
        reused = [overlay for overlay in script.overlays if not overlay.create]
        if not reused or not script.prepare:
            return
        nodes = (await self.backend.observe()).nodes
        for overlay in reused:
            node = nodes[overlay.node]
            if node.virtual_size != overlay.virtual_size:
                msg = (
                    f"{overlay.file} has {node.virtual_size} bytes, the disk {overlay.virtual_size}"
                )
                raise Refused(msg, overlay.device)
            real = _real if self.backend.local else posixpath.normpath
            if wrong := await asyncio.to_thread(compare.header_of, node, overlay, real):
                raise Refused(wrong, overlay.device)

    async def _switch(self, script: Script) -> None:
        """Send the one command. Raises if no device was switched."""
        began = time.perf_counter()
        try:
            await self.backend.switch(script)
        except Refused as err:
            raise Refused(str(err), err.device or _blamed(str(err), script)) from err
        except (Exception, asyncio.CancelledError) as err:  # noqa: BLE001  it may have been sent
            await self._find_out(script, err)
        else:
            self.switch_seconds = time.perf_counter() - began

    async def _find_out(self, script: Script, cause: BaseException) -> None:
        """The reply to the switch never came: look which of the two states it is."""
        try:
            after = await self._look_again()
            moved = self._has_moved(after, script)
        except (Exception, asyncio.CancelledError) as err:
            files = ", ".join(overlay.file for overlay in script.overlays)
            msg = (
                f"The connection was lost during the switch and the VM cannot be looked at: "
                f"{_ended(_words(err))} All disks have moved to their overlays, or none has. "
                f"Nothing was removed: keep {files} until the VM has been looked at."
            )
            raise OutcomeUnknown(msg) from err
        if not moved:
            raise cause
        self.notes.append(
            "the connection was lost during the switch; what is said here was read anew"
        )

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
            try:
                return await self.backend.observe()
            except LinkLost:
                pass
        await self.backend.reconnect(_RECONNECT_SECONDS)
        return await self.backend.observe()

    async def _verify(self, before: Graph, script: Script) -> Outcome:
        """Observe again; nothing is undone behind the user's back from here on."""
        with self._phase("verify"):
            try:
                after = await self._look_again()
            except Exception as err:
                msg = (
                    "The switch was done, but the VM cannot be looked at: "
                    f"{_ended(_words(err))} Connect again and look at the layers."
                )
                raise OutcomeUnknown(msg) from err
            headers = [await self._header(after, overlay) for overlay in script.overlays]
            headers += await self._replaced(after, script)
        outcome = self._outcome(before, after, script, [text for text in headers if text])
        if not outcome.ok:
            msg = "The switch was done and nothing was undone, but not all is as it should be:"
            raise SnapshotError(
                "\n".join([msg, *(printable(text, _LONGEST) for text in outcome.findings)]), outcome
            )
        return outcome

    async def _header(self, after: Graph, overlay: Overlay) -> str:
        """What is wrong with an overlay's header, read offline or else from the live node."""
        try:
            return await self.backend.header(overlay)
        except Exception as err:  # noqa: BLE001  the switch is done, whatever this look says
            self.notes.append(f"{overlay.file} was not opened offline: {err}")
            return compare.header(after, overlay)

    async def _replaced(self, after: Graph, script: Script) -> list[str]:
        """Which files of the new chains are not those that QEMU has open, in words."""
        names = {overlay.device for overlay in script.overlays}
        devices = [device for name, device in after.devices.items() if name in names]
        paths = {x.file for d in devices for x in d.layers if x.file.startswith("/")}
        try:
            files = await self.backend.probe(sorted(paths))
        except Exception as err:  # noqa: BLE001  the switch is done, whatever this look says
            self.notes.append(f"the files of the chains were not looked at: {err}")
            return []
        found = ((d.name, disk_image.replaced(after, d, files)) for d in devices)
        return [f"{name}: {words}" for name, texts in found for words in texts]

    def _outcome(self, before: Graph, after: Graph, script: Script, headers: list[str]) -> Outcome:
        devices = tuple(compare.switched(before, after, o) for o in script.overlays)
        changes = compare.changes(before, after)
        asked = {device.device for device in devices}
        places = zip(devices, script.overlays, strict=True)
        wrong = [text for d, o in places if (text := compare.misplaced(after, d, o))]
        wrong += [text for name, text in changes.items() if name not in asked]
        wrong += headers
        return Outcome(
            devices=devices,
            switched=all(device.ok for device in devices),
            ok=not wrong,
            switch_seconds=self.switch_seconds,
            phases=tuple(self.phases),
            findings=(*wrong, *self.notes),
        )

    async def _undo(self, cause: BaseException) -> list[str]:
        """Remove what this run made; say what could not be removed. Raises nothing."""
        with self._phase("undo"):
            seconds = _RECONNECT_SECONDS
            if isinstance(cause, LinkLost) and self.backend.connected:
                # It is stuck. What it was sent, and has not begun, goes with the connection.
                await self.backend.close()
                seconds = _STUCK_SECONDS
            elif self.backend.connected:
                remarks = await self._discard()
                if self.backend.connected:
                    return remarks
                seconds = _STUCK_SECONDS
            return await self._discard_anew(seconds)

    async def _discard_anew(self, seconds: float) -> list[str]:
        """Discard over a new connection, on which nothing from before is still to be done."""
        remarks: list[str] = []
        try:
            await self.backend.reconnect(seconds)
        except ConnectError as err:
            remarks.append(_words(err))
        return remarks + await self._discard()

    async def _discard(self) -> list[str]:
        try:
            return await self.backend.discard(self.receipt)
        except Exception as err:  # noqa: BLE001  what is left has to be named
            return [f"the undo failed ({_words(err)}) and may have left {self.receipt}"]

    async def _give_up(self, before: Graph, script: Script, cause: BaseException) -> NoReturn:
        """Undo, look, and raise SnapshotError with all that was found."""
        remarks = await self._undo(cause)
        outcome: Outcome | None = None
        try:
            after = await self.backend.observe()
        except Exception:  # noqa: BLE001  the cause is what has to be told
            remarks.append("the VM could not be looked at afterwards")
        else:
            remarks += compare.changes(before, after).values()
            outcome = Outcome(
                devices=tuple(compare.switched(before, after, o) for o in script.overlays),
                switched=False,
                ok=False,
                phases=tuple(self.phases),
                findings=tuple(remarks),
            )
        raise SnapshotError(printable(_failure(cause, remarks), _LONGEST), outcome) from cause


def _blamed(words: str, script: Script) -> str:
    """Whom the refusal of a whole transaction is about. QEMU never says which action failed."""
    for overlay in script.overlays:
        names = (
            *(overlay.file, overlay.backing_file, overlay.device),
            *(overlay.base_node, overlay.node, overlay.file_node),
        )
        if any(f"'{name}'" in words for name in names if name):
            return overlay.device
    devices = [overlay.device for overlay in script.overlays]
    return devices[0] if len(devices) == 1 else f"one of {', '.join(devices)}"


def _failure(cause: BaseException, remarks: list[str]) -> str:
    if isinstance(cause, _Cancelled):
        begin = str(cause)
    else:
        device = getattr(cause, "device", "")
        begin = f"The snapshot failed. {f'{device}: ' if device else ''}{_words(cause)}"
    if not remarks:
        return (
            f"{_ended(begin)} Everything was undone: no device was switched, "
            "and no file of this run is left."
        )
    return f"{_ended(begin)} This run switched no device, but: {_ended('; '.join(remarks))}"


def _ended(words: str) -> str:
    return words if words.endswith("?") else f"{words}."


def _real(name: str) -> object:
    """What tells whether two names of this host are one file."""
    try:
        found = os.stat(name)
    except OSError:
        return posixpath.normpath(name)
    return found.st_dev, found.st_ino


def _words(cause: BaseException) -> str:
    """An error without its full stop; one that is not of snapkit's making with its type."""
    text = str(cause).rstrip(".")
    if isinstance(cause, SnapkitError):
        return text
    return f"{type(cause).__name__}: {text}" if text else type(cause).__name__
