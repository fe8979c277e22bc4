"""Overlay file names from a template."""

from __future__ import annotations

import posixpath
import re
import string

from snapkit.model import Device

__all__ = ["FIELDS", "TEMPLATE", "TemplateError", "fill", "next_tag", "stem"]

TEMPLATE = "{directory}/{stem}.{tag}.{format}"
"""The default: beside the active image, with a tag that every disk of the set shares."""
FIELDS = ("directory", "stem", "tag", "format", "device", "depth")
"""What a template may use."""

_TAG = re.compile(r"\.snap\d+$")
_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:")
_WIDTH = re.compile(r"0?[0-9]?d?")


class TemplateError(ValueError):
    """A template that cannot be filled in; the message says why."""


def fill(template: str, device: Device, *, tag: str, format: str) -> str:  # noqa: A002  QEMU's word
    """The overlay's file name for one device.

    ``directory`` and ``stem`` come from the active image: ``/imgs/data.snap1.qcow2`` gives
    ``/imgs`` and ``data``. ``device`` has slashes replaced. ``depth`` counts the backing
    images that the overlay will have.

    Raises TemplateError for an unknown field, or when the image is no plain file.
    """
    if "/" in tag:
        msg = f"the tag {tag!r} holds a slash"
        raise TemplateError(msg)
    values = {
        "tag": tag,
        "format": format,
        "device": device.name.replace("/", "-"),
        "depth": device.depth + 1,
    }
    wanted = _wanted(template)
    if {"directory", "stem"} & wanted:
        if not device.file or _URL.match(device.file):
            image = device.file or "no image"
            msg = f"a name cannot be derived from {image!r}"
            raise TemplateError(msg)
        values["directory"] = posixpath.dirname(device.file)
        values["stem"] = stem(device.file)
    try:
        name = template.format(**values)
    except (ValueError, IndexError, KeyError) as err:
        msg = f"the template {template!r} cannot be filled in: {err}"
        raise TemplateError(msg) from err
    # Below the root, "{directory}/" has one slash too many.
    return f"/{name.lstrip('/')}" if name.startswith("//") else name


def _wanted(template: str) -> set[str]:
    """The fields that a template uses."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as err:
        msg = f"the template {template!r} cannot be read: {err}"
        raise TemplateError(msg) from err
    fields = [(name, spec or "", how) for _, name, spec, how in parts if name is not None]
    for name, spec, how in fields:
        if name not in FIELDS:
            msg = f"the template has the unknown field {{{name}}}"
            raise TemplateError(msg)
        if how or not _WIDTH.fullmatch(spec):
            msg = f"the template {template!r} may give only a width, such as {{depth:03}}"
            raise TemplateError(msg)
    return {name for name, _, _ in fields}


def stem(path: str) -> str:
    """The file's name without its last suffix and without the tag of an earlier snapshot."""
    name = posixpath.basename(path)
    root, _ = posixpath.splitext(name)
    return _TAG.sub("", root) or name


def next_tag(number: int) -> str:
    """The default tag: ``snap1``, ``snap2`` and so on."""
    return f"snap{number}"
