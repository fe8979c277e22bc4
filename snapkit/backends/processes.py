"""What a process of this host may reach and holds open, read from Linux's ``/proc``.

On other systems, and where reading is not allowed, the answer is empty or None.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from snapkit.backends.qemu_args import guest_name, split_program

__all__ = [
    "Process",
    "command_line",
    "descriptors",
    "environment",
    "has_ended",
    "has_open",
    "identity",
    "instance",
    "is_gone",
    "link",
    "open_files",
    "pids",
    "process",
    "same_mounts",
    "socket_inodes",
    "user_name",
]

_CAP_DAC_OVERRIDE = 1 << 1
_SOCKET = re.compile(r"socket:\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Process:
    """A process as far as it decides which files it can reach. None: not readable.

    ``uid``, ``gid`` and ``groups`` are those that file access is checked with.
    ``dac_override`` says whether permission bits do not bind it. ``name`` is the guest's
    name, empty without one.
    """

    pid: int
    program: str = ""
    name: str = ""
    uid: int | None = None
    gid: int | None = None
    groups: frozenset[int] | None = None
    dac_override: bool | None = None
    cwd: str | None = None


def process(pid: int) -> Process:
    """What is known about a process. Fields that cannot be read are None."""
    program, arguments = split_program(command_line(pid))
    status = _status(pid)
    uids, gids = status.get("Uid", "").split(), status.get("Gid", "").split()
    capabilities = status.get("CapEff")
    return Process(
        pid=pid,
        program=program or status.get("Name", ""),
        name=guest_name(arguments),
        # The fourth number is the one that file access is checked with.
        uid=int(uids[3]) if len(uids) == 4 else None,
        gid=int(gids[3]) if len(gids) == 4 else None,
        groups=frozenset(map(int, status["Groups"].split())) if "Groups" in status else None,
        dac_override=_dac_override(pid, capabilities) if capabilities else None,
        cwd=link(f"/proc/{pid}/cwd"),
    )


def open_files(pid: int) -> frozenset[tuple[int, int]] | None:
    """(device, inode) of every file that a process holds open; None if not allowed to look."""
    names = _descriptors(pid)
    if names is None:
        return None
    # Sockets, pipes and the like have a name without a leading slash.
    files = (name for name in names if (link(name) or "").startswith("/"))
    return frozenset(found for found in map(identity, files) if found)


def descriptors(pid: int) -> tuple[int | None, int | None]:
    """How many files a process may have open, and how many it has. None: not readable.

    No limit is None too.
    """
    names = _descriptors(pid)
    used = None if names is None else len(names)
    try:
        with open(f"/proc/{pid}/limits", errors="replace") as file:
            limits = [line.split() for line in file if line.startswith("Max open files")]
    except OSError:
        return None, used
    # The name has three words; then come the soft limit, which counts, and the hard one.
    soft = limits[0][3] if limits else ""
    return (int(soft) if soft.isdecimal() else None), used


def has_open(pid: int, path: str) -> bool | None:
    """Whether a process holds this very file open, by whatever name it opened it.

    None if that cannot be told: not allowed to look, or no file at ``path``.
    """
    wanted, held = identity(path), open_files(pid)
    return None if wanted is None or held is None else wanted in held


def has_ended(pid: int) -> bool:
    """Whether a process that was seen before is no more, or only waits to be forgotten."""
    return _status(pid).get("State", "X")[:1] in {"X", "Z"}


def instance(pid: int) -> str:
    """What tells a process from every other that had or will have its number, on any host.

    Machine, boot, pid namespace, pid, and when it started, in the kernel's ticks. Empty if it
    cannot be read.
    """
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as file:
            # The name in parentheses may hold anything; what is behind it are numbers.
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "/".join((*_here(), str(pid), fields[19]))


def is_gone(known: str) -> bool:
    """Whether the process of an ``instance`` has ended.

    False where that is not known, as of a process of another host or container.
    """
    parts = known.split("/")
    if len(parts) != 5 or not parts[3].isdecimal():
        return False
    machine, boot, namespace, pid, _ = parts
    here = _here()
    if boot != here[1]:
        # The same machine has been started anew since; of another one nothing is known.
        return bool(machine) and machine == here[0]
    if namespace != here[2]:
        return False
    return has_ended(int(pid)) or instance(int(pid)) != known


def _here() -> tuple[str, str, str]:
    """This machine, its boot, and the pid namespace; each empty where it has no name."""
    namespace = link("/proc/self/ns/pid") or ""
    return _line("/etc/machine-id"), _line("/proc/sys/kernel/random/boot_id"), namespace


def _line(path: str) -> str:
    try:
        with open(path) as file:
            return file.readline().strip()
    except OSError:
        return ""


def same_mounts(pid: int) -> bool | None:
    """Whether a process sees the file systems as this one does; None if not readable.

    That is: the same mount namespace and the same root directory.
    """
    theirs, ours = (link(f"/proc/{x}/ns/mnt") for x in (pid, "self"))
    if theirs is None or ours is None:
        return None
    return theirs == ours and identity(f"/proc/{pid}/root") == identity("/proc/self/root")


def socket_inodes(pid: int) -> frozenset[int] | None:
    """The inodes of the sockets that a process holds; None if not allowed to look."""
    names = _descriptors(pid)
    if names is None:
        return None
    found = (_SOCKET.fullmatch(link(name) or "") for name in names)
    return frozenset(int(match.group(1)) for match in found if match)


def pids() -> list[int]:
    """The ids of all processes that can be seen, in order."""
    try:
        return sorted(int(name) for name in os.listdir("/proc") if name.isdecimal())
    except OSError:
        return []


def command_line(pid: int) -> list[str]:
    """The words a process was started with; empty if not readable."""
    return _words(f"/proc/{pid}/cmdline")


def environment(pid: int) -> dict[str, str]:
    """The environment that a process was started with; empty if not readable."""
    pairs = (word.partition("=") for word in _words(f"/proc/{pid}/environ"))
    return {key: value for key, _, value in pairs}


def user_name(uid: int | None) -> str:
    """The name of a user, the number where it has none, empty for None."""
    if uid is None:
        return ""
    try:
        import pwd

        return pwd.getpwuid(uid).pw_name
    except (ImportError, KeyError):
        return str(uid)


def link(path: str) -> str | None:
    """What a symbolic link says; None if it cannot be read."""
    try:
        return os.readlink(path)
    except (OSError, ValueError):
        return None


def identity(path: str) -> tuple[int, int] | None:
    """(device, inode) of what is at ``path``; None if nothing is, or it cannot be seen."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _words(path: str) -> list[str]:
    try:
        with open(path, "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return []
    return [os.fsdecode(word) for word in words[:-1]]


def _descriptors(pid: int) -> list[str] | None:
    directory = f"/proc/{pid}/fd"
    try:
        return [f"{directory}/{name}" for name in os.listdir(directory)]
    except OSError:
        return None


def _dac_override(pid: int, capabilities: str) -> bool | None:
    if not int(capabilities, 16) & _CAP_DAC_OVERRIDE:
        return False
    theirs, ours = (link(f"/proc/{x}/ns/user") for x in (pid, "self"))
    # In a user namespace of its own the capability holds for some owners' files only.
    return True if theirs is not None and theirs == ours else None


def _status(pid: int) -> dict[str, str]:
    try:
        with open(f"/proc/{pid}/status", errors="replace") as file:
            lines = (line.partition(":") for line in file)
            return {key: value.strip() for key, _, value in lines}
    except OSError:
        return {}
