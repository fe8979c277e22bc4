"""What the user asked for, in any of the ways to ask, as a list of targets. No I/O."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from numbers import Real
from typing import Any

from snapkit import naming
from snapkit.errors import PlanError
from snapkit.model import ENGINES, METADATA, QUIESCE, Graph, Problem, Target
from snapkit.script import Wishes

__all__ = ["Options", "Request", "read"]

_FILE_COLUMNS = ("snapshot_file", "snapshot-file", "target", "file")
_TARGET_KEYS = ("file", "snapshot_file", "snapshot-file", "format", "mode")


@dataclass(frozen=True, slots=True)
class Options:
    """The options of ``vm.plan()``, checked.

    Raises PlanError for what is no text, and for an engine or a way to quiesce that does not
    exist.
    """

    template: str = naming.TEMPLATE
    tag: str | None = None
    format: str = "qcow2"
    mode: str = "absolute-paths"
    engine: str = "prepared"
    quiesce: str = "no"
    name: str = ""
    description: str = ""
    metadata: str = "yes"

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if not isinstance(value, str) and (option.name, value) != ("tag", None):
                msg = f"{option.name} is {value!r}; it has to be text."
                raise PlanError(msg)
        for name, choices in (
            ("engine", ENGINES),
            ("quiesce", QUIESCE),
            ("metadata", METADATA),
        ):
            value = getattr(self, name)
            if value not in choices:
                msg = f"{name} is {value!r}; it has to be one of: {', '.join(choices)}."
                raise PlanError(msg)

    @property
    def remembered(self) -> tuple[str, ...]:
        """The options that were given and speak of what a backend remembers of a snapshot."""
        plain = Wishes()
        names = (wish.name for wish in fields(Wishes))
        return tuple(name for name in names if getattr(self, name) != getattr(plain, name))

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Options:
        """Options from keywords. Raises PlanError for an unknown one."""
        known = [option.name for option in fields(cls)]
        for name in given:
            if name not in known:
                msg = f"plan() has no option {name!r}; it has: {', '.join(known)}."
                raise PlanError(msg)
        return cls(**given)


@dataclass(frozen=True, slots=True)
class Request:
    """Targets and options as they will be checked. ``problems`` were found while reading."""

    targets: tuple[Target, ...]
    engine: str = "prepared"
    quiesce: str = "no"
    problems: tuple[Problem, ...] = ()
    wishes: Wishes = field(default_factory=Wishes)


def read(asked: object, graph: Graph, options: Options, tag: str) -> Request:
    """Targets from a dict, a list of devices, or an edited DataFrame.

    A device may be named by its ``-drive`` id, its qdev id or path, or its node-name; the
    target has the name that the tables show. What cannot be understood becomes a problem.
    """
    targets: list[Target] = []
    problems: list[Problem] = []
    for found in _targets(asked, graph, options, tag):
        if isinstance(found, Problem):
            problems.append(found)
        else:
            device = graph.find(found.device)
            targets.append(replace(found, device=device.name) if device else found)
    wishes = Wishes(options.name, options.description, options.metadata)
    return Request(tuple(targets), options.engine, options.quiesce, tuple(problems), wishes)


def _targets(asked: object, graph: Graph, options: Options, tag: str) -> Iterator[Target | Problem]:
    if hasattr(asked, "to_dict") and hasattr(asked, "columns"):
        yield from _from_frame(asked, options)
    elif isinstance(asked, Mapping):
        for device, value in asked.items():
            yield _from_value(str(device), value, options)
    elif isinstance(asked, str):
        yield _from_template(asked, graph, options, tag)
    elif isinstance(asked, Iterable):
        for item in asked:
            if isinstance(item, Target):
                yield _from_value(str(item.device), item, options)
            else:
                yield _from_template(str(item), graph, options, tag)
    else:
        yield _problem("", f"targets cannot be read from {type(asked).__name__}")


def _problem(device: str, message: str) -> Problem:
    remedy = "Give a dict of device and file, a list of devices, or an edited table"
    return Problem(device, "targets", "error", message, remedy)


def _from_value(device: str, value: object, options: Options) -> Target | Problem:
    if isinstance(value, Target):
        value = {"file": value.file, "format": value.format, "mode": value.mode}
    if isinstance(value, Mapping):
        unknown = [key for key in value if key not in _TARGET_KEYS]
        if unknown:
            return _problem(device, f"a target has no field {unknown[0]!r}")
        file = next((value[key] for key in _TARGET_KEYS[:3] if key in value), "")
        format_, mode = value.get("format", options.format), value.get("mode", options.mode)
    else:
        file, format_, mode = value, options.format, options.mode
    if isinstance(file, bytes):
        file = os.fsdecode(file)
    if not isinstance(file, str | os.PathLike):
        return _problem(device, f"the snapshot file is {type(file).__name__}, not a path")
    return Target(device, os.fsdecode(file), str(format_), str(mode))


def _from_template(name: str, graph: Graph, options: Options, tag: str) -> Target | Problem:
    device = graph.find(name)
    if device is None or not device.layers:
        # The checks say what is wrong with the device; a name cannot be derived from it.
        return Target(name, "", options.format, options.mode)
    try:
        file = naming.fill(options.template, device, tag=tag, format=options.format)
    except naming.TemplateError as err:
        known = ", ".join(f"{{{field}}}" for field in naming.FIELDS)
        remedy = f"Use these fields: {known}; or give the file by name"
        return Problem(name, "template", "error", str(err), remedy)
    return Target(name, file, options.format, options.mode)


def _from_frame(frame: Any, options: Options) -> Iterator[Target | Problem]:
    """A row a device. Rows without a file, or with ``include`` not true, are left out.

    In a table from ``vm.devices()`` the columns ``file`` and ``format`` speak of the disk as
    it is; there only ``snapshot_file`` and ``snapshot_format`` speak of the overlay.
    """
    of_devices = "virtual_size" in frame.columns
    names = [n for n in _FILE_COLUMNS[: 3 if of_devices else 4] if n in frame.columns]
    if not names:
        yield _problem("", "the table has no column 'snapshot_file'")
        return
    formats = ("snapshot_format",) if of_devices else ("snapshot_format", "format")
    if "device" in frame.columns:
        frame = frame.set_index("device")
    for device, row in zip(frame.index, frame.to_dict("records"), strict=True):
        included = _is_included(row.get("include", True))
        if included is None:
            yield _include_problem(str(device), row["include"])
        if not included or _is_missing(row[names[0]]):
            continue
        format_ = next((row[n] for n in formats if not _is_missing(row.get(n))), options.format)
        mode = options.mode if _is_missing(row.get("mode")) else row["mode"]
        value = {"file": row[names[0]], "format": format_, "mode": mode}
        yield _from_value(str(device), value, options)


def _is_included(value: object) -> bool | None:
    """Whether a row counts; None if that cannot be told. What a table leaves open does not.

    A table that went through a file has text here, and the text "False" would be true.
    """
    if _is_missing(value):
        return False
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    return words.get(str(value).strip().lower().removesuffix(".0"))


def _include_problem(device: str, value: object) -> Problem:
    message = f"the column 'include' says {value!r}, and it is not clear what that means"
    return Problem(device, "targets", "error", message, "Write True or False")


def _is_missing(value: object) -> bool:
    """None, NaN, NA and the empty text."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return True
    if type(value).__name__ in {"NAType", "NaTType"}:
        return True
    # Only NaN, of whatever kind of float, is not itself.
    return isinstance(value, Real) and bool(value != value)  # noqa: PLR0124
