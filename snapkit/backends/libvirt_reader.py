"""Reading a domain from libvirt. All of it blocks; errors are libvirt's own."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from snapkit.backends import libvirt_graph, libvirt_xml
from snapkit.backends.libvirt_graph import BlockJob, LayerStats
from snapkit.backends.libvirt_xml import Domain, Moment
from snapkit.printable import printable

__all__ = ["Missing", "choose", "moments", "names", "read", "running"]

_NAMES_SHOWN = 20
_READINGS = 20
_LARGEST_ID = 2**31 - 1
_JOBS = ("unknown", "pull", "copy", "commit", "active-commit", "backup")
"""``VIR_DOMAIN_BLOCK_JOB_TYPE_*`` in words."""


class Missing(Exception):
    """There is no such domain, or it does not run; the message is a whole sentence."""


def choose(libvirt: Any, handle: Any, wanted: str | None) -> Any:
    """The running domain of that name, uuid or id; without one, the only one that runs.

    Raises Missing.
    """
    found = _find(libvirt, handle, wanted) if wanted else _only(libvirt, handle)
    if not found.isActive():
        msg = (
            f"The domain {found.name()!r} does not run: start it (virsh start), or choose another. "
            f"{_running(libvirt, handle)}"
        )
        raise Missing(msg)
    return found


def _find(libvirt: Any, handle: Any, wanted: str) -> Any:
    ways = [handle.lookupByName, handle.lookupByUUIDString]
    if "\0" in wanted or not _is_utf8(wanted):
        ways = []
    elif wanted.isascii() and wanted.isdecimal() and int(wanted) <= _LARGEST_ID:
        ways.append(lambda text: handle.lookupByID(int(text)))
    # What is no uuid at all is an error of its own.
    absent = {libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_INVALID_ARG}
    for way in ways:
        try:
            return way(wanted)
        except libvirt.libvirtError as err:
            if err.get_error_code() not in absent or not handle.isAlive():
                raise
    msg = f"There is no domain '{printable(wanted)}', neither by name, uuid nor id. "
    raise Missing(msg + _running(libvirt, handle))


def _only(libvirt: Any, handle: Any) -> Any:
    domains = handle.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
    if len(domains) == 1:
        return domains[0]
    if domains:
        msg = f"Say which domain, after the address. {_running(libvirt, handle)}"
    else:
        msg = "No domain runs there: start one (virsh start)."
    raise Missing(msg)


def _running(libvirt: Any, handle: Any) -> str:
    names = running(libvirt, handle)
    if not names:
        return "No domain runs there."
    more = f", and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"These run: {', '.join(map(printable, names[:_NAMES_SHOWN]))}{more}."


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def running(libvirt: Any, handle: Any) -> list[str]:
    """The names of the domains that run."""
    domains = handle.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
    return sorted(domain.name() for domain in domains)


def read(
    libvirt: Any, handle: Any, domain: Any, targets: Collection[str] = (), *, counters: bool
) -> tuple[Domain, list[LayerStats], list[BlockJob]]:
    """One reading of a domain: its XML, its layers' counters if wanted, its block jobs.

    ``targets`` are the disks as far as they are known from before. The counters take libvirt
    longer than all the rest: it asks QEMU about every layer.

    The question for block jobs comes first: libvirt lets it wait until a snapshot that is
    under way has ended, and then the XML is what it left.
    """
    asked = targets or libvirt_xml.domain(domain.XMLDesc(0)).targets
    known = {target: _job(libvirt, domain, target) for target in asked}
    told = libvirt_xml.domain(domain.XMLDesc(0))
    known |= {new: _job(libvirt, domain, new) for new in told.targets if new not in known}
    jobs = [job for target in told.targets if (job := known[target])]
    return told, _counters(libvirt, handle, domain) if counters else [], jobs


def _job(libvirt: Any, domain: Any, target: str) -> BlockJob | None:
    try:
        answer = domain.blockJobInfo(target, 0)
    except libvirt.libvirtError as err:
        if err.get_error_code() in {libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_INVALID_ARG}:
            # A driver without block jobs, and a disk that was unplugged just now.
            return None
        raise
    if not answer:
        return None
    kind = answer.get("type", 0)
    word = _JOBS[kind] if 0 <= kind < len(_JOBS) else str(kind)
    return BlockJob(target, word, answer.get("cur", 0), answer.get("end", 0))


def _counters(libvirt: Any, handle: Any, domain: Any) -> list[LayerStats]:
    try:
        answers = handle.domainListGetStats(
            [domain],
            libvirt.VIR_DOMAIN_STATS_BLOCK,
            libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_BACKING,
        )
    except libvirt.libvirtError as err:
        if err.get_error_code() in {libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_INVALID_ARG}:
            # A driver without these counters shows chains without sizes.
            return []
        raise
    return libvirt_graph.layer_stats(answers[0][1]) if answers else []


def names(domain: Any) -> tuple[str, ...]:
    """The names of the domain's snapshots (``virDomainListAllSnapshots``)."""
    return tuple(one.getName() for one in domain.listAllSnapshots(0))


def moments(libvirt: Any, domain: Any) -> tuple[list[Moment], str]:
    """The domain's snapshots, parents first, and the name of the current one.

    Each is asked for by itself, so others may take and delete some meanwhile.
    """
    gone = {libvirt.VIR_ERR_NO_DOMAIN_SNAPSHOT, libvirt.VIR_ERR_INVALID_ARG}
    for _ in range(_READINGS):
        try:
            return _moments(libvirt, domain)
        except libvirt.libvirtError as err:
            if err.get_error_code() not in gone:
                raise
    return _moments(libvirt, domain)


def _moments(libvirt: Any, domain: Any) -> tuple[list[Moment], str]:
    flags = getattr(libvirt, "VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL", 0)
    found = [libvirt_xml.moment(one.getXMLDesc(0)) for one in domain.listAllSnapshots(flags)]
    current = domain.snapshotCurrent().getName() if domain.hasCurrentSnapshot() else ""
    return found, current
