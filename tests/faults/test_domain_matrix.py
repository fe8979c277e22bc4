"""The same faults and some more, on a libvirt domain: the same has to be so at the end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.causes import (
    AnotherRecovers,
    ClientKilled,
    DirectoryRemoved,
    DiskFull,
    Fault,
    FileAppears,
    PermissionWithdrawn,
    QemuKilled,
    ReadOnly,
)
from tests.faults.conftest import NewClient, StartDomainCell
from tests.faults.domain_causes import (
    DaemonAway,
    DaemonRestarted,
    DiskDetached,
    LinkCut,
    QemuQuits,
    SecondSnapkit,
    StartedAnew,
    Undefined,
    VirshSnapshot,
)
from tests.faults.judge import play
from tests.faults.matrix import DOMAIN_CELL, DOMAIN_MOMENTS, REMARK

ENDS: dict[type[Fault], str] = {
    # Asked of a domain that is shut off, libvirt puts what it is to be started from on overlays.
    QemuKilled: "old old old new old old new new new old",
    QemuQuits: "old old old new old old new new new old",
    DaemonRestarted: "old old old old old new new new new old",
    DaemonAway: "old old old old old new new new new old",
    ClientKilled: "old old old old new new new new new old",
    LinkCut: "old old old old new new new new new old",
    # The call knows a domain by its uuid, so what was started after the last look is switched.
    StartedAnew: "old old old new old old new new new old",
    # libvirt undefines no domain of which it is taking a snapshot.
    Undefined: "new new new new - - new new new old",
    VirshSnapshot: "old old old old new new new new new old",
    SecondSnapkit: "old old old old new new new new new old",
    # After the plan there is no run yet that anybody could recover.
    AnotherRecovers: "- new new new new new new new new old",
    DiskFull: "old old old old new new new new new old",
    PermissionWithdrawn: "old old old old new new new new new old",
    ReadOnly: "old old old old new new new new new old",
    DiskDetached: "old old old old new new new new new old",
    FileAppears: "old old old old new new new new new old",
    DirectoryRemoved: "old old old old new new new new new old",
}
"""Where the disks are at the end, for each moment. A fault that does not stand in the way of
the switch does not stop it. What cannot be made is "-"."""
CELLS = [
    pytest.param(kind, moment, end, id=f"{kind.name}-{moment}")
    for kind, ends in ENDS.items()
    for moment, end in zip(DOMAIN_MOMENTS, ends.split(), strict=True)
    if end != "-"
]


@pytest.mark.parametrize(("kind", "moment", "wanted"), CELLS)
def test_all_disks_of_a_domain_or_none_and_nothing_lost(
    kind: type[Fault],
    moment: str,
    wanted: str,
    start_domain_cell: StartDomainCell,
    new_client: NewClient,
    record_property: Callable[[str, object], None],
) -> None:
    fault = kind()
    record_property(DOMAIN_CELL, (fault.name, moment, "FAILED"))
    cell = start_domain_cell(fault)
    end = play(cell, fault, moment, new_client(cell), new_client(cell))
    star = "*" if fault.remark else ""
    record_property(DOMAIN_CELL, (fault.name, moment, f"{end}{star}"))
    if fault.remark:
        record_property(REMARK, f"* {fault.remark}")
    assert end.startswith(wanted), end
