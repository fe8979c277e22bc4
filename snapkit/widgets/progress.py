"""How far a run is, and how it ended, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from snapkit.errors import PlanError, SnapshotError
from snapkit.model import Outcome

if TYPE_CHECKING:
    from snapkit.engine import Phase

__all__ = ["Progress", "ended_by", "ended_well", "is_clean_cancel"]

_BEFORE = (None, "observe", "check")
"""The phases in which nothing has been sent that changes anything."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the run is, or how the last one ended. Empty before the first.

    ``words`` begin with the most important one. What to do about an error stands in the error.
    """

    active: bool = False
    phase: Phase | None = None
    words: str = ""
    outcome: Outcome | None = None


def ended_well(outcome: Outcome) -> Progress:
    """The end of a run that did what was asked for."""
    return Progress(words=f"ok: {outcome}.", outcome=outcome)


def ended_by(error: BaseException, phase: str | None, *, cancelled: bool) -> Progress:
    """The end of a run that raised in ``phase``. An error may hold what a look found."""
    outcome = getattr(error, "outcome", None)
    if is_clean_cancel(error, cancelled=cancelled):
        words = "Cancelled: no device was switched, and nothing is left behind."
    elif isinstance(error, PlanError) or phase in _BEFORE:
        words = "Refused: nothing was sent, and nothing has changed."
    elif not isinstance(error, SnapshotError):
        words = "Unknown: look at the VM before doing anything else."
    elif outcome is not None and outcome.switched:
        words = f"Look at the findings: {outcome}."
    else:
        words = "Failed: see the error."
    return Progress(words=words, outcome=outcome)


def is_clean_cancel(error: BaseException, *, cancelled: bool) -> bool:
    """Whether this is what the user asked for, with nothing left to report."""
    if not cancelled:
        return False
    if isinstance(error, SnapshotError):
        return error.outcome is not None and not error.outcome.findings
    return isinstance(error, PlanError)
