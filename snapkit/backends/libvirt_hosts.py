"""The libvirt daemons of this host that listen, and the domains that run there.

Only sockets of daemons that run are connected to, by their paths: asked for by its usual
address, a user's libvirt would be started, and behind a socket that systemd listens on, the
system's.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import quote

from snapkit.backends import libvirt_place, processes
from snapkit.backends.base import Refused
from snapkit.backends.libvirt_link import Connection, load
from snapkit.backends.sockets import Sockets
from snapkit.errors import ConnectError

__all__ = ["Daemon", "Found", "address", "daemons", "domains", "listening", "sockets"]

T = TypeVar("T")

_DAEMONS = {"libvirt-sock": "libvirtd", "virtqemud-sock": "virtqemud"}
"""Name of a socket, and the program that knows QEMU's domains behind it.

virtproxyd only passes on what comes to the first one.
"""
_FOR_READERS = "-ro"
_SYSTEM = ("/run/libvirt", "/var/run/libvirt")
_SECONDS = 2.0
"""How long one daemon may take; one that is stuck is left out."""
_STATES = ("", "running", "blocked", "paused", "shutdown", "shut off", "crashed", "suspended")
"""``VIR_DOMAIN_*`` in words."""


@dataclass(frozen=True, slots=True)
class Found:
    """A domain that runs: ``uri`` and ``name`` are what ``connect`` takes.

    ``pid``, ``program`` and ``user`` are those of its QEMU; 0 and empty where they are not
    known.
    """

    uri: str
    name: str
    state: str
    pid: int = 0
    program: str = ""
    user: str = ""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A daemon of this host: ``uri`` is its address.

    ``state`` is "answers", "no answer", "no permission" (for this user) or "asleep" (systemd
    starts it when somebody connects). ``version`` is libvirt's and ``emulator`` QEMU's, and
    ``domains`` counts those that run; empty and 0 unless it answers. ``why`` says what it said
    instead.
    """

    uri: str
    state: str
    version: str = ""
    emulator: str = ""
    domains: int = 0
    why: str = ""


def listening() -> list[str]:
    """The sockets of this host at which a libvirt daemon for QEMU can be reached, in order."""
    rows = (row for row in Sockets("self").unix if row.listening)
    return sorted({row.path for row in rows if os.path.basename(row.path) in _DAEMONS})


def sockets() -> list[str]:
    """Those of them that this user may connect to, and whose daemon runs."""
    return [path for path in _awake(listening()) if _way_in(path)]


def _awake(paths: Sequence[str]) -> list[str]:
    """The sockets whose daemon runs: one of the right name, of the socket's owner, that holds it.

    Where it cannot be told what a process holds, the first two have to do.
    """
    wanted = {_DAEMONS[os.path.basename(path)] for path in paths}
    seen = map(processes.process, processes.pids() if wanted else ())
    running = [
        (process.program, process.uid, processes.socket_inodes(process.pid))
        for process in seen
        if process.program in wanted
    ]
    table = Sockets("self")
    return [path for path in paths if any(_serves(daemon, path, table) for daemon in running)]


def _serves(
    daemon: tuple[str, int | None, frozenset[int] | None], path: str, table: Sockets
) -> bool:
    program, user, held = daemon
    if (program, user) != (_DAEMONS[os.path.basename(path)], _owner(path)):
        return False
    return held is None or any(row.inode in held for row in table.listening_at(path))


def _owner(path: str) -> int:
    try:
        return os.stat(path).st_uid
    except OSError:
        return -1


def _way_in(path: str) -> str:
    """The socket for who only looks, where there is one: at the other, polkit may ask.

    Empty where this user may use neither.
    """
    ways = (f"{path}{_FOR_READERS}", path)
    return next((way for way in ways if os.access(way, os.R_OK | os.W_OK)), "")


