"""What the checks may know: the block graph, and the files where QEMU is.

Facts are gathered by a backend and written down here. The checks are pure functions of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from snapkit.model import ENGINES, Graph

__all__ = ["Facts", "FileFacts", "ImageFacts"]


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What an image's header says. ``error`` is why it could not be read.

    ``allocated_clusters`` counts what the image holds itself, ``cluster_size`` is in bytes;
    None is "not known" for both.
    """

    format: str = ""
    virtual_size: int = 0
    backing_file: str | None = None
    backing_format: str | None = None
    full_backing_file: str | None = None
    allocated_clusters: int | None = None
    cluster_size: int | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What is at a path where QEMU is.

    ``known`` is False where nobody could look: QEMU's files are not this host's.
    ``identity`` is (device, inode). ``writable`` and ``directory_writable`` speak of QEMU's
    user; None is "not known". ``reachable`` is False where QEMU's user may not enter a
    directory above. ``held`` says whether QEMU has this very file open, ``shared`` whether
    QEMU sees the same directory under that name; None is "not known" for both.
    ``locked`` says whether a process holds a lock of QEMU's kind on the file.
    ``file_system`` is the device number of the file system where the file is or would be,
    ``free_bytes`` what QEMU's user may still write there, quotas left aside.
    ``allocated_bytes`` is what the file takes there itself. None is "not known" for all.
    """

    path: str
    known: bool = False
    exists: bool = False
    kind: Literal["", "file", "directory", "device", "other"] = ""
    real_path: str = ""
    identity: tuple[int, int] | None = None
    directory_exists: bool = False
    directory_writable: bool | None = None
    read_only_file_system: bool = False
    writable: bool | None = None
    reachable: bool = True
    held: bool | None = None
    shared: bool | None = None
    locked: bool | None = None
    file_system: int | None = None
    free_bytes: int | None = None
    allocated_bytes: int | None = None
    image: ImageFacts | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that the checks may know: the graph, and the files where QEMU is.

    ``local`` says whether QEMU's files are this host's, ``locality`` how that is known.
    ``qemu_directory`` is QEMU's working directory and ``qemu_user`` whom it runs as, both
    empty if unknown.
    ``commands`` are the names of the commands that the VM understands. ``fd_limit`` is how
    many files QEMU may have open and ``fd_used`` how many it has; None is "not known" for
    both. ``tpm`` are the ids of the VM's TPMs.
    ``engines`` are the engines that the backend has, ``mixes`` says whether one snapshot may
    both create overlays and use some that are there, ``xml`` whether names of files are sent
    as XML. ``snapshots`` are the names of those that the backend remembers.
    """

    graph: Graph
    files: Mapping[str, FileFacts]
    local: bool = False
    locality: str = ""
    qemu_directory: str = ""
    qemu_user: str = ""
    commands: frozenset[str] = frozenset()
    agent: bool = False
    fd_limit: int | None = None
    fd_used: int | None = None
    tpm: tuple[str, ...] = ()
    engines: tuple[str, ...] = ENGINES
    mixes: bool = True
    xml: bool = False
    snapshots: tuple[str, ...] = ()

    def file(self, path: str) -> FileFacts:
        """The facts about a path; "not known" if it was not probed."""
        return self.files.get(path) or FileFacts(path)
