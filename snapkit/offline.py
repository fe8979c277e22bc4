"""What the files of a run say where its VM has ended, and nothing else can be asked."""

from __future__ import annotations

import os
from collections.abc import Sequence

from snapkit.backends import claims, headers, locks
from snapkit.backends.base import MadeFile, Receipt
from snapkit.script import Overlay

__all__ = [
    "are_some_there",
    "built_on",
    "can_tell",
    "in_use",
    "remove",
    "replaced",
    "there",
    "written",
]


def are_some_there(overlays: Sequence[Overlay]) -> bool:
    """Whether there is anything under the names of a run's overlays."""
    return any(os.path.lexists(overlay.file) for overlay in overlays)


def can_tell(receipt: Receipt, overlays: Sequence[Overlay]) -> bool:
    """Whether every overlay is there, and it is known what it was before the switch.

    One that is empty still is enough: no VM was ever on it, so none was on the others.
    """
    if any(claims.measure(made).size == 0 for made in there(receipt)):
        return True
    files = (*receipt.files, *receipt.reused)
    known = {made.path for made in _still(files)}
    return all(overlay.file in known for overlay in overlays)


def written(receipt: Receipt) -> list[str]:
    """The overlays of a run that hold data, and so are a guest's disks.

    What was never written to holds nothing that is not in the images below.
    """
    files = (*receipt.files, *receipt.reused)
    return [made.path for made in files if claims.was_written(made, receipt)]


def in_use(receipt: Receipt) -> list[str]:
    """The overlays of a run that another process has locked, as QEMU does with a disk."""
    files = (*receipt.files, *receipt.reused)
    return [made.path for made in _still(files) if locks.is_locked(made.path)]


def built_on(receipt: Receipt) -> dict[str, str]:
    """The files of a run on which another image beside them stands, and that image."""
    own = {os.path.realpath(made.path): made.path for made in receipt.files}
    found: dict[str, str] = {}
    for directory in {os.path.dirname(made.path) for made in receipt.files}:
        for name in _names(directory):
            other = os.path.join(directory, name)
            below = headers.backing_file(other)
            if below and (mine := own.get(os.path.realpath(below))):
                found[mine] = other
    return found


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def replaced(receipt: Receipt) -> set[str]:
    """The names of a run's files under which there is another file now."""
    known = (made for made in receipt.files if made.identity and not claims.is_ours(made))
    return {made.path for made in known if os.path.lexists(made.path)}


def there(receipt: Receipt) -> list[MadeFile]:
    """Those of a run's own files that there still are."""
    return _still(receipt.files)


def _still(files: Sequence[MadeFile]) -> list[MadeFile]:
    """Those files that are known, and still under their names."""
    return [made for made in files if made.identity and claims.is_ours(made)]


def remove(receipt: Receipt) -> list[str]:
    """Remove the files of a run whose VM has ended; say what could not be removed."""
    remarks = (claims.remove(made, ()) for made in receipt.files)
    return [remark for remark in remarks if remark]
