"""Where libvirt's Python module is not installed, QMP is none the worse for it."""

from __future__ import annotations

import subprocess
import sys

from tests.ordinary import ROOT

HIDDEN = "import sys; sys.modules['libvirt'] = sys.modules['libvirt_qemu'] = None\n"


def python(script: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a Python that has no libvirt."""
    return subprocess.run(
        [sys.executable, "-c", HIDDEN + script],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=90,
        check=False,
    )


def test_a_lab_is_found_connected_to_and_snapshotted() -> None:
    done = python(
        "import snapkit\n"
        "with snapkit.Lab() as lab, lab.connect() as vm:\n"
        "    assert lab.uri in list(snapkit.discover()['uri'])\n"
        "    targets = {name: f'{lab.directory}/{name}.qcow2' for name in lab.images}\n"
        "    print(vm.snapshot(targets).ok, list(vm.devices().query('snapshotable').index))\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "True ['drive0', 'drive1']"


def test_asking_for_libvirt_says_what_to_install() -> None:
    done = python("import snapkit\nsnapkit.connect('qemu:///session', 'win2003')")
    assert done.returncode == 1
    error = done.stderr.strip().splitlines()[-1]
    assert error.startswith("snapkit.errors.ConnectError: ")
    assert "pip install 'snapkit[libvirt]'" in error
    for package in ("libvirt-dev", "pkg-config", "gcc", "python3-dev"):
        assert package in error


def test_the_terminal_says_it_too() -> None:
    done = python(
        "from snapkit.cli import main\nsys.exit(main(['devices', 'qemu:///session', 'x']))"
    )
    assert done.returncode != 0
    assert "pip install 'snapkit[libvirt]'" in done.stderr
    assert "Traceback" not in done.stderr
