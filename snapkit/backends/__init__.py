"""The backends, and the one place where they are chosen.

A new backend is one module here that meets ``base.Backend``, and one line below.
"""

from __future__ import annotations

import os

from snapkit import address
from snapkit.backends.base import Backend
from snapkit.errors import ConnectError

__all__ = ["defined_images", "find_open", "open_backend"]


async def open_backend(
    uri: str | os.PathLike[str],
    domain: str | None,
    *,
    timeout: float,
    local: bool | None,
) -> Backend:
    """Connect to the VM at ``uri``. Raises ConnectError."""
    where = address.parse(uri)
    if isinstance(where, address.LibvirtAddress):
        from snapkit.backends.libvirt import LibvirtBackend

        return await LibvirtBackend.open(where.uri, domain, timeout=timeout, local=local)
    if domain is not None:
        msg = f"{where} is one VM's own monitor; a domain ({domain!r}) goes with a libvirt URI."
        raise ConnectError(msg)
    from snapkit.backends.qmp import QmpBackend

    return await QmpBackend.open(where, timeout=timeout, local=local)


def find_open(uri: str, domain: str | None) -> Backend | None:
    """A connection that this process has to that VM already; None if there is none."""
    if domain is not None:
        from snapkit.backends.libvirt import LibvirtBackend

        mine = (x for x in LibvirtBackend.opened() if (x.uri, x.domain) == (uri, domain))
        return next(mine, None)
    from snapkit.backends.qmp import QmpBackend

    return next((backend for backend in QmpBackend.opened() if backend.uri == uri), None)


async def defined_images(uri: str, domain: str | None, timeout: float) -> frozenset[str]:
    """The images that a VM which has ended would be started from, where somebody keeps that.

    Raises ConnectError.
    """
    if domain is None:
        return frozenset()
    from snapkit.backends import libvirt_definition

    return await libvirt_definition.images(uri, domain, timeout)
