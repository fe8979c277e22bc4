"""Whatever goes wrong, and whenever: all disks are switched or none is, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.causes import (
    AnotherRecovers,
    ClientKilled,
    ConnectionCut,
    DeviceUnplugged,
    DirectoryRemoved,
    DiskFull,
    Fault,
    FileAppears,
    PermissionWithdrawn,
    QemuKilled,
    ReadOnly,
    SecondClient,
)
from tests.faults.conftest import NewClient, StartCell
from tests.faults.judge import play
from tests.faults.matrix import CELL, MOMENTS, REMARK
from tests.ordinary import is_root

ENDS: dict[type[Fault], str] = {
    QemuKilled: "old old old old new new old",
    ClientKilled: "old old old new new new old",
    AnotherRecovers: "new new new new new new old",
    ConnectionCut: "old old old new new new old",
    DiskFull: "old old new new new new old",
    # Who is not root is QEMU's own user, and loses sight of the files together with QEMU.
    PermissionWithdrawn: f"old {'new' if is_root() else 'old'} new new new new old",
    ReadOnly: "old new new new new new old",
    DeviceUnplugged: "old old new new new new old",
    SecondClient: "old old old new new new old",
    FileAppears: "old old new new new new old",
    DirectoryRemoved: "old old new new new new old",
}
"""Where the disks are at the end, for each moment. A fault that does not stand in the way of
the switch does not stop it."""


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("kind", ENDS, ids=lambda kind: kind.name)
def test_all_disks_or_none_and_nothing_lost(
    kind: type[Fault],
    moment: str,
    start_cell: StartCell,
    new_client: NewClient,
    record_property: Callable[[str, object], None],
) -> None:
    fault = kind()
    record_property(CELL, (fault.name, moment, "FAILED"))
    cell = start_cell(fault)
    end = play(cell, fault, moment, new_client(cell), new_client(cell))
    star = "*" if fault.remark else ""
    record_property(CELL, (fault.name, moment, f"{end}{star}"))
    if fault.remark:
        record_property(REMARK, f"* {fault.remark}")
    wanted = dict(zip(MOMENTS, ENDS[kind].split(), strict=True))
    assert end.startswith(wanted[moment]), end
