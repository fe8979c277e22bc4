"""The procedure that it all began with: the article's VM, its disks, and its transaction."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import snapkit
from tests.conftest import Qmp, chain_of, create_image, digest, qemu_img, wait_until

FORMATS = ("qcow2", "qed")
ENGINES = ("prepared", "classic")


class Seed:
    """The article's QEMU: it waits for its first client before it does anything."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.raw = create_image(directory / "win2003.img", format="raw")
        self.data = create_image(directory / "data.qcow2")
        for image, format_, pattern in ((self.raw, "raw", "0x11"), (self.data, "qcow2", "0x22")):
            write = ("-c", f"write -q -P {pattern} 1M 1M")
            subprocess.run(["qemu-io", "-f", format_, *write, image], check=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process = subprocess.Popen(
            [
                "qemu-system-x86_64",
                *("-accel", "tcg", "-m", "16", "-display", "none", "-net", "none", "-S"),
                *("-drive", f"file={self.raw},format=raw,if=none,id=drive0"),
                *("-device", "virtio-blk-pci,drive=drive0"),
                *("-drive", f"file={self.data},format=qcow2,if=none,id=drive1"),
                *("-device", "virtio-blk-pci,drive=drive1"),
                *("-qmp", f"tcp:localhost:{self.port},server"),
            ],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self._listens, "QEMU listens")

    def _listens(self) -> bool:
        # A connection would be the first client that QEMU waits for.
        rows = Path("/proc/net/tcp").read_text().splitlines()
        return any(f":{self.port:04X} 00000000:0000 0A" in row for row in rows)

    @property
    def uri(self) -> str:
        return f"tcp:localhost:{self.port}"

    def qmp(self) -> Qmp:
        return Qmp(("127.0.0.1", self.port))

    def inserted(self) -> dict[str, Any]:
        with self.qmp() as qmp:
            rows = qmp.execute("query-block")
        return {row["device"]: row["inserted"] for row in rows if "inserted" in row}

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def seed(directory: Path) -> Iterator[Seed]:
    started = Seed(directory)
    yield started
    started.stop()


def targets(seed: Seed) -> dict[str, str]:
    return {
        "drive0": str(seed.directory / "win2003.snap"),
        "drive1": str(seed.directory / "data.snap"),
    }


def base_of(seed: Seed, device: str) -> tuple[str, str]:
    return (seed.raw, "raw") if device == "drive0" else (seed.data, "qcow2")


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("engine", ENGINES)
def test_both_disks_of_the_article_get_their_overlays(
    seed: Seed, engine: str, format_: str
) -> None:
    bases = {device: digest(base_of(seed, device)[0]) for device in targets(seed)}
    copy = shutil.copyfile(seed.raw, seed.directory / "copy.img")
    with snapkit.connect(seed.uri) as vm:
        outcome = vm.snapshot(targets(seed), format=format_, engine=engine)
    assert outcome.ok, outcome.findings
    inserted = seed.inserted()
    for device, overlay in targets(seed).items():
        base, base_format = base_of(seed, device)
        assert inserted[device]["file"] == overlay
        assert inserted[device]["drv"] == format_
        assert inserted[device]["backing_file"] == base
        assert inserted[device]["backing_file_depth"] == 1
        top, below = chain_of(overlay)
        assert (top["format"], top["backing-filename"]) == (format_, base)
        # A qed header has no room for another format than raw.
        said = None if (format_, base_format) == ("qed", "qcow2") else base_format
        assert top.get("backing-filename-format") == said
        assert top["virtual-size"] == 64 * 1024 * 1024
        assert (below["filename"], below["format"]) == (base, base_format)
        assert digest(base) == bases[device]
    seed.stop()
    compared = qemu_img("compare", "-f", format_, "-F", "raw", targets(seed)["drive0"], copy)
    assert "identical" in compared


@pytest.mark.parametrize("engine", ENGINES)
def test_the_article_s_proof_shows_file_backing_file_and_depth(seed: Seed, engine: str) -> None:
    with snapkit.connect(seed.uri) as vm:
        vm.snapshot(targets(seed), engine=engine)
    with seed.qmp() as qmp:
        said = qmp.execute("human-monitor-command", command_line="info block")
        stats = {row["device"]: row for row in qmp.execute("query-blockstats")}
    for device, overlay in targets(seed).items():
        base = base_of(seed, device)[0]
        assert f"{overlay} (qcow2)" in said
        assert f"Backing file:     {base} (chain depth: 1)" in said
        assert stats[device]["backing"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("format_", FORMATS)
def test_overlays_made_beforehand_are_used_as_they_are(
    seed: Seed, engine: str, format_: str
) -> None:
    for device, overlay in targets(seed).items():
        base, base_format = base_of(seed, device)
        create_image(overlay, format=format_, backing=base, backing_format=base_format)
    inodes = {overlay: os.stat(overlay).st_ino for overlay in targets(seed).values()}
    with snapkit.connect(seed.uri) as vm:
        outcome = vm.snapshot(targets(seed), mode="existing", format=format_, engine=engine)
    assert outcome.ok, outcome.findings
    for device, overlay in targets(seed).items():
        assert os.stat(overlay).st_ino == inodes[overlay]
        assert seed.inserted()[device]["file"] == overlay
        assert [layer["filename"] for layer in chain_of(overlay)] == [
            overlay,
            base_of(seed, device)[0],
        ]


@pytest.mark.parametrize("engine", ENGINES)
def test_ten_snapshots_make_a_chain_of_depth_ten(seed: Seed, engine: str) -> None:
    for number in range(1, 11):
        with snapkit.connect(seed.uri) as vm:
            outcome = vm.snapshot(["drive0", "drive1"], engine=engine)
        assert outcome.ok, outcome.findings
        assert set(outcome.to_frame()["depth_after"]) == {number}
    inserted = seed.inserted()
    for device in targets(seed):
        assert inserted[device]["backing_file_depth"] == 10
        chain = chain_of(inserted[device]["file"])
        assert len(chain) == 11
        assert chain[-1]["filename"] == base_of(seed, device)[0]


def test_the_previewed_transaction_is_the_article_s(seed: Seed) -> None:
    with snapkit.connect(seed.uri) as vm:
        text = vm.plan(targets(seed), engine="classic").preview("qmp")
    assert json.loads(text) == {
        "execute": "transaction",
        "arguments": {
            "actions": [
                {
                    "type": "blockdev-snapshot-sync",
                    "data": {
                        "device": device,
                        "snapshot-file": overlay,
                        "format": "qcow2",
                        "mode": "absolute-paths",
                    },
                }
                for device, overlay in targets(seed).items()
            ]
        },
    }
