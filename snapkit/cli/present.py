"""What runs on this host, for the doctor: monitors, libvirt's daemons, and who holds what.

Only the standard library is used, and parts of snapkit that need nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from snapkit.cli.part import Part

if TYPE_CHECKING:
    from snapkit.backends.host import Monitor
    from snapkit.backends.libvirt_hosts import Daemon

__all__ = ["daemons", "monitors"]


def monitors() -> Iterator[Part]:
    """The monitors of this host, and who holds those that are taken."""
    from snapkit.backends import host

    found = host.monitors()
    yield Part("QMP monitors", f"{len(found)} on this host", "your own VMs", required=False)
    for monitor in found:
        name = f" ({monitor.name})" if monitor.name else ""
        yield Part(
            f"- {monitor.uri or 'address unknown'}",
            f"{monitor.program}{name}, pid {monitor.pid}: {monitor.state}",
            "",
            cure=_advice(monitor),
            required=False,
        )


def _advice(monitor: Monitor) -> str:
    """What to do about a monitor that cannot be connected to."""
    if monitor.managed_by:
        return f"{monitor.managed_by} needs it: connect through {monitor.managed_by}"
    if monitor.state == "in use":
        return f"end {_client(monitor.uri)}, or give QEMU a second -qmp"
    if monitor.state == "no permission":
        return f"run as {monitor.user or 'the user that QEMU runs as'}"
    if monitor.state == "gone":
        return "its socket is not there any more: start QEMU again"
    return ""


def _client(uri: str) -> str:
    from snapkit.address import TcpAddress, UnixAddress, parse
    from snapkit.backends import host

    address = parse(uri)
    client = None
    if isinstance(address, UnixAddress):
        client = host.clients(address.path)
    elif isinstance(address, TcpAddress):
        client = host.clients((address.host, address.port))
    if client is None or client.pid is None:
        return "its client"
    return f"its client {client.program} (pid {client.pid})"


def daemons() -> Iterator[Part]:
    """The libvirt daemons of this host, and which of them answer. None is started."""
    from snapkit import loop
    from snapkit.backends import libvirt_hosts
    from snapkit.errors import ConnectError

    try:
        found = loop.call(libvirt_hosts.daemons())
    except ConnectError:
        count = len(libvirt_hosts.listening())
        said = f"{count} on this host, not asked" if count else "none on this host"
        yield Part("libvirt daemons", said, "your own domains", required=False)
        return
    answers = sum(daemon.state == "answers" for daemon in found)
    said = f"{len(found)} on this host, answering: {answers}" if found else "none on this host"
    yield Part("libvirt daemons", said, "your own domains", required=False)
    for daemon in found:
        yield Part(f"- {daemon.uri}", _said(daemon), "", cure=_cure(daemon), required=False)


def _said(daemon: Daemon) -> str:
    if daemon.state != "answers":
        return f"{daemon.state}: {daemon.why}" if daemon.why else daemon.state
    count = "1 domain runs" if daemon.domains == 1 else f"{daemon.domains} domains run"
    return f"libvirt {daemon.version}, QEMU {daemon.emulator}: {count}"


def _cure(daemon: Daemon) -> str:
    """What to do about a daemon that does not answer."""
    if daemon.state == "no permission":
        return "join the group of its socket (usermod -aG libvirt NAME), and log in again"
    if daemon.state == "asleep":
        return f"nothing: it starts when somebody connects (virsh -c {daemon.uri} list)"
    if daemon.state == "no answer":
        return "look whether the daemon is stopped or stuck, and start it again"
    return ""
