"""What libvirt would start a domain from that has ended."""

from __future__ import annotations

from typing import Any

from snapkit.backends import libvirt_xml
from snapkit.backends.base import Refused
from snapkit.backends.libvirt_link import Connection, load
from snapkit.errors import ConnectError
from snapkit.printable import printable

__all__ = ["images"]


async def images(uri: str, name: str, timeout: float) -> frozenset[str]:
    """The images of a domain's definition; none if libvirt does not know it any more.

    Raises ConnectError.
    """
    link = await Connection.open(uri, timeout, readonly=True)
    try:
        text = await link.call(lambda handle: _definition(load(), handle, name), timeout)
    except Refused as err:
        msg = f"{printable(uri)} did not say what {name} is started from: {err}."
        raise ConnectError(msg) from None
    finally:
        await link.close()
    disks = libvirt_xml.domain(text).disks if text else ()
    return frozenset(image.file for disk in disks for image in disk.images)


def _definition(libvirt: Any, handle: Any, name: str) -> str:
    """The XML (``virDomainGetXMLDesc``); empty without such a domain."""
    try:
        return str(handle.lookupByName(name).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    except libvirt.libvirtError as err:
        # One that ends is forgotten at any moment.
        if err.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise
        return ""
