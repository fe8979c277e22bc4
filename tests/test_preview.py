"""What is previewed is what is sent: the same commands, arguments and order."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import snapkit
from tests.conftest import Process, StartQemu, chain_of, contents, create_image
from tests.outside import drives
from tests.qmp_shell import feed, type_in
from tests.recorder import Recorder
from tests.wire import changes

WAYS = [
    ("prepared", "absolute-paths", "qcow2"),
    ("prepared", "absolute-paths", "qed"),
    ("prepared", "existing", "qcow2"),
    ("classic", "absolute-paths", "qcow2"),
    ("classic", "existing", "qed"),
]
StartRecorder = Callable[..., Recorder]


def wanted(directory: Path, count: int, mode: str, format_: str) -> dict[str, str]:
    overlays = {f"drive{n}": str(directory / f"over{n}.snap") for n in range(count)}
    if mode == "existing":
        for device, overlay in overlays.items():
            base = str(directory / f"disk{device.removeprefix('drive')}.qcow2")
            create_image(overlay, format=format_, backing=base, backing_format="qcow2")
    return overlays


def on_overlays(qemu: Process, overlays: dict[str, str]) -> None:
    live = {row["device"]: row["inserted"]["file"] for row in qemu.ask("query-block")}
    assert live == overlays
    for overlay in overlays.values():
        assert len(chain_of(overlay)) == 2
    left = {name for row in qemu.ask("query-jobs") for name in [row["id"]]}
    assert left == set()


@pytest.mark.parametrize("count", [1, 2, 8])
@pytest.mark.parametrize(("engine", "mode", "format_"), WAYS)
def test_what_was_previewed_is_what_is_sent(
    directory: Path,
    start_qemu: StartQemu,
    recorder: StartRecorder,
    engine: str,
    mode: str,
    format_: str,
    count: int,
) -> None:
    qemu = start_qemu(*drives(directory, count))
    wire = recorder(qemu.uri)
    overlays = wanted(directory, count, mode, format_)
    with snapkit.connect(wire.uri, local=True) as vm:
        plan = vm.plan(overlays, engine=engine, mode=mode, format=format_)
        preview = [json.loads(line) for line in plan.preview("qmp").splitlines()]
        assert changes(wire) == []
        outcome = plan.run()
    assert outcome.ok, outcome.findings
    assert changes(wire) == preview
    on_overlays(qemu, overlays)


@pytest.fixture
def two(directory: Path, start_qemu: StartQemu) -> Process:
    return start_qemu(*drives(directory, 2))


@pytest.fixture
def previewed(two: Process) -> Callable[..., tuple[dict[str, str], str]]:
    """The overlays and the preview of a plan that is not run."""

    def preview(form: str, engine: str, mode: str, format_: str) -> tuple[dict[str, str], str]:
        overlays = wanted(two.directory, 2, mode, format_)
        with snapkit.connect(two.uri) as vm:
            plan = vm.plan(overlays, engine=engine, mode=mode, format=format_)
            before = contents(two.directory)
            text = plan.preview(form)
        assert contents(two.directory) == before
        return overlays, text

    return preview


Previewed = Callable[..., tuple[dict[str, str], str]]


@pytest.mark.parametrize(("engine", "mode", "format_"), WAYS)
def test_the_qmp_preview_does_the_same_by_hand(
    two: Process, previewed: Previewed, engine: str, mode: str, format_: str
) -> None:
    overlays, text = previewed("qmp", engine, mode, format_)
    with two.qmp() as qmp:
        feed(qmp, text)
    on_overlays(two, overlays)


@pytest.mark.parametrize(("engine", "mode", "format_"), WAYS)
def test_the_qmp_shell_preview_does_the_same_in_qmp_shell(
    two: Process, previewed: Previewed, engine: str, mode: str, format_: str
) -> None:
    overlays, text = previewed("qmp-shell", engine, mode, format_)
    type_in(two.outside, two.directory, text)
    on_overlays(two, overlays)


@pytest.mark.parametrize(("engine", "mode", "format_"), WAYS)
def test_the_python_preview_does_the_same_in_a_new_process(
    two: Process, previewed: Previewed, engine: str, mode: str, format_: str
) -> None:
    overlays, text = previewed("python", engine, mode, format_)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    on_overlays(two, overlays)


def test_the_python_preview_keeps_what_differs_between_the_devices(two: Process) -> None:
    over = two.directory / "o'ne.snap"
    with snapkit.connect(two.uri) as vm:
        targets = {
            "drive0": {"file": str(over), "format": "qed"},
            "drive1": str(two.directory / "two.snap"),
        }
        text = vm.plan(targets).preview("python")
    subprocess.run([sys.executable, "-c", text], check=True)
    live = {row["device"]: row["inserted"] for row in two.ask("query-block")}
    assert live["drive0"]["file"] == str(over)
    assert [live[name]["drv"] for name in ("drive0", "drive1")] == ["qed", "qcow2"]
