"""A connected VM: what the user holds. The same over every backend."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from snapkit import backends, engine, limits, loop, naming
from snapkit import plan as planning
from snapkit import request as asking
from snapkit.backends.base import Backend
from snapkit.errors import PlanError
from snapkit.model import Graph, Outcome, Target
from snapkit.plan import Plan

if TYPE_CHECKING:
    from pandas import DataFrame

    from snapkit.widgets import Studio

__all__ = ["VirtualMachine", "connect", "open_machine"]

_TAGS_TRIED = 1000


def connect(
    uri: str | os.PathLike[str],
    domain: str | int | None = None,
    *,
    readonly: bool = False,
    timeout: float = 5.0,
    local: bool | None = None,
) -> VirtualMachine:
    """Connect to a VM.

    Parameters
    ----------
    uri
        ``unix:/path``, a path, ``tcp:host:port`` or ``host:port`` of a QMP monitor; or a
        libvirt URI, such as ``qemu:///system``.
    domain
        The libvirt domain, by name, uuid or id. None: the only one that runs there.
    readonly
        Refuse every change.
    timeout
        Seconds for the connection and the greeting.
    local
        Whether QEMU's files are this host's. None: find out.

    Raises
    ------
    ConnectError
        With the cause and the cure in words.

    """
    return loop.call(open_machine(uri, domain, readonly=readonly, timeout=timeout, local=local))


async def open_machine(
    uri: str | os.PathLike[str],
    domain: str | int | None = None,
    *,
    readonly: bool = False,
    timeout: float = 5.0,
    local: bool | None = None,
) -> VirtualMachine:
    """``connect`` as a coroutine on snapkit's loop, for panels."""
    limit = limits.seconds(timeout)
    # libvirt itself gives ids as numbers.
    name = str(domain) if isinstance(domain, int) else domain
    backend = await backends.open_backend(uri, name, timeout=limit, local=local)
    return VirtualMachine(backend, readonly=readonly, local=local)


