"""``snapkit doctor``: what is missing, and the cure."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import tempfile
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from snapkit.backends import libvirt_hosts
from snapkit.backends.abilities import ABILITIES
from snapkit.cli import doctor
from snapkit.journaling import Journal
from tests.cli.conftest import ROOT, RunCommand
from tests.conftest import Process
from tests.journals import START
from tests.libvirtd import PrivateLibvirt
from tests.outside import stopped


def parts(run_snapkit: RunCommand) -> dict[str, dict[str, Any]]:
    return {row["part"]: row for row in run_snapkit("doctor", "--json").json}


def test_where_all_is_there_the_status_is_0(run_snapkit: RunCommand) -> None:
    done = run_snapkit("doctor")
    assert done.status == 0
    assert "All that snapkit needs is here." in done.err
    found = parts(run_snapkit)
    for name in ("Python", "qemu-system-x86_64", "qemu-img", "pandas", "qemu.qmp", "guest.bin"):
        assert (found[name]["status"], found[name]["cure"]) == ("ok", "")
        assert found[name]["found"]
        assert found[name]["needed_for"]


def test_a_missing_program_is_named_with_the_command_that_installs_it(
    run_snapkit: RunCommand, monkeypatch: pytest.MonkeyPatch, directory: Path
) -> None:
    (directory / "apt-get").touch(0o755)
    monkeypatch.setenv("PATH", str(directory))
    done = run_snapkit("doctor")
    assert done.status == 1
    assert "Not all is well: qemu-system-x86_64, qemu-img." in done.err
    found = parts(run_snapkit)
    assert found["qemu-img"]["status"] == "missing"
    assert found["qemu-img"]["cure"].endswith("apt-get install qemu-utils")
    assert found["qemu-storage-daemon"]["required"] is False


def test_libvirt_is_examined_and_not_required(run_snapkit: RunCommand) -> None:
    found = parts(run_snapkit)
    for name in ("libvirt-python", "virsh", "libvirtd"):
        assert (found[name]["status"], found[name]["required"]) == ("ok", False)
        assert re.search(r"\d+\.\d+\.\d+", found[name]["found"])


def test_a_missing_libvirt_is_named_with_the_commands_that_install_it(
    run_snapkit: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "libvirt", None)
    found = parts(run_snapkit)["libvirt-python"]
    assert found["status"] == "missing"
    assert f"apt-get install {doctor.LIBVIRT_PYTHON} && " in found["cure"]
    assert found["cure"].endswith("-m pip install 'snapkit[libvirt]'")


def test_without_libvirt_s_module_its_daemons_are_counted_and_not_asked(
    libvirt: PrivateLibvirt, run_snapkit: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_only(libvirt, monkeypatch)
    monkeypatch.setitem(sys.modules, "libvirt", None)
    found = parts(run_snapkit)
    assert found["libvirt daemons"]["found"] == "1 on this host, not asked"
    assert f"- {libvirt.uri}" not in found


def own_only(libvirt: PrivateLibvirt, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other daemon of this host is there."""
    path = libvirt.uri.partition("socket=")[2]
    monkeypatch.setattr(libvirt_hosts, "listening", lambda: [path])


