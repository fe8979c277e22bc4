"""Whether an image that is there already can be the overlay of a disk. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from snapkit.facts import ImageFacts
from snapkit.model import FORMATS, Finding, Layer, Severity, Target

__all__ = ["find"]


def find(
    target: Target, disk: Layer, image: ImageFacts | None, is_disk: Callable[[str], bool]
) -> Iterator[Finding]:
    """What stands in the way. ``is_disk`` says whether a file is the disk's own image."""
    if image is None:
        message = f"the header of {target.file} was not read: qemu-img is not installed"
        yield "warning", message, "QEMU will be asked when it runs; or install qemu-img"
    elif image.error:
        message = f"{target.file} cannot be read as an image: {image.error}"
        yield "error", message, _again(disk)
    else:
        yield from _fits(target, disk, image)
        yield from _stands_on(target, disk, image, is_disk)


def _again(disk: Layer) -> str:
    return f"Create it again over {disk.file} with qemu-img create"


def _fits(target: Target, disk: Layer, image: ImageFacts) -> Iterator[Finding]:
    """Format, size, and no data that would hide the disk's own."""
    if image.format != target.format:
        message = f"{target.file} has the format {image.format}, not {target.format}"
        choose = f"Choose the format {image.format}, or create it again"
        yield "error", message, choose if image.format in FORMATS else _again(disk)
    if image.virtual_size != disk.virtual_size:
        size = "smaller" if image.virtual_size < disk.virtual_size else "larger"
        sizes = f"{image.virtual_size} bytes, not {disk.virtual_size}"
        yield "error", f"{target.file} is {size} than the disk: {sizes}", _again(disk)
    if image.allocated_clusters:
        message = f"{target.file} already holds data, which the guest would see instead of its own"
        yield "warning", message, _again(disk)


def _stands_on(
    target: Target, disk: Layer, image: ImageFacts, is_disk: Callable[[str], bool]
) -> Iterator[Finding]:
    """The header names the disk's image, and what format it has."""
    header = f"the header of {target.file}"
    if not image.backing_file:
        message = f"{header} names no backing file; the disk would be lost at a restart"
        yield "error", message, _again(disk)
    elif not is_disk(image.full_backing_file or image.backing_file):
        message = f"{header} names the backing file {image.backing_file}, not {disk.file}"
        yield "error", message, _again(disk)
    elif image.backing_format is None and (image.format != "qed" or disk.format == "raw"):
        # Guessed from its content, which in a raw image is the guest's to choose. A qed
        # header has no room for another format than raw.
        severity: Severity = "error" if disk.format == "raw" else "warning"
        message = f"{header} does not record that its backing file is {disk.format}"
        yield severity, message, _again(disk)
    elif image.backing_format not in {None, disk.format}:
        message = f"{header} says that its backing file is {image.backing_format}"
        yield "error", f"{message}, not {disk.format}", _again(disk)
