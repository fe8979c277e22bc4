"""Whether QEMU's files are this host's, and whom QEMU runs as.

A monitor on this host proves nothing: it may be forwarded from another one, and QEMU may see
other mounts. What counts as proof is that a QEMU process of this host holds open the very
files that the monitor names.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from snapkit.address import TcpAddress, UnixAddress
from snapkit.backends import host
from snapkit.backends.files import Owner
from snapkit.backends.processes import identity, instance

__all__ = ["ELSEWHERE", "Place", "find", "listener", "of_process"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where QEMU is. ``why`` says in one sentence how ``local`` is known.

    ``instance`` tells its process from every other; empty where it is not one of this host.
    """

    local: bool
    why: str
    pid: int | None = None
    instance: str = ""
    owner: Owner | None = None
    user: str = ""
    directory: str = ""


ELSEWHERE = Place(local=False, why="nobody has looked yet")
_OVERRULED = "the connection was made with this said beforehand"


def find(
    address: UnixAddress | TcpAddress, images: Iterable[str], *, overrule: bool | None
) -> Place:
    """Where the QEMU behind a monitor is. ``overrule`` replaces the verdict on its files."""
    pid = listener(address)
    if pid is None:
        why = f"no QEMU process of this host was found behind {address}"
        return Place(local=bool(overrule), why=why if overrule is None else _OVERRULED)
    return of_process(pid, images, overrule=overrule)


def of_process(pid: int, images: Iterable[str], *, overrule: bool | None) -> Place:
    """The place of a QEMU process of this host that names these images."""
    process = host.process(pid)
    if overrule is None:
        local, why = _proof(pid, process.cwd, images)
    else:
        local, why = overrule, _OVERRULED
    known = instance(pid)
    if not local:
        return Place(local=False, why=why, pid=pid, instance=known)
    user = host.user_name(process.uid)
    return Place(
        local=True,
        why=why,
        pid=pid,
        instance=known,
        owner=_owner(process),
        user=user,
        directory=process.cwd or "",
    )


def listener(address: UnixAddress | TcpAddress) -> int | None:
    """The pid of the QEMU of this host behind a monitor; None if none was found."""
    where = address.path if isinstance(address, UnixAddress) else (address.host, address.port)
    return host.listener(where)


def _proof(pid: int, directory: str | None, images: Iterable[str]) -> tuple[bool, str]:
    held = host.open_files(pid)
    if held is not None:
        named = [os.path.join(directory or "/", name) for name in images if _is_a_path(name)]
        for path in named:
            if identity(path) in held:
                return True, f"QEMU (pid {pid}) on this host has {path} open"
        if any(map(os.path.isabs, named)) and not any(identity(path) for path in named):
            return False, f"QEMU (pid {pid}) has other files than this host shows"
    if host.same_mounts(pid):
        return True, f"QEMU (pid {pid}) sees the same mounts as this process"
    return False, f"it cannot be proved that QEMU (pid {pid}) sees the files of this host"


def _is_a_path(name: str) -> bool:
    """Whether this is a file's name in full. QMP shows bytes that are no UTF-8 as U+FFFD."""
    return ":" not in name.partition("/")[0] and "\ufffd" not in name and bool(name)


def _owner(process: host.Process) -> Owner | None:
    if process.uid is None or process.gid is None:
        return None
    return Owner(
        uid=process.uid,
        gid=process.gid,
        groups=process.groups or frozenset(),
        all_powerful=process.uid == 0 if process.dac_override is None else process.dac_override,
    )
