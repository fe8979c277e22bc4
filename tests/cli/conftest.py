"""Running command lines in this process and in one of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from snapkit.cli import main

# The seed's domain, as the tests of libvirt have it.
from tests.libvirt.conftest import seed  # noqa: F401

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Done:
    """What a command line left: its exit status and what it wrote."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


RunCommand = Callable[..., Done]


@pytest.fixture
def run_snapkit(capsys: pytest.CaptureFixture[str]) -> RunCommand:
    """Runs ``snapkit`` with these words in this process."""

    def run(*words: object) -> Done:
        capsys.readouterr()
        status = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return Done(status, out, err)

    return run


StartCommand = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start_snapkit() -> Iterator[StartCommand]:
    """Starts ``snapkit`` with these words as a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(
        *words: object, stdout: int | None = None, stderr: int | None = None
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "snapkit", *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
