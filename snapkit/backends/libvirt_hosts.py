"""The libvirt daemons of this host that listen, and the domains that run there.

Only sockets on which somebody listens are connected to, by their paths: asked for by its
usual address, a user's libvirt would be started.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from snapkit.backends import libvirt_place, processes
from snapkit.backends.base import Refused
from snapkit.backends.libvirt_link import Connection, load
from snapkit.backends.sockets import Sockets
from snapkit.errors import ConnectError

__all__ = ["Found", "address", "domains", "sockets"]

_NAMES = ("libvirt-sock", "virtqemud-sock")
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


def sockets() -> list[str]:
    """The sockets of this host on which a libvirt daemon for QEMU listens, in order."""
    rows = (row for row in Sockets("self").unix if row.listening)
    paths = {row.path for row in rows if os.path.basename(row.path) in _NAMES}
    # A modular daemon and one that does all may both be there: one of them has the domains.
    return sorted(path for path in paths if os.access(path, os.R_OK | os.W_OK))


async def domains() -> list[Found]:
    """The domains that run, of every daemon that answers in time. Raises nothing."""
    try:
        load()
    except ConnectError:
        return []
    found = await asyncio.gather(*(_of_one(path) for path in await asyncio.to_thread(sockets)))
    qemus = await asyncio.to_thread(libvirt_place.qemus)
    return [_with_process(each, uuid, qemus) for some in found for each, uuid in some]


async def _of_one(path: str) -> list[tuple[Found, str]]:
    """The domains behind one socket, each with its uuid."""
    try:
        link = await Connection.open(_exact(path), _SECONDS, readonly=True)
    except ConnectError:
        return []
    try:
        rows = await link.call(_running, _SECONDS)
    except (Refused, ConnectError):
        return []
    finally:
        await link.close()
    uri = address(path)
    return [(Found(uri, name, state), uuid) for name, state, uuid in rows]


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
    try:
        return "system" if os.stat(path).st_uid == 0 else "session"
    except OSError:
        return "session"


def _exact(path: str) -> str:
    return f"qemu+unix:///{_driver(path)}?socket={quote(path)}"


def address(path: str) -> str:
    """The address as people write it, where it has a short form."""
    if os.path.dirname(path) in _SYSTEM:
        return "qemu:///system"
    own = os.environ.get("XDG_RUNTIME_DIR") or os.path.expanduser("~/.cache")
    # For root, the session is the system's daemon.
    if os.geteuid() != 0 and os.path.dirname(path) == os.path.join(own, "libvirt"):
        return "qemu:///session"
    return _exact(path)


def _with_process(found: Found, uuid: str, qemus: Mapping[str, Sequence[int]]) -> Found:
    """With its QEMU, unless several daemons have a domain of that uuid."""
    pids = qemus.get(uuid, ())
    if len(pids) != 1:
        return found
    process = processes.process(pids[0])
    user = processes.user_name(process.uid)
    return replace(found, pid=pids[0], program=process.program, user=user)
