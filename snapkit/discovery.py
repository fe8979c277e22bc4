"""What there is to connect to on this host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from snapkit.backends import host

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["discover"]

_COLUMNS = ["uri", "domain", "name", "state", "backend", "pid", "program", "user"]


def discover() -> DataFrame:
    """Every QMP monitor of this host, a row each. Nothing is connected to.

    Columns: ``uri`` and ``domain`` (None for QMP) are what ``connect`` takes; ``name`` is the
    guest's name. ``state`` is "free", "in use" (another client is connected), "no
    permission" (for this user) or "gone" (nothing listens there any more). ``backend`` is
    "qmp". ``pid``, ``program`` and ``user`` are those of the process that offers it.

    Found from the processes that run, on Linux; elsewhere the table is empty.
    """
    import pandas as pd

    rows = [
        {
            "uri": monitor.uri,
            "domain": None,
            "name": monitor.name,
            "state": monitor.state,
            "backend": "qmp",
            "pid": monitor.pid,
            "program": monitor.program,
            "user": monitor.user,
        }
        for monitor in host.monitors()
    ]
    frame = pd.DataFrame(rows, columns=_COLUMNS)
    return frame.astype({"domain": object, "pid": "int64"})
