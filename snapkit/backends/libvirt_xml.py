"""libvirt's XML: the disks of a running domain, and snapshots, read and written. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

# The documents are libvirt's own, which has no entities and no document types.
from xml.etree import ElementTree as ET

from snapkit.errors import SnapkitError
from snapkit.paths import unfit_for_xml

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

__all__ = [
    "Disk",
    "DiskWish",
    "Domain",
    "Image",
    "Moment",
    "Unreadable",
    "domain",
    "moment",
    "relocated",
    "snapshot",
]

_LAYOUT = str.maketrans("", "", "\n\t")
"""Characters that a description may have, and a file's name not."""
_LOCATIONS = {
    "file": "file",
    "block": "dev",
    "dir": "dir",
    "vhostuser": "path",
    "vhostvdpa": "dev",
}
"""Type of a source, and the attribute that says where it is."""


class Unreadable(SnapkitError):
    """A document that is not what libvirt writes."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image of a disk's chain. ``index`` is libvirt's number of it; None if it has none.

    ``kind`` is libvirt's word for where the image is: ``file``, ``block``, ``network``. What
    is not a path is written like QEMU's own addresses, without any secret.
    """

    kind: str
    file: str
    format: str
    index: int | None = None
    encrypted: bool = False


@dataclass(frozen=True, slots=True)
class Disk:
    """One ``<disk>``. ``images`` are its chain from the top down, none without a medium.

    ``device`` is ``disk``, ``cdrom``, ``floppy`` or ``lun``, and ``pflash`` for the firmware's
    memory, which is no ``<disk>``. ``job`` is the kind of the block job that copies it, empty
    without one.
    """

    target: str
    device: str = "disk"
    alias: str = ""
    read_only: bool = False
    shareable: bool = False
    transient: bool = False
    images: tuple[Image, ...] = ()
    job: str = ""


@dataclass(frozen=True, slots=True)
class Domain:
    """What is needed of a domain. ``id`` is None while it does not run."""

    name: str
    uuid: str
    id: int | None
    disks: tuple[Disk, ...]
    tpms: tuple[str, ...] = ()
    flash: tuple[Disk, ...] = ()
    """The firmware's code and its variables, where they are in flash memory."""

    @property
    def targets(self) -> tuple[str, ...]:
        """The disks that have an image."""
        return tuple(disk.target for disk in self.disks if disk.images)


@dataclass(frozen=True, slots=True)
class DiskWish:
    """What a snapshot does with one disk: its new image, or nothing where ``file`` is empty.

    ``disk`` is its target, or the image that it is on.
    """

    disk: str
    file: str = ""
    format: str = ""


@dataclass(frozen=True, slots=True)
class Moment:
    """One snapshot as libvirt remembers it: ``disks`` are (target, new image)."""

    name: str
    parent: str | None
    created: datetime
    state: str
    description: str
    disks: tuple[tuple[str, str], ...]


def _parse(text: str) -> Element:
    try:
        return ET.fromstring(text)  # noqa: S314  see the import
    except ET.ParseError as err:
        msg = f"libvirt gave a document that is no XML: {err}"
        raise Unreadable(msg) from None


def domain(text: str) -> Domain:
    """A domain's XML (``virDomainGetXMLDesc``). Raises Unreadable."""
    root = _parse(text)
    number = root.get("id", "")
    return Domain(
        name=root.findtext("name", ""),
        uuid=root.findtext("uuid", ""),
        id=int(number) if number.isdecimal() else None,
        disks=tuple(_disk(row) for row in root.iterfind("devices/disk")),
        tpms=tuple(_alias(row) or "tpm" for row in root.iterfind("devices/tpm")),
        flash=tuple(_flash(root)),
    )


def _flash(root: Element) -> Iterator[Disk]:
    """The memory of the firmware, under QEMU's names for it."""
    code, variables = root.find("os/loader"), root.find("os/nvram")
    if code is not None and code.get("type") == "pflash":
        image = Image("file", code.text or "", code.get("format", "raw"))
        yield _chip("pflash0", image, read_only=code.get("readonly") == "yes")
    if variables is not None:
        kind, source = variables.get("type", "file"), variables.find("source")
        file = variables.text or "" if source is None else _location(kind, source)
        yield _chip("pflash1", Image(kind, file, variables.get("format", "raw")), read_only=False)


def _chip(name: str, image: Image, *, read_only: bool) -> Disk:
    images = (image,) if image.file else ()
    return Disk(name, "pflash", alias=name, read_only=read_only, images=images)


def _disk(row: Element) -> Disk:
    target, mirror = row.find("target"), row.find("mirror")
    return Disk(
        target=target.get("dev", "") if target is not None else "",
        device=row.get("device", "disk"),
        alias=_alias(row),
        read_only=row.find("readonly") is not None,
        shareable=row.find("shareable") is not None,
        transient=row.find("transient") is not None,
        images=tuple(_images(row)),
        job=mirror.get("job", "copy") if mirror is not None else "",
    )


def _alias(row: Element) -> str:
    alias = row.find("alias")
    return alias.get("name", "") if alias is not None else ""


