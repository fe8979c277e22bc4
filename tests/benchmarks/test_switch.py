"""How long the one command takes that switches all disks: prepared against classic.

The overlays are created before the command, or within it. Both are measured in turns on the
same VM, as snapkit measures them, and what counts is their ratio.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

import pytest

import snapkit
from tests.conftest import StartQemu, create_image

ENGINES = ("prepared", "classic")
RESULTS = Path(__file__).parent / "results" / "switch.md"
ROUNDS = 9
SIZES = (2, 8, 32)

pytestmark = pytest.mark.benchmark


@dataclass(frozen=True)
class Measured:
    """The times of both engines with one number of disks, in milliseconds."""

    disks: int
    times: dict[str, list[float]]

    def median(self, engine: str) -> float:
        return statistics.median(self.times[engine])

    @property
    def ratio(self) -> float:
        return self.median("prepared") / self.median("classic")

    def row(self) -> str:
        cells = [
            f"{self.median(engine):.1f} ({min(self.times[engine]):.1f} to "
            f"{max(self.times[engine]):.1f})"
            for engine in ENGINES
        ]
        return f"| {self.disks} | {' | '.join(cells)} | {self.ratio:.2f} |"


def measure(vm: snapkit.VirtualMachine, disks: int) -> Measured:
    names = [f"drive{number}" for number in range(disks)]
    times: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    for number in range(ROUNDS):
        # In turns, so that the depth of the chains favours neither.
        for engine in ENGINES if number % 2 else reversed(ENGINES):
            outcome = vm.snapshot(names, engine=engine)
            assert outcome.ok, outcome.findings
            assert outcome.switch_seconds is not None
            times[engine].append(outcome.switch_seconds * 1000)
    return Measured(disks, times)


def disks(directory: Path, count: int) -> list[str]:
    arguments = ["-device", "virtio-scsi-pci,id=scsi"]
    for number in range(count):
        image = create_image(directory / f"disk{number}.qcow2", "1G")
        arguments += ["-drive", f"if=none,id=drive{number},file={image},format=qcow2"]
        arguments += ["-device", f"scsi-hd,bus=scsi.0,drive=drive{number}"]
    return arguments


def test_the_switch_of_prepared_and_classic(tmp_path: Path, start_qemu: StartQemu) -> None:
    found: list[Measured] = []
    for count in SIZES:
        place = tmp_path / str(count)
        place.mkdir()
        qemu = start_qemu(*disks(place, count))
        with snapkit.connect(qemu.uri) as vm:
            version = vm.version
            found.append(measure(vm, count))
        qemu.stop()
        for socket in qemu.directory.glob("*.sock"):
            socket.unlink()
    report = table(found, version)
    print(f"\n{report}")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(report)


def table(found: list[Measured], version: str) -> str:
    lines = [
        "# The switch: prepared against classic",
        "",
        f"QEMU {version} without a guest's load; {ROUNDS} switches each, in turns, in one run.",
        "Times are milliseconds of the one command, median and (least to most).",
        "",
        "| disks | prepared | classic | prepared / classic |",
        "| ---: | ---: | ---: | ---: |",
        *(measured.row() for measured in found),
        "",
    ]
    return "\n".join(lines)
