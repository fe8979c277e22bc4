"""What kind of file system a path is on."""

from __future__ import annotations

import builtins
import io
from pathlib import Path
from typing import Any

import pytest

from snapkit.mounts import is_on_network

TABLE = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /home rw,relatime shared:2 - nfs4 server:/home rw
31 30 8:2 / /home/local\040disk rw shared:3 - xfs /dev/sdb1 rw
32 22 0:41 / /mnt rw - ext4 /dev/sdc1 rw
33 32 0:42 / /mnt rw - fuse.sshfs host:/ rw
"""


@pytest.fixture
def mounted(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(path: Any, *options: Any, **more: Any) -> Any:
        if path == "/proc/self/mountinfo":
            return io.StringIO(TABLE.strip())
        return real(path, *options, **more)

    real = builtins.open
    monkeypatch.setattr(builtins, "open", opened)


@pytest.mark.parametrize(
    ("path", "network"),
    [
        ("/var/lib/x", False),
        ("/home/ann/.local/state/x", True),
        ("/home", True),
        ("/homes/ann", False),
        ("/home/local disk/x", False),
        ("/mnt/x", True),
    ],
)
def test_the_innermost_mount_decides(mounted: None, path: str, network: bool) -> None:
    assert is_on_network(path) is network


def test_a_temporary_directory_of_this_host_is_not_on_a_network(tmp_path: Path) -> None:
    assert not is_on_network(str(tmp_path))
