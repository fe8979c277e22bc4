"""Python as somebody without privileges."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOBODY = 65534

# Everything is loaded first: what root installed, an ordinary user may not be able to read.
BEGINNING = """
import os, sys, tempfile
import pandas, snapkit, snapkit.plan, snapkit.tables, snapkit.vm, snapkit.backends.qmp
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
place = tempfile.TemporaryDirectory(prefix="snapkit-journal-")
os.environ["SNAPKIT_JOURNAL"] = f"{place.name}/journal.sqlite"
"""


def as_ordinary_user(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script as an ordinary user: as this one, if that is one."""
    return subprocess.run(
        [sys.executable, "-c", BEGINNING + textwrap.dedent(script), *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )


def is_root() -> bool:
    return os.geteuid() == 0
