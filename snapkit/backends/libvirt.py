"""libvirt: a running domain as a backend. Looking is read-only; a run connects for writing."""

from __future__ import annotations

import asyncio
import functools
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from snapkit.backends import (
    claiming,
    files,
    headers,
    libvirt_agreement,
    libvirt_graph,
    libvirt_place,
    libvirt_reader,
    libvirt_script,
    libvirt_truth,
    locality,
    qmp_facts,
)
from snapkit.backends.abilities import of
from snapkit.backends.base import Event, Receipt, Refused, Snapshot, Unseen
from snapkit.backends.headers import Header
from snapkit.backends.libvirt_domain import Running
from snapkit.backends.libvirt_graph import BlockJob, LayerStats
from snapkit.backends.libvirt_overlays import Overlays
from snapkit.backends.libvirt_xml import Domain, Image, Moment
from snapkit.errors import ConnectError, SnapkitError
from snapkit.facts import Facts, FileFacts
from snapkit.model import Graph, Target
from snapkit.script import Overlay, Script, Wishes

__all__ = ["LibvirtBackend"]

_READINGS = 8


class LibvirtBackend:
    """One running domain. Made by ``open``.

    It is that very start of the domain: shut down and started again, it is another VM.
    """

    forms = libvirt_script.FORMS
    abilities = of("libvirt")
    switch_seconds = 120.0

    def __init__(self, uri: str, timeout: float) -> None:
        self.uri = uri
        self.version = ""
        self.place = locality.ELSEWHERE
        self.running = Running(uri, timeout)
        self._targets: tuple[str, ...] = ()
        self._tpms: tuple[str, ...] = ()
        self._overlays = Overlays(self, self.switch_seconds)

    @classmethod
    async def open(
        cls, uri: str, domain: str | None, *, timeout: float, local: bool | None
    ) -> Self:
        """Connect to a running domain, by name, uuid or id; without one, to the only one.

        ``timeout`` in seconds covers the connection and the first look. Raises ConnectError.
        """
        backend = cls(uri, timeout)
        try:
            async with asyncio.timeout(timeout):
                await backend.running.connect(timeout, domain)
                told, _, _ = await backend._read()
                backend.version = await backend.running.call(_version)
                backend.place = await asyncio.to_thread(
                    libvirt_place.find, uri, told, overrule=local
                )
        except TimeoutError:
            await backend.close()
            msg = (
                f"{backend.running.where} did not tell within {timeout:g} s what runs there. "
                "Is its host stuck? Try a longer timeout."
            )
            raise ConnectError(msg) from None
        except Refused as err:
            await backend.close()
            msg = f"{backend.running.where} refused to be looked at: {err}."
            raise ConnectError(msg) from None
        except BaseException:
            await backend.close()
            raise
        _open.add(backend)
        return backend

    @staticmethod
    def opened() -> list[LibvirtBackend]:
        """Those of this process that are connected."""
        return [backend for backend in tuple(_open) if backend.connected]

    @property
    def name(self) -> str:
        """The domain's name."""
        return self.running.name

    @property
    def domain(self) -> str | None:
        """The domain's name."""
        return self.running.name

    @property
    def local(self) -> bool:
        """Whether QEMU's files are this host's."""
        return self.place.local

    @property
    def locality(self) -> str:
        """How that is known, in one sentence."""
        return self.place.why

    @property
    def connected(self) -> bool:
        """Whether the connection stands and the domain runs. A forked process has none."""
        return self.running.connected

    @property
    def instance(self) -> str:
        """What tells this VM's process from every other; empty if that is not known."""
        return self.place.instance

    @property
    def gone(self) -> bool:
        """Whether it is known that the VM has ended."""
        return self.running.ended or libvirt_place.has_ended(self.place)

    async def close(self) -> None:
        """Close the connection. Safe to call twice."""
        await self.running.close()

    async def reconnect(self, timeout: float) -> None:
        """Connect again to the same VM. Raises ConnectError after ``timeout`` seconds."""
        await self.running.reconnect(timeout, lambda: self.gone)

    async def _read(
        self, *, counters: bool = False
    ) -> tuple[Domain, Sequence[LayerStats], Sequence[BlockJob]]:
        """One reading, of this start of the domain. Raises Refused or ConnectError."""
        read = functools.partial(libvirt_reader.read, targets=self._targets, counters=counters)
        domain, layers, jobs = await self.running.call(read)
        self.running.expect(domain.id)
        if libvirt_place.has_ended(self.place):
            # libvirt hears of it a moment later, and until then tells what it remembers.
            self.running.expect(None)
        self._targets, self._tpms = domain.targets, domain.tpms
        return domain, layers, jobs

    async def observe(self, *, counters: bool = False) -> Graph:
        """One consistent reading of the block graph.

        Without ``counters``, sizes are those in the images' headers, where all have one.
        It is libvirt's; after a connection was lost, QEMU has to agree. Raises Refused when
        there is none, and ConnectError.
        """
        for _ in range(_READINGS):
            reading = libvirt_graph.Reading(*await self._read(counters=counters), self._header)
            try:
                graph = await asyncio.to_thread(libvirt_graph.build, reading)
            except libvirt_graph.Inconsistent:
                continue
            if not (counters or libvirt_graph.has_sizes(graph)):
                counters = True
                continue
            if self.running.lost:
                await self.make_sure(graph)
                self.running.lost = False
            return graph
        msg = "the block graph changes faster than it can be read. Try again"
        raise Refused(msg)

    async def make_sure(self, graph: Graph) -> None:
        """Raises Refused where QEMU says that its disks are on other images."""
        writer = await self.running.writer()
        try:
            answer = await self.running.change(writer, lambda _, domain: libvirt_truth.ask(domain))
        finally:
            await writer.close()
        if wrong := libvirt_truth.contradictions(graph, answer):
            msg = (
                f"{'; '.join(wrong)}: libvirt was ended before it could write that down. Keep all "
                "images, shut the guest down, and start it from those that QEMU has"
            )
            raise Refused(msg)

    def _header(self, image: Image) -> Header | None:
        """An image's header, where the image is a file of this host that we may read."""
        readable = self.place.local and image.kind in {"file", "block"}
        return headers.read(image.file, image.format) if readable else None

    async def probe(
        self, paths: Sequence[str], images: Sequence[str] = ()
    ) -> Mapping[str, FileFacts]:
        """What is at ``paths`` where QEMU is; of ``images`` also what their headers say."""
        found = await asyncio.to_thread(qmp_facts.probe, self.place, paths, images)
        if libvirt_place.has_ended(self.place):
            # What has ended holds nothing open, and that says nothing about the files.
            found = {path: replace(facts, held=None) for path, facts in found.items()}
        return libvirt_place.granted(self.uri, found.values())

    async def facts(
        self,
        graph: Graph,
        paths: Sequence[str],
        images: Sequence[str] = (),
        *,
        thorough: bool = False,  # noqa: ARG002  libvirt looks at nothing for us
    ) -> Facts:
        """What is known about a reading: ``paths`` and every file of the graph are probed."""
        vm = qmp_facts.Vm(_nothing, frozenset(), self.place)
        found, names = await asyncio.gather(
            qmp_facts.gather(vm, graph, paths, images), self.names()
        )
        return replace(
            found,
            files=libvirt_place.granted(self.uri, found.files.values()),
            tpm=self._tpms,
            engines=("prepared",),
            mixes=False,
            xml=True,
            snapshots=names,
        )

    async def moments(self) -> tuple[Sequence[Moment], str]:
        """The snapshots that libvirt remembers, and the current one's name."""
        return await self.running.call(_moments)  # type: ignore[no-any-return]  # libvirt has no types

    async def names(self) -> tuple[str, ...]:
        """The names of the snapshots that libvirt remembers."""
        return await self.running.call(_names)  # type: ignore[no-any-return]  # the same

    async def snapshots(self) -> Sequence[Snapshot]:
        """The snapshots that libvirt remembers, parents first. Raises Refused, ConnectError."""
        known, current = await self.moments()
        return libvirt_agreement.compare(known, current, await self.observe())

    def script(
        self,
        targets: Sequence[Target],
        facts: Facts,
        engine: str,  # noqa: ARG002  the check "engine" has let only one through
        wishes: Wishes,
    ) -> Script:
        """The exact call for these targets. No I/O."""
        subject = libvirt_script.Subject(self.uri, self.name, self.running.uuid)
        return libvirt_script.write(targets, facts, wishes, subject)

    def render(self, script: Script, form: str) -> str:
        """The script in one of ``forms``. No I/O."""
        return libvirt_script.render(script, form)

    async def prepare(self, script: Script, receipt: Receipt) -> None:
        """Claim the files, and connect for writing."""
        await self._overlays.prepare(script, receipt)

    async def flush(self, script: Script) -> None:
        """Write out what this host's caches hold of the disks, where they are files of it."""
        if self.local:
            paths = {overlay.backing_file for overlay in script.overlays}
            await asyncio.gather(*(asyncio.to_thread(files.flush, path) for path in paths))

    async def confirm(self, script: Script, receipt: Receipt) -> None:
        """Raises Refused if a file of the receipt is another one under its name now."""
        await self._overlays.confirm(script, receipt)

    async def switch(self, script: Script) -> None:
        """Send ``script.switch``. Raises Refused (nothing moved) or LinkLost (unknown)."""
        await self._overlays.switch(script)

    async def leftovers(self, overlays: Sequence[Overlay], receipt: Receipt) -> Receipt:
        """What there still is of what an earlier run made, as far as that can be proved."""
        return await self._overlays.leftovers(overlays, receipt)

    async def discard(self, receipt: Receipt) -> list[str]:
        """Remove what the receipt names and nobody uses; say what could not be removed."""
        return await self._overlays.discard(receipt)

    async def headers(self, overlays: Sequence[Overlay]) -> list[str | Unseen]:
        """Open each overlay's chain offline; say what is wrong with it, or nothing."""
        return await claiming.look(overlays, self.place)

    def events(self) -> Sequence[Event]:
        """What libvirt has reported of the domain since connecting, oldest first."""
        return self.running.events.read()


_open: weakref.WeakSet[LibvirtBackend] = weakref.WeakSet()


async def _nothing(_: str) -> Any:
    msg = "libvirt is not asked in QEMU's words"
    raise SnapkitError(msg)


def _version(_: Any, handle: Any, __: Any) -> str:
    """The version of QEMU that libvirt uses for new domains (``virConnectGetVersion``)."""
    number = handle.getVersion()
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def _names(_: Any, __: Any, domain: Any) -> tuple[str, ...]:
    return libvirt_reader.names(domain)


def _moments(libvirt: Any, _: Any, domain: Any) -> tuple[list[Moment], str]:
    return libvirt_reader.moments(libvirt, domain)
