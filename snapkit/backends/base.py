"""What a backend has to do. Everything else exists once, above this line.

A backend observes a VM, looks at files where the VM's QEMU is, and carries out scripts. It
does not decide anything: checks, plans, the order of the steps and the undo are the engine's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from snapkit.errors import ConnectError, SnapkitError
from snapkit.facts import Facts, FileFacts
from snapkit.model import Graph, Target
from snapkit.script import Overlay, Script, Wishes

__all__ = [
    "Backend",
    "Event",
    "LinkLost",
    "MadeFile",
    "Receipt",
    "Refused",
    "Snapshot",
    "Unseen",
]


class Refused(SnapkitError):
    """The VM answered a command with an error. ``device`` is the one it was about."""

    def __init__(self, message: str, device: str = "") -> None:
        super().__init__(message)
        self.device = device


class Unseen(SnapkitError):
    """A place could not be looked at from here; the message says why."""


class LinkLost(ConnectError):
    """The connection went; whether the last command was carried out is not known."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that the VM reported."""

    time: datetime
    name: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class MadeFile:
    """A file that a run made. It is removed only while it is still that very file.

    ``identity`` is (device, inode); None where QEMU makes the file out of our sight. ``born``
    is when it was made, ``modified`` when it was last written to, both in nanoseconds, and
    ``size`` is in bytes; None where that is not known.
    """

    path: str
    identity: tuple[int, int] | None
    born: int | None = None
    size: int | None = None
    modified: int | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot that the VM's manager remembers: ``disks`` are (device, overlay).

    ``agrees`` says whether all its overlays are still in their devices' chains, one snapshot
    above the other as they are remembered; ``why_not`` says in words what does not fit.
    """

    name: str
    parent: str | None
    created: datetime
    state: str
    current: bool
    description: str
    disks: tuple[tuple[str, str], ...]
    why_not: str = ""

    @property
    def agrees(self) -> bool:
        """Whether what is remembered is still so."""
        return not self.why_not


def _nowhere(_: Receipt) -> None:
    """Nobody writes it down."""


@dataclass
class Receipt:
    """What a run has made so far, filled in as it is made, so that undo always knows.

    ``reused`` are overlays that were there before, which are never removed. ``keep`` writes it
    down: it is called, off the loop, before a file gets its name, and when all is made.
    ``prepared`` says that all of it was made, and measured.
    """

    files: list[MadeFile] = field(default_factory=list)
    reused: list[MadeFile] = field(default_factory=list)
    nodes: list[str] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)
    prepared: bool = False
    keep: Callable[[Receipt], None] = _nowhere

    def __bool__(self) -> bool:
        return bool(self.files or self.nodes or self.jobs)

    def __str__(self) -> str:
        files = [f"the file {made.path}" for made in self.files]
        nodes = [f"the node {name}" for name in self.nodes]
        jobs = [f"the job {name}" for name in self.jobs]
        return ", ".join([*files, *nodes, *jobs]) or "nothing"


class Backend(Protocol):
    """One connected VM. All coroutines run on snapkit's own loop."""

    @property
    def uri(self) -> str:
        """The endpoint, in its full form."""

    @property
    def domain(self) -> str | None:
        """The libvirt domain, where there is one."""

    @property
    def name(self) -> str:
        """The VM's name, empty if it has none."""

    @property
    def version(self) -> str:
        """QEMU's version."""

    @property
    def local(self) -> bool:
        """Whether QEMU's files are this host's."""

    @property
    def locality(self) -> str:
        """How that is known, in one sentence."""

    @property
    def abilities(self) -> frozenset[str]:
        """What it can do of what not every backend can: names of ``abilities.ABILITIES``."""

    @property
    def forms(self) -> tuple[str, ...]:
        """What ``render`` can show."""

    @property
    def connected(self) -> bool:
        """Whether the connection stands."""

    @property
    def instance(self) -> str:
        """What tells this VM's process from every other; empty if that is not known."""

    @property
    def gone(self) -> bool:
        """Whether it is known that the VM has ended."""

    async def observe(self, *, counters: bool = False) -> Graph:
        """One consistent reading of the block graph.

        Without ``counters``, what was read and written, and what images take on disk, may be
        left out where it costs extra.
        """

    async def probe(
        self, paths: Sequence[str], images: Sequence[str] = ()
    ) -> Mapping[str, FileFacts]:
        """What is at ``paths`` where QEMU is; of ``images`` also what their headers say."""

    async def facts(
        self,
        graph: Graph,
        paths: Sequence[str],
        images: Sequence[str] = (),
        *,
        thorough: bool = False,
    ) -> Facts:
        """What is known about a reading: ``paths`` and every file of the graph are probed.

        With ``thorough``, QEMU is asked about what cannot be looked at from here: it opens
        the file read-only and closes it again. Only a run does that.
        """

    def script(
        self, targets: Sequence[Target], facts: Facts, engine: str, wishes: Wishes
    ) -> Script:
        """The exact commands for these targets. No I/O."""

    def render(self, script: Script, form: str) -> str:
        """The script in one of ``forms``. No I/O."""

    async def prepare(self, script: Script, receipt: Receipt) -> None:
        """Claim the files and carry out ``script.prepare``, noting what was made."""

    async def flush(self, script: Script) -> None:
        """Write out what the host's cache holds of the disks, outside of the guest's way.

        Then the switch, which flushes every disk while the guest waits, finds little to do.
        """

    async def confirm(self, script: Script, receipt: Receipt) -> None:
        """Raises Refused if a file of the receipt is another one under its name now."""

    async def switch(self, script: Script) -> None:
        """Send ``script.switch``. Raises Refused (nothing moved) or LinkLost (unknown)."""

    async def leftovers(self, overlays: Sequence[Overlay], receipt: Receipt) -> Receipt:
        """What there still is of what an earlier run made, as far as that can be proved.

        Raises Refused or ConnectError.
        """

    async def discard(self, receipt: Receipt) -> list[str]:
        """Remove what the receipt names and nobody uses; say what could not be removed.

        Where the VM does not answer, that names all that may be left, and the connection is
        closed: what waits in it to be carried out goes with it.
        """

    async def headers(self, overlays: Sequence[Overlay]) -> list[str | Unseen]:
        """Open each overlay's chain offline; say what is wrong with it, or nothing.

        Unseen says why a chain could not be opened from here.
        """

    async def reconnect(self, timeout: float) -> None:
        """Connect again to the same VM. Raises ConnectError."""

    def events(self) -> Sequence[Event]:
        """What the VM has reported since connecting, oldest first, bounded."""

    async def snapshots(self) -> Sequence[Snapshot]:
        """What it remembers of snapshots, oldest first. Raises Refused or ConnectError."""

    async def close(self) -> None:
        """Close the connection. Safe to call twice."""