async def domains() -> list[Found]:
    """The domains that run, of every daemon that answers in time. Raises nothing."""
    try:
        load()
    except ConnectError:
        return []
    paths = await asyncio.to_thread(sockets)
    answers = await asyncio.gather(*(_ask(path, _running) for path in paths))
    qemus = await asyncio.to_thread(libvirt_place.qemus)
    return [
        _with_process(Found(address(path), name, state), uuid, qemus)
        for path, rows in zip(paths, answers, strict=True)
        if not isinstance(rows, str)
        for name, state, uuid in rows
    ]


async def daemons() -> list[Daemon]:
    """Every daemon of this host, and what it says of itself. Raises ConnectError without libvirt.

    None is started.
    """
    load()
    paths = await asyncio.to_thread(listening)
    awake = await asyncio.to_thread(_awake, paths)
    return list(await asyncio.gather(*(_daemon(path, path in awake) for path in paths)))


async def _daemon(path: str, awake: bool) -> Daemon:  # noqa: FBT001  one of two states
    uri = address(path)
    if not _way_in(path):
        return Daemon(uri, "no permission")
    if not awake:
        return Daemon(uri, "asleep")
    answer = await _ask(path, _about)
    if isinstance(answer, str):
        return Daemon(uri, "no answer", why=answer)
    version, emulator, count = answer
    return Daemon(uri, "answers", version, emulator, count)


async def _ask(path: str, question: Callable[[Any], T]) -> T | str:
    """The answer of the daemon behind a socket; why there is none, where there is none."""
    try:
        link = await Connection.open(_exact(path), _SECONDS, readonly=True)
    except ConnectError as err:
        return str(err)
    try:
        return await link.call(question, _SECONDS)
    except (Refused, ConnectError) as err:
        return str(err)
    finally:
        await link.close()


def _about(handle: Any) -> tuple[str, str, int]:
    """The versions of libvirt and of QEMU there, and how many domains run."""
    return _dotted(handle.getLibVersion()), _dotted(handle.getVersion()), handle.numOfDomains()


def _dotted(version: int) -> str:
    """``virConnectGetLibVersion`` and ``virConnectGetVersion`` in words."""
    return f"{version // 1_000_000}.{version // 1000 % 1000}.{version % 1000}"


def _running(handle: Any) -> list[tuple[str, str, str]]:
    """Name, state and uuid of every domain that runs, in one question."""
    libvirt = load()
    answer = handle.getAllDomainStats(
        libvirt.VIR_DOMAIN_STATS_STATE, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
    )
    return sorted(
        (domain.name(), _word(told.get("state.state", 0)), domain.UUIDString())
        for domain, told in answer
    )


def _word(state: int) -> str:
    return _STATES[state] if 0 <= state < len(_STATES) else str(state)


def _driver(path: str) -> str:
    """``system`` for a daemon of root's, ``session`` for a user's own."""
    if os.path.dirname(path) in _SYSTEM:
        return "system"
    return "system" if _owner(path) == 0 else "session"


def _exact(path: str) -> str:
    """The address for a look, which neither starts anything nor asks for a password."""
    return f"qemu+unix:///{_driver(path)}?socket={quote(_way_in(path) or path)}"


def address(path: str) -> str:
    """The address as people write it, where it has a short form."""
    if os.path.dirname(path) in _SYSTEM:
        return "qemu:///system"
    own = os.environ.get("XDG_RUNTIME_DIR") or os.path.expanduser("~/.cache")
    # For root, the session is the system's daemon.
    if os.geteuid() != 0 and os.path.dirname(path) == os.path.join(own, "libvirt"):
        return "qemu:///session"
    return f"qemu+unix:///{_driver(path)}?socket={quote(path)}"


def _with_process(found: Found, uuid: str, qemus: Mapping[str, Sequence[int]]) -> Found:
    """With its QEMU, unless several daemons have a domain of that uuid."""
    pids = qemus.get(uuid, ())
    if len(pids) != 1:
        return found
    process = processes.process(pids[0])
    user = processes.user_name(process.uid)
    return replace(found, pid=pids[0], program=process.program, user=user)
