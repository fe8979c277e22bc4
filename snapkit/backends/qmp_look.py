"""Files that cannot be looked at from here, seen with QEMU's own eyes.

QMP has no command for it, so QEMU is asked to open things, in ways that can do no harm.
``/imgs/a/.`` can never be opened as an image, but how QEMU refuses it tells whether
``/imgs/a`` exists. Opening ``/imgs/a`` itself would tell it too; on a pipe, though, QEMU
would wait for a writer, and the guest with it.
"""

from __future__ import annotations

import posixpath
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Literal

from snapkit.backends.base import Refused
from snapkit.facts import FileFacts, ImageFacts
from snapkit.model import FORMATS

__all__ = ["PREFIX", "look"]

PREFIX = "snapkit-look-"
"""How the nodes are called with which QEMU looks; each is closed at once."""

Execute = Callable[[str, Mapping[str, object]], Awaitable[Any]]
_What = Literal["nothing", "directory", "file", "unknown"]


async def look(execute: Execute, path: str, *, header: bool = False) -> FileFacts:
    """What QEMU finds at a path; with ``header``, also what the image there says.

    ``execute`` sends one command and raises Refused with QEMU's words.
    """
    what = await _what_is(execute, path)
    if what == "unknown":
        return FileFacts(path)
    above = await _what_is(execute, posixpath.dirname(path)) if what == "nothing" else "directory"
    image = await _image(execute, path) if header and what == "file" else None
    return FileFacts(
        path=path,
        known=True,
        exists=what != "nothing",
        kind="" if what == "nothing" else what,
        # What QEMU does not say, it says when it creates the file.
        directory_exists=above in {"directory", "unknown"},
        image=image,
    )


async def _what_is(execute: Execute, path: str) -> _What:
    arguments = {"driver": "file", "node-name": _free_name(), "filename": f"{path}/."}
    try:
        await execute("blockdev-add", arguments)
    except Refused as err:
        words = str(err)
    else:
        return "unknown"
    if "No such file or directory" in words:
        return "nothing"
    if "Not a directory" in words:
        return "file"
    return "directory" if "regular file" in words or "Is a directory" in words else "unknown"


async def _image(execute: Execute, path: str) -> ImageFacts:
    """Open an image that is meant to become an overlay, read its header, and close it."""
    file, top = _free_name(), _free_name()
    plain = {"driver": "file", "node-name": file, "filename": path, "locking": "off"}
    added: list[str] = []
    try:
        await execute("blockdev-add", plain)
        added.append(file)
        await _open_any(execute, {"node-name": top, "file": file})
        added.append(top)
        rows = await execute("query-named-block-nodes", {"flat": True})
        return _header(next(row["image"] for row in rows if row["node-name"] == top))
    except Refused as err:
        return ImageFacts(error=str(err))
    finally:
        for name in reversed(added):
            with suppress(Refused):
                await execute("blockdev-del", {"node-name": name})


async def _open_any(execute: Execute, arguments: dict[str, object]) -> None:
    """Open as the first format that fits. Nothing is written: the node is read-only."""
    for last, driver in enumerate(FORMATS, 1 - len(FORMATS)):
        options = {"driver": driver, "read-only": True, "backing": None}
        try:
            await execute("blockdev-add", arguments | options)
        except Refused:
            if last == 0:
                msg = f"it is neither {' nor '.join(FORMATS)}"
                raise Refused(msg) from None
        else:
            return


def _header(image: dict[str, Any]) -> ImageFacts:
    return ImageFacts(
        format=image["format"],
        virtual_size=image["virtual-size"],
        backing_file=image.get("backing-filename"),
        backing_format=image.get("backing-filename-format"),
        full_backing_file=image.get("full-backing-filename"),
        cluster_size=image.get("cluster-size"),
    )


def _free_name() -> str:
    return f"{PREFIX}{secrets.token_hex(6)}"
