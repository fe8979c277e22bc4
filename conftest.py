"""Of tests and notebooks alike: a journal of their own, and a stop at the first failed cell.

This stands in the root because it is also about ``notebooks/``, which is for readers.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile

import pytest
from nbval.plugin import IPyNbCell

FAILED = pytest.StashKey[str]()
JOURNAL = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Leave the user's own journal alone. A worker's environment is that of its controller.

    A shell starts what it puts into the background deaf to SIGINT, and what a test starts
    would inherit that.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if "SNAPKIT_JOURNAL" not in os.environ:
        directory = tempfile.mkdtemp(prefix="snapkit-journal-")
        config.stash[JOURNAL] = directory
        os.environ["SNAPKIT_JOURNAL"] = os.path.join(directory, "journal.sqlite")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove it with all that was written."""
    if directory := config.stash.get(JOURNAL, None):
        shutil.rmtree(directory, ignore_errors=True)


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
