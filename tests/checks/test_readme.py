"""README's table of checks is the checks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from snapkit.checks import CHECKS

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "scripts/readme.py"


def test_readme_s_table_is_up_to_date() -> None:
    command = [sys.executable, SCRIPT, "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_old_table_is_written_anew(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    copy = tmp_path / SCRIPT
    copy.write_text((ROOT / SCRIPT).read_text(encoding="utf-8"), encoding="utf-8")
    readme = tmp_path / "README.md"
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    readme.write_text(text.replace(CHECKS[0].asks, "something else"), encoding="utf-8")

    def run(*arguments: str) -> int:
        command = [sys.executable, str(copy), *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode

    assert run("--check") == 1
    assert run() == 0
    assert run("--check") == 0
    assert readme.read_text(encoding="utf-8") == text
