"""The package, its set-up files and the repository as someone finds them after a clone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import snapkit

ROOT = Path(__file__).resolve().parent.parent
KEPT_BY_TOOLS = {
    *(".git", ".venv", "__pycache__", ".ipynb_checkpoints", "build", "dist", "node_modules"),
    *(".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache"),
}
HEAVY = {"anywidget", "ipywidgets", "libvirt", "numpy", "pandas", "qemu.qmp", "traitlets"}
# In pieces, so that this file does not hold what it looks for.
REGISTRIES = ("pypi" + ".org", "python" + "hosted.org", "npm" + "js.org", "conda" + ".anaconda")
MACHINE_PATH = re.compile("(?<![\\w.])/" + r"(root|work|Users)/\w")
PACKAGE_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]+")


def files(below: Path = ROOT) -> Iterator[Path]:
    """Every file of the repository, without what tools keep."""
    for path in sorted(below.iterdir()):
        if path.name in KEPT_BY_TOOLS:
            continue
        if path.is_dir():
            yield from files(path)
        else:
            yield path


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, text=True, capture_output=True, check=False, timeout=120, **options
    )


def notebooks() -> dict[str, dict[str, Any]]:
    found = sorted((ROOT / "notebooks").glob("*.ipynb"))
    return {path.name: json.loads(path.read_text(encoding="utf-8")) for path in found}


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


# The package


def test_importing_snapkit_loads_none_of_the_heavy_libraries() -> None:
    script = "import json, sys, snapkit; print(json.dumps(sorted(sys.modules)))"
    ended = run(sys.executable, "-c", script, cwd=ROOT)

    assert ended.returncode == 0, ended.stderr
    assert HEAVY & set(json.loads(ended.stdout)) == set()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    ended = run(
        *(sys.executable, "-m", "hatchling", "build", "--target", "wheel"),
        *("--directory", directory),
        cwd=ROOT,
    )
    assert ended.returncode == 0, ended.stderr
    (built,) = directory.glob("*.whl")
    return built


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    packed = {
        name
        for name in zipfile.ZipFile(wheel).namelist()
        if not name.split("/")[0].endswith("-info")
    }
    present = {path.relative_to(ROOT).as_posix() for path in files(ROOT / "snapkit")}

    assert packed == present
    assert {"snapkit/py.typed", "snapkit/lab/guest.bin", "snapkit/lab/guest.asm"} <= packed


def test_the_wheel_works_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    ended = run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"),
        *("--disable-pip-version-check", "--target", tmp_path, wheel),
    )
    assert ended.returncode == 0, ended.stderr
    script = (
        "import snapkit, snapkit.cli, snapkit.widgets; snapkit.Lab, snapkit.Studio;"
        "print(snapkit.__file__)"
    )
    ended = run(
        *(sys.executable, "-c", script),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )

    assert ended.returncode == 0, ended.stderr
    assert Path(ended.stdout.strip()).is_relative_to(tmp_path)
    entry_points = next(tmp_path.glob("snapkit-*.dist-info/entry_points.txt"))
    assert "snapkit = snapkit.cli:main" in entry_points.read_text(encoding="utf-8")


def test_the_changelog_knows_the_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

    assert f"\n## {snapkit.__version__} " in changelog


# The set-up


def project() -> dict[str, Any]:
    loaded: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return loaded["project"]  # type: ignore[no-any-return]


def test_the_constraints_pin_every_dependency_by_name() -> None:
    pinned = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            name, version = line.split("==")
            pinned[canonicalize_name(name)] = version
    declared = [
        Requirement(text)
        for texts in (project()["dependencies"], *project()["optional-dependencies"].values())
        for text in texts
    ]

    assert [
        str(requirement)
        for requirement in declared
        if not requirement.specifier.contains(pinned.get(canonicalize_name(requirement.name), "0"))
    ] == []


def test_every_system_package_stands_beside_its_reason() -> None:
    read = 0
    for line in (ROOT / "binder" / "apt.txt").read_text(encoding="utf-8").splitlines():
        entry = re.sub("^#(host|test):", "", line).strip()
        if not entry or entry.startswith("#"):
            continue
        names, _, reason = entry.partition("#")
        assert reason.strip(), f"no reason: {line}"
        assert all(PACKAGE_NAME.fullmatch(name.strip()) for name in names.split("|")), line
        read += 1

    assert read > 0


def test_binder_reads_plain_package_names() -> None:
    """As repo2docker does: what stands before a #, and nothing else, is a package."""
    lines = (ROOT / "binder" / "apt.txt").read_text(encoding="utf-8").splitlines()
    names = [name for line in lines if (name := line.partition("#")[0].strip())]

    assert {"qemu-system-x86", "libvirt-daemon", "libvirt-dev", "pkg-config"} <= set(names)
    assert [name for name in names if not PACKAGE_NAME.fullmatch(name)] == []


