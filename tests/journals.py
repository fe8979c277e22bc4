"""Runs that end at a chosen moment, as by ``kill -9``, and what the journal says of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from snapkit.entries import Start
from snapkit.script import Overlay
from tests.conftest import SECONDS

ROOT = Path(__file__).parents[1]

OVERLAY = Overlay(
    device="drive0",
    file="/imgs/a,token=1.snap",
    format="qcow2",
    create=True,
    virtual_size=1024,
    base_node="#block1",
    backing_file="/imgs/a.qcow2",
    backing_format="qcow2",
)
START = Start(
    uri="unix:/run/vm.qmp",
    domain=None,
    vm="win2003",
    instance="",
    local=True,
    told=None,
    engine="prepared",
    fingerprint="f",
    overlays=(OVERLAY,),
    commands=(),
)

CLIENT = """
import json, os, signal, sys
import snapkit
from snapkit.backends.qmp import QmpBackend

job = json.loads(sys.argv[1])
execute = QmpBackend.execute


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def progress(phase):
    if phase == job["phase"]:
        die()


async def send(self, command, *arguments):
    if command == job["before"]:
        die()
    answer = await execute(self, command, *arguments)
    if command == job["after"]:
        die()
    return answer


with snapkit.connect(job["uri"], job["domain"], local=job["local"]) as vm:
    plan = vm.plan(job["targets"], **job["options"])
    QmpBackend.execute = send
    plan.run(progress)
"""


def python(script: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a script; the journal is that of the test."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=dict(os.environ),
        text=True,
    )


def answer(process: subprocess.Popen[str]) -> str:
    """What a script printed, once it has ended properly."""
    out, err = process.communicate(timeout=3 * SECONDS)
    assert (process.returncode, err) == (0, "")
    return out


def snapshot_that_dies(
    uri: str,
    targets: dict[str, str],
    phase: str = "",
    *,
    before: str = "",
    after: str = "",
    local: bool | None = None,
    domain: str | None = None,
    **options: str,
) -> None:
    """Run a plan and end as a phase begins, before a command is sent, or once it is answered.

    The last two are for commands of QMP.
    """
    job = {"uri": uri, "domain": domain, "targets": targets, "local": local, "options": options}
    job |= {"phase": phase, "before": before, "after": after}
    process = python(CLIENT, json.dumps(job))
    _, err = process.communicate(timeout=3 * SECONDS)
    assert (process.returncode, err) == (-signal.SIGKILL, "")


def rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A table row by row, with its index."""
    found: Any = table.reset_index().to_dict("records")
    return list(found)
