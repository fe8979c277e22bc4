"""On what kind of file system a path is, read from Linux's ``/proc``."""

from __future__ import annotations

import os
import re

__all__ = ["is_on_network"]

_NETWORK = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|9p|afs|ceph|glusterfs|lustre|gpfs|ocfs2|gfs2|virtiofs|fuse\..*"
)
"""Kinds that other hosts may write to as well, or that may be ones on which they do."""
_ESCAPED = re.compile(r"\\([0-7]{3})")


def is_on_network(path: str) -> bool:
    """Whether a path is on a file system of another host. False where that cannot be read."""
    try:
        with open("/proc/self/mountinfo", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return False
    where = os.path.realpath(path)
    kind, longest = "", -1
    for line in lines:
        mount, _, source = line.partition(" - ")
        point = _ESCAPED.sub(lambda found: chr(int(found[1], 8)), mount.split()[4])
        inside = where == point or where.startswith(f"{point.rstrip('/')}/")
        # Of two mounts on one place, the later one is seen.
        if inside and len(point) >= longest:
            kind, longest = source.split()[0], len(point)
    return _NETWORK.fullmatch(kind) is not None
