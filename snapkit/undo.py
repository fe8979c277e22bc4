"""Removing what a run made, also where its connection has gone."""

from __future__ import annotations

from snapkit.backends.base import Backend, LinkLost, Receipt
from snapkit.errors import ConnectError
from snapkit.telling import words

__all__ = ["RECONNECT_SECONDS", "STUCK_SECONDS", "undo"]

RECONNECT_SECONDS = 10.0
"""How long a VM whose connection has gone is tried to be reached again."""
STUCK_SECONDS = 60.0
"""How long a VM that has stopped answering is given before the undo is told as unfinished."""


async def undo(backend: Backend, receipt: Receipt, cause: BaseException) -> list[str]:
    """Remove what a receipt names; say what could not be removed. Raises nothing."""
    seconds = RECONNECT_SECONDS
    if isinstance(cause, LinkLost) and backend.connected:
        # It is stuck. What it was sent, and has not begun, goes with the connection.
        await backend.close()
        seconds = STUCK_SECONDS
    elif backend.connected:
        remarks = await _discard(backend, receipt)
        if backend.connected:
            return remarks
        seconds = STUCK_SECONDS
    return await _discard_anew(backend, receipt, seconds)


async def _discard_anew(backend: Backend, receipt: Receipt, seconds: float) -> list[str]:
    """Discard over a new connection, on which nothing from before is still to be done."""
    remarks: list[str] = []
    try:
        await backend.reconnect(seconds)
    except ConnectError as err:
        if not backend.gone:
            remarks.append(words(err))
    return remarks + await _discard(backend, receipt)


async def _discard(backend: Backend, receipt: Receipt) -> list[str]:
    try:
        return await backend.discard(receipt)
    except Exception as err:  # noqa: BLE001  what is left has to be named
        return [f"the undo failed ({words(err)}) and may have left {receipt}"]
