"""A notebook stops at its first failed cell: the cells below it rely on those above.

This stands in the root because it is about ``notebooks/``, which is for readers.
"""

from __future__ import annotations

import pytest
from nbval.plugin import IPyNbCell

FAILED = pytest.StashKey[str]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out a cell below one that failed."""
    failed = item.parent.stash.get(FAILED, None) if item.parent else None
    if isinstance(item, IPyNbCell) and failed:
        pytest.skip(f"not run, because {failed} failed")


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Remember the cell that failed."""
    if isinstance(item, IPyNbCell) and item.parent and call.excinfo is not None:
        item.parent.stash.setdefault(FAILED, item.name)
