"""What can go wrong, as one small tree.

::

    SnapkitError              anything snapkit says on purpose; exit status 1
    ├── ConnectError          no connection, or it is gone
    ├── PlanError             refused: nothing that changes anything was sent
    ├── SnapshotError         it failed; ``outcome`` says what was found afterwards
    └── OutcomeUnknown        the connection went and nobody could look; exit status 3

Each message says what is wrong, which device it is about, and what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from snapkit.model import Outcome, Problem

__all__ = ["ConnectError", "OutcomeUnknown", "PlanError", "SnapkitError", "SnapshotError"]


class SnapkitError(Exception):
    """Base of every error that snapkit raises on purpose.

    ``exit_code`` is the terminal's exit status for it.
    """

    exit_code = 1


class ConnectError(SnapkitError):
    """There is no connection to the VM, or it has gone."""


class PlanError(SnapkitError):
    """The plan was refused. Nothing that changes anything was sent.

    ``problems`` holds what stands in the way, where that is known row by row.
    """

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class SnapshotError(SnapkitError):
    """The snapshot failed. The message says whether everything was undone.

    ``outcome`` is what a fresh look at the VM found afterwards; None if there was none.
    """

    def __init__(self, message: str, outcome: Outcome | None = None) -> None:
        super().__init__(message)
        self.outcome = outcome


class OutcomeUnknown(SnapkitError):
    """The connection went during the switch and nobody could look afterwards.

    All disks have moved to their overlays, or none has. Look at the VM before doing
    anything else. ``number`` is the journal's, which ``snapkit.recover`` finishes.
    """

    exit_code = 3

    def __init__(self, message: str, number: int | None = None) -> None:
        super().__init__(message)
        self.number = number