def test_a_daemon_that_answers_is_shown_with_its_versions_and_domains(
    libvirt: PrivateLibvirt, run_snapkit: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_only(libvirt, monkeypatch)
    libvirt.paused(name="one")
    found = parts(run_snapkit)
    assert found["libvirt daemons"]["found"] == "1 on this host, answering: 1"
    said = libvirt.virsh("version")
    names = ("library: libvirt", "hypervisor: QEMU")
    versions = [re.search(rf"{name} (\d\S+)", said) for name in names]
    library, emulator = (match[1] for match in versions if match)
    shown = found[f"- {libvirt.uri}"]
    assert shown["found"] == f"libvirt {library}, QEMU {emulator}: 1 domain runs"
    assert shown["cure"] == ""


def test_a_daemon_that_is_stopped_holds_nothing_up_and_is_said(
    libvirt: PrivateLibvirt, run_snapkit: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_only(libvirt, monkeypatch)
    with stopped(libvirt.pid):
        shown = parts(run_snapkit)[f"- {libvirt.uri}"]
    assert "did not answer within 2 s" in shown["found"]
    assert "stopped or stuck" in shown["cure"]


def test_a_daemon_that_sleeps_is_shown_and_not_woken(
    run_snapkit: RunCommand, monkeypatch: pytest.MonkeyPatch, directory: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(directory / "libvirt-sock"))
        server.listen()
        server.setblocking(False)
        monkeypatch.setattr(libvirt_hosts, "listening", lambda: [str(directory / "libvirt-sock")])
        found = parts(run_snapkit)
        with pytest.raises(BlockingIOError):
            server.accept()
    (shown,) = (row for name, row in found.items() if str(directory) in name)
    assert shown["found"] == "asleep"
    assert shown["cure"].startswith("nothing: it starts when somebody connects")


def test_what_not_every_backend_can_do_is_shown(run_snapkit: RunCommand) -> None:
    text = run_snapkit("doctor").out
    shown = text[text.index("What not every backend can do") :]
    found = parts(run_snapkit)
    for ability in ABILITIES:
        assert ability.name in shown
        assert ability.what in shown
        assert found[f"ability: {ability.name}"]["needed_for"] == ability.what


def test_a_cure_stands_below_its_part_in_one_line(
    run_snapkit: RunCommand, monkeypatch: pytest.MonkeyPatch, directory: Path
) -> None:
    (directory / "apt-get").touch(0o755)
    monkeypatch.setenv("PATH", str(directory))
    lines = run_snapkit("doctor").out.splitlines()
    place = next(n for n, line in enumerate(lines) if line.startswith("missing   qemu-img "))
    assert lines[place].endswith("needed for images, and chains offline")
    assert lines[place + 1].strip().removeprefix("sudo ") == "apt-get install qemu-utils"


def fake_program(directory: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = directory / "qemu-img"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("echo qemu-img version 2.11.1", "too old"),
        ("echo qemu-img version 11.1.3", "ok"),
        ("echo hello", "bad"),
        ("exit 1", "bad"),
    ],
)
def test_a_program_is_judged_by_the_version_that_it_says(
    body: str,
    status: str,
    run_snapkit: RunCommand,
    monkeypatch: pytest.MonkeyPatch,
    directory: Path,
) -> None:
    fake_program(directory, body, monkeypatch)
    assert parts(run_snapkit)["qemu-img"]["status"] == status


@pytest.mark.parametrize(
    ("version", "status"), [("2.1.4", "too old"), ("2.2", "ok"), ("3.0rc1", "ok")]
)
def test_a_python_package_is_judged_by_its_version(
    version: str, status: str, run_snapkit: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = metadata.version
    monkeypatch.setattr(
        metadata, "version", lambda name: version if name == "pandas" else known(name)
    )
    assert parts(run_snapkit)["pandas"]["status"] == status


def test_another_version_than_the_pinned_one_is_too_new(
    run_snapkit: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "version", lambda _: "0.0.7")
    found = parts(run_snapkit)["qemu.qmp"]
    assert found["status"] == "too new"
    assert found["cure"].endswith("-m pip install 'qemu.qmp>=0.0.6,<0.0.7'")


def test_the_doctor_works_when_no_dependency_is_installed() -> None:
    code = (
        "import sys; from importlib import metadata\n"
        "for name in ('pandas', 'numpy', 'qemu', 'qemu.qmp', 'ipywidgets', 'anywidget'):\n"
        "    sys.modules[name] = None\n"
        "def missing(name): raise metadata.PackageNotFoundError(name)\n"
        "metadata.version = missing\n"
        "from snapkit.cli import main; sys.exit(main(['doctor']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "pip install 'pandas>=2.2'" in done.stdout
    assert "Traceback" not in done.stderr


def test_the_doctors_versions_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {}
    for requirement in project["dependencies"]:
        name, rest = re.match(r"([\w.-]+?)([<>=].*)", requirement).groups()  # type: ignore[union-attr]
        declared[name] = rest
    expected = {}
    for name, (oldest, beyond, _) in doctor.PYTHON_PACKAGES.items():
        expected[name] = f">={oldest}" + (f",<{beyond}" if beyond else "")
    pinned = declared.pop("qemu.qmp")
    expected.pop("qemu.qmp")
    assert declared == expected
    assert pinned == f"=={doctor.PYTHON_PACKAGES['qemu.qmp'][0]}"
    assert f">={'.'.join(map(str, doctor.OLDEST_PYTHON))}" == project["requires-python"]


def test_the_doctors_system_packages_are_those_of_the_project() -> None:
    lines = (ROOT / "binder" / "apt.txt").read_text().splitlines()
    entries = [line.removeprefix("#host:") for line in lines]
    listed = {entry.split()[0] for entry in entries if entry and not entry.startswith("#")}
    assert set(" ".join([*doctor.PACKAGES.values(), doctor.LIBVIRT_PYTHON]).split()) <= listed


def test_a_temporary_directory_that_is_too_deep_is_found(
    run_snapkit: RunCommand, monkeypatch: pytest.MonkeyPatch, directory: Path
) -> None:
    deep = directory / ("d" * 90)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    found = parts(run_snapkit)["socket path"]
    # The lab goes to /tmp then.
    assert found["status"] == "ok"


def test_a_monitor_that_is_in_use_is_shown_with_who_uses_it(
    seed_qemu: Process, run_snapkit: RunCommand
) -> None:
    with seed_qemu.qmp():
        found = parts(run_snapkit)
    busy = found[f"- unix:{seed_qemu.outside}"]
    assert "in use" in busy["found"]
    assert "pid" in busy["cure"]
    assert "second -qmp" in busy["cure"]
    assert "free" in found[f"- {seed_qemu.uri}"]["found"]


def test_the_place_of_the_journal_is_shown_and_nothing_is_made(
    run_snapkit: RunCommand, journal_path: Path
) -> None:
    found = parts(run_snapkit)
    assert (found["journal"]["found"], found["journal"]["status"]) == (str(journal_path), "ok")
    assert (found["interrupted runs"]["found"], found["interrupted runs"]["cure"]) == ("none", "")
    assert not journal_path.parent.exists()


def test_interrupted_runs_are_shown_with_what_finishes_them(
    run_snapkit: RunCommand, journal_path: Path
) -> None:
    journal = Journal(str(journal_path))
    journal.begin(START).release()
    unknown = journal.begin(START)
    unknown.end("unknown", "Nobody could look.", closed=False)
    unknown.release()
    ended = journal.begin(START)
    ended.end("switched", "", closed=True)
    ended.release()
    running = journal.begin(START)
    done = run_snapkit("doctor")
    found = parts(run_snapkit)["interrupted runs"]
    running.release()
    assert done.status == 0
    assert (found["found"], found["cure"]) == ("2 in the journal: 1, 2", "snapkit recover")


def test_a_journal_that_cannot_be_written_is_found(
    run_snapkit: RunCommand, journal_path: Path
) -> None:
    journal_path.parent.mkdir()
    journal_path.write_text("precious " * 100)
    done = run_snapkit("doctor")
    assert done.status == 1
    assert "Not all is well: journal." in done.err
    found = parts(run_snapkit)["journal"]
    assert str(journal_path) in found["found"]
    assert found["cure"].startswith("export SNAPKIT_JOURNAL=")
    assert journal_path.read_text() == "precious " * 100