def _images(row: Element) -> Iterator[Image]:
    """The chain. The top image's format stands in ``<driver>``, the others' in ``<format>``."""
    driver = row.find("driver")
    format_ = driver.get("type", "") if driver is not None else ""
    layer: Element | None = row
    while layer is not None:
        source = layer.find("source")
        if source is None:
            return
        image = _image(layer, source, format_)
        if not image.file:
            return
        yield image
        layer = layer.find("backingStore")
        below = layer.find("format") if layer is not None else None
        format_ = below.get("type", "") if below is not None else ""


def _image(layer: Element, source: Element, format_: str) -> Image:
    """One image. The top one's number is its source's, the others' that of ``<backingStore>``."""
    kind = layer.get("type", "file")
    index = source.get("index") or layer.get("index") or ""
    places = (place.find("encryption") for place in (source, layer))
    key = next((place for place in places if place is not None), None)
    return Image(
        kind=kind,
        file=_location(kind, source),
        format=_format(format_ or "raw", key),
        index=int(index) if index.isdecimal() else None,
        encrypted=key is not None,
    )


def _format(said: str, key: Element | None) -> str:
    """QEMU's name of a format: to libvirt a bare LUKS image is an encrypted raw one."""
    return "luks" if said == "raw" and key is not None and key.get("format") == "luks" else said


def _location(kind: str, source: Element) -> str:
    """Where an image is, as one text; a path is one only for what has a path."""
    if kind in _LOCATIONS:
        return source.get(_LOCATIONS[kind], "")
    if kind == "volume":
        return f"volume:{source.get('pool', '')}/{source.get('volume', '')}"
    if kind == "nvme":
        return _nvme(source)
    return _network(source)


def _network(source: Element) -> str:
    """An address without user, password, cookies and query, of which each may be a secret."""
    protocol, name = source.get("protocol", ""), source.get("name", "").lstrip("/")
    host = source.find("host")
    if protocol == "rbd" or host is None:
        return f"{protocol}:{name}" if protocol else ""
    if socket := host.get("socket"):
        return f"{protocol}+unix:///{name}?socket={quote(socket)}"
    where, port = host.get("name", ""), host.get("port", "")
    where = f"[{where}]" if ":" in where else where
    return f"{protocol}://{where}{f':{port}' if port else ''}/{name}"


def _nvme(source: Element) -> str:
    address = source.find("address")
    if address is None:
        return ""
    domain, bus, slot, function = (
        int(address.get(name, "0"), 0) for name in ("domain", "bus", "slot", "function")
    )
    return f"nvme://{domain:04x}:{bus:02x}:{slot:02x}.{function}/{source.get('namespace', '1')}"


def relocated(disk: Disk, files: Sequence[str]) -> Disk:
    """A disk whose volumes have the names of their files, as the counters give them."""
    images = [
        replace(image, file=file) if image.kind == "volume" and file else image
        for image, file in zip(disk.images, files, strict=True)
    ]
    return replace(disk, images=tuple(images))


def snapshot(name: str, description: str, disks: Sequence[DiskWish]) -> str:
    """A ``<domainsnapshot>`` that names every disk, those too that it leaves alone.

    Raises SnapkitError for text that no XML can hold.
    """
    root = ET.Element("domainsnapshot")
    ET.SubElement(root, "name").text = _fit(name)
    if description:
        ET.SubElement(root, "description").text = _fit(description)
    listed = ET.SubElement(root, "disks")
    for wish in disks:
        if not wish.file:
            ET.SubElement(listed, "disk", {"name": _fit(wish.disk), "snapshot": "no"})
            continue
        where = {"name": _fit(wish.disk), "snapshot": "external", "type": "file"}
        row = ET.SubElement(listed, "disk", where)
        ET.SubElement(row, "driver", {"type": wish.format})
        ET.SubElement(row, "source", {"file": _fit(wish.file)})
    ET.indent(root)
    return ET.tostring(root, encoding="unicode")


def _fit(text: str) -> str:
    """The text, where XML can hold it. Raises SnapkitError."""
    if fault := unfit_for_xml(text.translate(_LAYOUT)):
        msg = f"{text!a} holds the character {fault!a}, which no XML can: choose other words."
        raise SnapkitError(msg)
    return text


def moment(text: str) -> Moment:
    """A snapshot's XML (``virDomainSnapshotGetXMLDesc``). Raises Unreadable."""
    root = _parse(text)
    seconds = root.findtext("creationTime", "")
    return Moment(
        name=root.findtext("name", ""),
        parent=root.findtext("parent/name"),
        created=datetime.fromtimestamp(int(seconds) if seconds.isdecimal() else 0, UTC),
        state=root.findtext("state", ""),
        description=root.findtext("description", ""),
        disks=tuple(_taken(root)),
    )


def _taken(root: Element) -> Iterator[tuple[str, str]]:
    for row in root.iterfind("disks/disk"):
        source = row.find("source")
        if row.get("snapshot") == "external" and source is not None:
            yield row.get("name", ""), _location(row.get("type", "file"), source)