@pytest.fixture
def bare_system(tmp_path: Path) -> dict[str, str]:
    """An environment in which no package is installed, and apt-get writes down its arguments.

    There is no Python for .venv either, so that the set-up ends after the system packages.
    """
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {
        "dpkg-query": "exit 1",
        "apt-cache": '[ "$2" = chromium ] || echo "  Candidate: 1.0"',
        "apt-get": f'echo "$@" >> {tmp_path}/apt-get',
        "sudo": '[ "$1" != -n ] || shift; exec "$@"',
    }.items():
        program = programs / name
        program.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        program.chmod(0o755)
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("SNAPKIT")},
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHON": "/bin/false",
    }


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that the set-up reads, in a place of their own."""
    copy = tmp_path / "check out"
    for name in ("scripts/setup", "binder/apt.txt", "pyproject.toml", "constraints.txt"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    return copy


def test_the_set_up_installs_what_its_level_needs(
    checkout: Path, bare_system: dict[str, str], tmp_path: Path
) -> None:
    run("bash", checkout / "scripts" / "setup", "lab", env=bare_system)
    for_lab = (tmp_path / "apt-get").read_text(encoding="utf-8").split()
    (tmp_path / "apt-get").unlink()
    run("bash", checkout / "scripts" / "setup", "test", env=bare_system)
    for_tests = (tmp_path / "apt-get").read_text(encoding="utf-8").split()

    assert {"qemu-system-x86", "qemu-utils", "python3-venv"} <= set(for_lab)
    assert {"libvirt-daemon", "libvirt-daemon-driver-qemu", "libvirt-clients"} <= set(for_lab)
    assert {"libvirt-dev", "pkg-config", "gcc", "libc6-dev", "python3-dev"} <= set(for_lab)
    assert "nasm" not in for_lab
    assert {"qemu-system-x86", "nasm"} <= set(for_tests)
    assert "--no-install-recommends" in for_tests


def test_the_set_up_takes_the_alternative_that_the_distribution_has(
    checkout: Path, bare_system: dict[str, str], tmp_path: Path
) -> None:
    run("bash", checkout / "scripts" / "setup", "test", env=bare_system)
    installed = (tmp_path / "apt-get").read_text(encoding="utf-8").split()

    assert "chromium-browser" in installed
    assert "chromium" not in installed


def test_the_set_up_says_which_python_it_needs(checkout: Path, bare_system: dict[str, str]) -> None:
    ended = run("bash", checkout / "scripts" / "setup", env={**bare_system, "SNAPKIT_APT": "no"})

    assert ended.returncode == 1
    assert "Python 3.11 or later" in ended.stderr
    assert "PYTHON=" in ended.stderr
    assert not (checkout / ".venv").exists()


def test_every_script_runs_as_it_is_checked_out() -> None:
    scripts = [ROOT / "binder" / "postBuild", ROOT / ".ci" / "run"]
    scripts += [path for path in files(ROOT / "scripts") if path.suffix == ""]
    for script in scripts:
        text = script.read_text(encoding="utf-8")

        assert text.startswith("#!/bin/bash\n"), script
        assert "\nset -euo pipefail\n" in text, script
        assert os.access(script, os.X_OK), script
        assert run("bash", "-n", script).returncode == 0, script


# The notebooks


def test_every_notebook_was_run_from_top_to_bottom() -> None:
    counts = {
        name: [cell["execution_count"] for cell in code_cells(notebook)]
        for name, notebook in notebooks().items()
    }

    assert counts, "there are no notebooks"
    assert [name for name, found in counts.items() if found != list(range(1, len(found) + 1))] == []


def test_no_notebook_holds_widget_state_or_is_large() -> None:
    paths = sorted((ROOT / "notebooks").glob("*.ipynb"))

    assert [path.name for path in paths if path.stat().st_size > 100_000] == []
    assert [
        name for name, notebook in notebooks().items() if "widgets" in notebook["metadata"]
    ] == []


# The repository


def test_no_file_names_a_registry_or_a_path_of_one_machine() -> None:
    found = []
    for path in files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        hits = [registry for registry in REGISTRIES if registry in text]
        hits += [match[0] for match in MACHINE_PATH.finditer(text)]
        found += [(path.relative_to(ROOT).as_posix(), hit) for hit in hits]

    assert found == []