class VirtualMachine:
    """A connected VM.

    Plain functions return when done; the coroutines are for panels and run on snapkit's
    loop. ``readonly`` may be set at any time: while it is True, every change is refused.
    """

    def __init__(
        self, backend: Backend, *, readonly: bool = False, local: bool | None = None
    ) -> None:
        self._backend = backend
        self._local = local
        self.readonly = readonly
        self.runs = 0
        """How many runs have ended, by whichever hand they were started."""

    @property
    def uri(self) -> str:
        """The endpoint, in its full form."""
        return self._backend.uri

    @property
    def domain(self) -> str | None:
        """The libvirt domain; None over QMP."""
        return self._backend.domain

    @property
    def name(self) -> str:
        """The VM's name, empty if it has none."""
        return self._backend.name

    @property
    def version(self) -> str:
        """QEMU's version."""
        return self._backend.version

    @property
    def connected(self) -> bool:
        """Whether the connection stands."""
        return self._backend.connected

    @property
    def local(self) -> bool:
        """Whether QEMU's files are this host's."""
        return self._backend.local

    @property
    def locality(self) -> str:
        """How that is known, in one sentence."""
        return self._backend.locality

    def devices(self) -> DataFrame:
        """A row a device; sizes in bytes. Raises ConnectError."""
        from snapkit import tables

        return tables.devices(loop.call(self.observe()))

    def layers(self) -> DataFrame:
        """A row a layer of every chain; layer 0 is the active image. Raises ConnectError."""
        from snapkit import tables

        return tables.layers(loop.call(self.observe()))

    def stats(self) -> DataFrame:
        """A row a device: all I/O counters that the VM keeps. Raises ConnectError."""
        from snapkit import tables

        return tables.stats(loop.call(self.observe()))

    def events(self) -> DataFrame:
        """What the VM has reported since connecting, oldest first."""
        from snapkit import tables

        return tables.events(self._backend.events())

    def snapshots(self) -> DataFrame:
        """A row a snapshot that libvirt remembers, parents first; times are UTC.

        ``disks`` are the overlays that it made. ``agrees`` says whether they are still in
        their disks' chains, and ``why_not`` what does not fit. Raises ConnectError, and
        SnapkitError where nothing is remembered, as over QMP.
        """
        from snapkit import tables

        self._need("metadata", "vm.snapshots()")
        return tables.snapshots(loop.call(self._backend.snapshots()))

    def _need(self, ability: str, what: str) -> None:
        """Raises PlanError for what this backend cannot do."""
        if ability not in self._backend.abilities:
            msg = f"{what} needs libvirt: QEMU itself remembers no snapshots."
            raise PlanError(msg)

    def plan(self, targets: object, **options: Any) -> Plan:
        """Check what a snapshot of these targets would do. Sends nothing that changes.

        Parameters
        ----------
        targets
            A dict of device and file; or of device and ``{"file", "format", "mode"}``; a list
            of devices, to be named by the template; or a table with the column
            ``snapshot_file`` and perhaps ``format``, ``mode`` and ``include``.
        **options
            ``template``, ``tag`` (default: ``snap1`` or the next that is free), ``format``,
            ``mode``, ``engine`` (``prepared`` or ``classic``), ``quiesce`` (``no``, ``try`` or
            ``require``). Over libvirt also what it remembers: ``name`` (default: ``snap1`` or
            the next that is free), ``description``, and ``metadata`` (``yes`` or ``no``).

        Raises
        ------
        ConnectError
            The connection has gone. A bad target raises nothing: it is one of
            ``plan.problems``.
        PlanError
            An option that does not exist, or that this backend has not.

        """
        return loop.call(self.make_plan(targets, **options))

    def snapshot(
        self, targets: object, *, progress: engine.Progress | None = None, **options: Any
    ) -> Outcome:
        """Plan and run. Takes what ``plan`` takes; raises what ``Plan.run`` raises."""
        return self.plan(targets, **options).run(progress)

    def studio(self) -> Studio:
        """All panels for this VM."""
        from snapkit.widgets import Studio

        return Studio(self)

    def close(self) -> None:
        """Close the connection. Safe to call twice."""
        loop.call(self.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "read-only" if self.readonly else "may change"
        if not self.connected:
            state = "closed"
        name = f" {self.name!r}" if self.name else ""
        return f"<VirtualMachine{name} at {self.uri}; QEMU {self.version}; {state}>"

    async def observe(self) -> Graph:
        """One consistent reading of the block graph."""
        return await self._backend.observe(counters=True)

    async def make_plan(self, targets: object, **options: Any) -> Plan:
        """``plan`` as a coroutine."""
        chosen = asking.Options.of(options)
        if chosen.remembered:
            self._need("metadata", f"The option {chosen.remembered[0]}")
        if isinstance(targets, Iterator):
            # It is read once for every tag that is tried.
            targets = list(targets)
        graph = await self._backend.observe()
        tag = chosen.tag if chosen.tag is not None else await self._next_tag(targets, graph, chosen)
        request = asking.read(targets, graph, chosen, tag)
        files = [t.file for t in request.targets if _can_be_looked_at(t)]
        reused = [t.file for t in request.targets if t.mode == "existing"]
        facts = await self._backend.facts(graph, files, reused)
        return planning.make(request, facts, self._bound())

    async def _next_tag(self, targets: object, graph: Graph, options: asking.Options) -> str:
        """The first tag with which no overlay's file exists yet, the same for the whole set."""
        first = max((device.depth for device in graph.devices.values()), default=0) + 1
        tags = [naming.next_tag(n) for n in range(1, first + _TAGS_TRIED)]
        tried: list[str] | None = None
        in_use = {layer.file for d in graph.devices.values() for layer in d.layers}
        for tag in tags:
            request = asking.read(targets, graph, options, tag)
            paths = [t.file for t in request.targets if _can_be_looked_at(t)]
            if paths == tried:
                # The names do not depend on the tag: no other one is any better.
                return tags[0]
            tried = paths
            found: Mapping[str, Any] = await self._backend.probe(paths)
            if not any(facts.exists for facts in found.values()) and not in_use & set(paths):
                return tag
        return tags[-1]

    def _bound(self) -> planning.Bound:
        backend = self._backend
        return planning.Bound(
            uri=backend.uri,
            domain=backend.domain,
            local=self._local,
            forms=backend.forms,
            write=backend.script,
            render=backend.render,
            start=self._start,
        )

    def _start(self, plan: Plan, progress: engine.Progress | None) -> engine.Run:
        if self.readonly:
            msg = (
                "The connection is read-only, so the plan was not run and nothing was sent. "
                "Connect with readonly=False, or set vm.readonly = False."
            )
            raise PlanError(msg, plan.problems)
        run = engine.start(self._backend, plan, progress)
        run.future.add_done_callback(self._count)
        return run

    def _count(self, _: object) -> None:
        self.runs += 1

    async def aclose(self) -> None:
        """``close`` as a coroutine."""
        await self._backend.close()


def _can_be_looked_at(target: Target) -> bool:
    """Whether the file system can be asked about a target's path."""
    try:
        target.file.encode()
    except UnicodeEncodeError:
        return False
    return target.file.startswith("/") and "\0" not in target.file
