"""What there is to connect to on this host."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from snapkit import loop
from snapkit.backends import host, libvirt_hosts

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["discover"]

_COLUMNS = ["uri", "domain", "name", "state", "backend", "pid", "program", "user"]


def discover() -> DataFrame:
    """What ``connect`` takes on this host: every domain that runs, and every other QMP monitor.

    Columns: ``uri`` and ``domain`` (None for QMP) are what ``connect`` takes; ``name`` is the
    guest's name. ``backend`` is "qmp" or "libvirt". ``state`` of a monitor is "free", "in
    use" (another client is connected), "no permission" (for this user) or "gone" (nothing
    listens there any more); that of a domain is libvirt's, such as "running" or "paused".
    ``pid``, ``program`` and ``user`` are those of QEMU's process, 0 and empty where unknown.
    The monitor that libvirt holds of a domain is left out: the domain stands for it.

    Found from the processes that run and the sockets on which somebody listens, on Linux;
    elsewhere the table is empty. No monitor is connected to, and no daemon is started. Each
    libvirt is asked once, over a connection for reading; one that does not answer within 2 s
    is left out.
    """
    import pandas as pd

    domains = list(_domains())
    rows = [*_monitors({row["pid"] for row in domains}), *domains]
    frame = pd.DataFrame(rows, columns=_COLUMNS).astype({"pid": "int64"})
    # Among names pandas would make NaN of None.
    frame["domain"] = pd.Series([row["domain"] for row in rows], dtype=object)
    return frame


def _monitors(of_domains: Collection[int]) -> Iterator[dict[str, Any]]:
    """The monitors, without those that libvirt holds of the QEMUs that are domains here."""
    for monitor in host.monitors():
        if monitor.managed_by and monitor.pid in of_domains:
            continue
        yield {
            "uri": monitor.uri,
            "domain": None,
            "name": monitor.name,
            "state": monitor.state,
            "backend": "qmp",
            "pid": monitor.pid,
            "program": monitor.program,
            "user": monitor.user,
        }


def _domains() -> Iterator[dict[str, Any]]:
    for found in loop.call(libvirt_hosts.domains()):
        yield {
            "uri": found.uri,
            "domain": found.name,
            "name": found.name,
            "state": found.state,
            "backend": "libvirt",
            "pid": found.pid,
            "program": found.program,
            "user": found.user,
        }
