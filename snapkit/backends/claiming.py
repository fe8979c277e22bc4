"""The overlay files of a script, on the host where they are: claimed, measured, opened offline.

What is the same whoever fills the files, QEMU over QMP or libvirt.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import filterfalse

from snapkit.backends import claims, files, headers
from snapkit.backends.base import MadeFile, Receipt, Refused, Unseen
from snapkit.backends.locality import Place
from snapkit.script import Overlay, Script

__all__ = ["claim", "confirm", "look", "measure"]


async def claim(overlays: Sequence[Overlay], place: Place, receipt: Receipt) -> None:
    """Make the files where we can; else note that QEMU will make them.

    Each is written down before its name is there. Raises Refused.
    """
    if place.local:
        await asyncio.to_thread(_claim_all, overlays, place, receipt)
    else:
        receipt.files[:] = [MadeFile(overlay.file, None) for overlay in overlays]
        await asyncio.to_thread(receipt.keep, receipt)


async def measure(place: Place, receipt: Receipt) -> None:
    """Note and write down what the files are now, those too that QEMU has made."""
    await asyncio.to_thread(_measure, place, receipt)


async def confirm(script: Script, place: Place, receipt: Receipt) -> None:
    """Raises Refused if a file of the receipt is another one under its name now."""
    if not place.local:
        return
    wrong = await asyncio.to_thread(lambda: [*filterfalse(claims.is_ours, receipt.files)])
    if wrong:
        devices = {overlay.file: overlay.device for overlay in script.overlays}
        msg = f"{wrong[0].path} is no longer the file that was made for this run"
        raise Refused(msg, devices.get(wrong[0].path, ""))


async def look(overlays: Sequence[Overlay], place: Place) -> list[str | Unseen]:
    """Open each overlay's chain offline; say what is wrong with it, or nothing."""
    if not place.local:
        return [Unseen("QEMU's files are not this host's") for _ in overlays]
    return await asyncio.to_thread(lambda: [*map(_header, overlays)])


def _measure(place: Place, receipt: Receipt) -> None:
    if place.local:
        for kept in (receipt.files, receipt.reused):
            kept[:] = map(claims.measure, kept)
        # What cannot be seen was not measured either.
        receipt.prepared = receipt.prepared and all(map(claims.is_ours, receipt.files))
    receipt.keep(receipt)


def _claim_all(overlays: Sequence[Overlay], place: Place, receipt: Receipt) -> None:
    opened: list[claims.Claim] = []
    try:
        _open_all(overlays, place, opened)
        receipt.files[:] = saved = [claim.made for claim in opened]
        receipt.keep(receipt)
        for overlay, each in zip(overlays, opened, strict=True):
            with _blaming(overlay.device):
                each.take()
    finally:
        # What has not got its name is gone with its descriptor.
        receipt.files[:] = [claim.made for claim in opened if claim.taken]
        for each in opened:
            each.close()
    if receipt.files != saved:
        receipt.keep(receipt)


def _open_all(overlays: Sequence[Overlay], place: Place, opened: list[claims.Claim]) -> None:
    """Make all files without their names. ``opened`` has those that were made, in any case."""
    for overlay in overlays:
        directory = os.path.dirname(overlay.file)
        if place.pid is not None and files.is_shared(directory, place.pid) is False:
            msg = (
                f"QEMU (pid {place.pid}) sees another directory at {directory} than this host. "
                "Connect with local=False"
            )
            raise Refused(msg, overlay.device)
        mode = claims.mode_over(overlay.backing_file)
        with _blaming(overlay.device):
            opened.append(claims.open_claim(overlay.file, place.owner, mode))


@contextmanager
def _blaming(device: str) -> Iterator[None]:
    """Say whom a refusal is about."""
    try:
        yield
    except Refused as err:
        raise Refused(str(err), device) from err


def _header(overlay: Overlay) -> str | Unseen:
    chain = headers.chain(overlay.file, overlay.format)
    if chain is None:
        return Unseen("qemu-img is not installed")
    if isinstance(chain, str):
        return f"{overlay.file} does not open offline: {chain}"
    names = [(os.path.realpath(file), format_) for file, format_ in chain]
    wanted = (os.path.realpath(overlay.backing_file), overlay.backing_format)
    if names[1:2] != [wanted]:
        found = f"{chain[1][0]} ({chain[1][1]})" if len(chain) > 1 else "nothing"
        return (
            f"the header of {overlay.file} names {found} as its backing file, "
            f"not {overlay.backing_file} ({overlay.backing_format})"
        )
    return ""
