"""What a run says in words when it has not gone as planned. Pure."""

from __future__ import annotations

from snapkit.errors import SnapkitError
from snapkit.printable import printable
from snapkit.script import Script

__all__ = ["Cancelled", "Ended", "blamed", "ended", "failure", "recoverable", "short", "words"]

_LONGEST = 20_000
"""Characters of one message; names of devices and files in it are not ours."""


class Cancelled(SnapkitError):
    """The user asked to stop, and it was still time."""


class Ended(SnapkitError):
    """The VM has ended within the switch, and nothing was written to its overlays."""


def words(cause: BaseException) -> str:
    """An error without its full stop; one that is not of snapkit's making with its type."""
    text = str(cause).rstrip(".")
    if isinstance(cause, SnapkitError):
        return text
    return f"{type(cause).__name__}: {text}" if text else type(cause).__name__


def ended(text: str) -> str:
    """A sentence with its full stop."""
    return text if text.endswith("?") else f"{text}."


def short(text: str) -> str:
    """A message fit to be shown, whatever names are in it."""
    return printable(text, _LONGEST)


def blamed(text: str, script: Script) -> str:
    """Whom the refusal of a whole transaction is about. QEMU never says which action failed."""
    for overlay in script.overlays:
        names = (
            *(overlay.file, overlay.backing_file, overlay.device),
            *(overlay.base_node, overlay.node, overlay.file_node),
        )
        if any(f"'{name}'" in text for name in names if name):
            return overlay.device
    devices = [overlay.device for overlay in script.overlays]
    return devices[0] if len(devices) == 1 else f"one of {', '.join(devices)}"


def failure(cause: BaseException, remarks: list[str], number: int | None) -> str:
    """A run that switched nothing: why, and what became of what it made.

    ``remarks`` are what the undo could not do, and what else has changed; ``number`` is the
    journal's, where recovery has something left to do.
    """
    if isinstance(cause, Cancelled):
        begin = str(cause)
    else:
        device = getattr(cause, "device", "")
        begin = f"The snapshot failed. {f'{device}: ' if device else ''}{words(cause)}"
    if not remarks and isinstance(cause, Ended):
        return f"{ended(begin)} So the overlays were removed: its disks are the images that it had."
    if not remarks:
        return (
            f"{ended(begin)} Everything was undone: no device was switched, "
            "and no file of this run is left."
        )
    said = f"{ended(begin)} This run switched no device, but: {ended('; '.join(remarks))}"
    return said if number is None else f"{said} {recoverable(number)}"


def recoverable(number: int) -> str:
    """What to do about a run that could not be ended properly."""
    return (
        f"The journal has it as number {number}: snapkit.recover(), or `snapkit recover`, looks "
        "again and finishes it."
    )
