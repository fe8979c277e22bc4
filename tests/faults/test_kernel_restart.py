"""A kernel that is restarted in the middle of a snapshot; the new one recovers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.faults.causes import Fault
from tests.faults.conftest import StartCell
from tests.faults.judge import play
from tests.faults.kernel import Kernel, KernelAskedToRestart, KernelRestarted
from tests.faults.matrix import CELL, MOMENTS

ENDS: dict[type[Fault], str] = {
    KernelRestarted: "old old old new new new old",
    KernelAskedToRestart: "old old new new new new old",
}


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """One kernel for all: each cell leaves a new one behind."""
    started = Kernel(tmp_path_factory.mktemp("kernel"))
    yield started
    started.close()


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("kind", ENDS, ids=lambda kind: kind.name)
def test_all_disks_or_none_and_the_next_kernel_recovers(
    kind: type[Fault],
    moment: str,
    start_cell: StartCell,
    kernel: Kernel,
    record_property: Callable[[str, object], None],
) -> None:
    fault = kind()
    record_property(CELL, (fault.name, moment, "FAILED"))
    end = play(start_cell(fault), fault, moment, kernel, kernel)
    record_property(CELL, (fault.name, moment, end))
    wanted = dict(zip(MOMENTS, ENDS[kind].split(), strict=True))
    assert end.startswith(wanted[moment]), end
