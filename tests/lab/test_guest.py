"""The boot sector: what it writes, in which order, and that it never runs backwards."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import snapkit.lab
from snapkit.lab import qemu
from snapkit.lab.keeping import KeptProgram, short_directory
from tests.conftest import wait_until
from tests.lab.watch import execute, record, records_in

if TYPE_CHECKING:
    from collections.abc import Iterator

GUEST = Path(snapkit.lab.__file__).with_name("guest.bin")


def test_the_shipped_guest_is_what_its_source_assembles_to(tmp_path: Path) -> None:
    nasm = shutil.which("nasm")
    if nasm is None:
        pytest.fail("nasm is missing: apt-get install nasm")
    assembled = tmp_path / "guest.bin"
    source = GUEST.with_suffix(".asm")
    subprocess.run([nasm, "-Werror", "-f", "bin", "-o", assembled, source], check=True)
    assert assembled.read_bytes() == GUEST.read_bytes()


def test_the_guest_is_one_boot_sector() -> None:
    code = GUEST.read_bytes()
    assert len(code) == 512
    assert code.endswith(b"\x55\xaa")


def test_every_sector_holds_the_number_of_its_place_in_order() -> None:
    with snapkit.lab.Lab() as lab:
        wait_until(lambda: lab.sequence(lab.images["drive0"]).iloc[0] > 20, "twenty records")
        execute(lab.spare_uri, ("stop", {}))
        records = records_in(lab.images["drive0"])
    assert list(records) == list(range(1, len(records) + 1))
    assert [number for number, _, _ in records.values()] == list(records)
    assert {disk for _, disk, _ in records.values()} == {0}
    stamps = [stamp for _, _, stamp in records.values()]
    assert stamps == sorted(set(stamps))


def test_every_disk_holds_its_own_number(tmp_path: Path) -> None:
    with snapkit.lab.Lab(disks=8) as lab:
        execute(lab.spare_uri, ("stop", {}))
        for number, image in enumerate(lab.images.values()):
            if number:
                flat = str(tmp_path / "flat.raw")
                subprocess.run(["qemu-img", "convert", "-U", "-O", "raw", image, flat], check=True)
            else:
                flat = image
            assert {disk for _, disk, _ in records_in(flat).values()} == {number}


def test_a_reset_does_not_set_the_numbers_back() -> None:
    with snapkit.lab.Lab() as lab:
        raw = lab.images["drive0"]
        wait_until(lambda: lab.sequence(raw).iloc[0] > 20, "twenty records")
        execute(lab.spare_uri, ("stop", {}))
        before = records_in(raw)
        execute(lab.spare_uri, ("system_reset", {}), ("cont", {}))
        wait_until(lambda: len(records_in(raw)) > len(before) + 5, "records after the reset")
        execute(lab.spare_uri, ("stop", {}))
        after = records_in(raw)
    assert list(after) == list(range(1, len(after) + 1))
    assert {sector: after[sector] for sector in before} == before


@pytest.fixture
def kept() -> Iterator[KeptProgram]:
    """A directory with the guest's floppy image, and room for a QEMU."""
    kept = KeptProgram(short_directory(qemu.QMP_SOCKET, qemu.SPARE_SOCKET))
    try:
        qemu.make_floppy(kept.directory / qemu.FLOPPY)
        yield kept
    finally:
        kept.end()


def command(kept: KeptProgram, images: dict[str, str]) -> list[str]:
    endpoint = qemu.monitor_endpoint("unix", kept.directory)
    program = qemu.find_program("qemu-system-x86_64")
    return qemu.command_line(program, "tcg", kept.directory, images, endpoint)


@pytest.mark.parametrize("last", [64, 65535, 65536, 200000])
def test_the_guest_goes_on_from_the_largest_number_on_any_disk(
    kept: KeptProgram, last: int
) -> None:
    behind, ahead = (str(kept.directory / name) for name in ("behind.img", "ahead.img"))
    write_ring(Path(behind), last - 1)
    write_ring(Path(ahead), last)
    kept.run(command(kept, {"drive0": behind, "drive1": ahead}))
    wait_until(lambda: largest(ahead) > last + 5, "five more records")
    execute(qemu.spare_endpoint(kept.directory), ("stop", {}))
    numbers = {number for number, _, _ in records_in(behind).values()}
    # The number that this disk had missed stays missing.
    assert {last + 1, last + 2}.issubset(numbers)
    assert last not in numbers
    assert max(numbers) - largest(ahead) in (0, 1)


@pytest.mark.parametrize("sector", [1, 5])
def test_a_write_that_fails_is_tried_again_and_leaves_no_gap(
    kept: KeptProgram, sector: int
) -> None:
    images = {f"drive{i}": str(kept.directory / f"{i}.img") for i in range(2)}
    for image in images.values():
        write_ring(Path(image), 0)
    failing = (
        f"if=none,id=drive1,format=raw,werror=report,file.driver=blkdebug"
        f",file.image.driver=file,file.image.filename={images['drive1']}"
        f",file.inject-error.0.event=write_aio,file.inject-error.0.sector={sector}"
        f",file.inject-error.0.once=on"
    )
    usual = command(kept, images)
    kept.run([failing if part.startswith("if=none,id=drive1,") else part for part in usual])
    wait_until(lambda: largest(images["drive1"]) > sector + 5, "records after the failure")
    spare = qemu.spare_endpoint(kept.directory)
    _, stats = execute(spare, ("stop", {}), ("query-blockstats", {}))
    failed = {row["device"]: row["stats"]["failed_wr_operations"] for row in stats["return"]}
    assert failed["drive1"] == 1
    records = records_in(images["drive1"])
    assert [number for number, _, _ in records.values()] == list(range(1, len(records) + 1))
    assert largest(images["drive0"]) - len(records) in (0, 1)


def write_ring(image: Path, last: int) -> None:
    """Fill a raw image as the guest does with the numbers from 1 to last."""
    sectors = [bytes(512)] * 65536
    for number in range(max(1, last - 65535), last + 1):
        sectors[number & 0xFFFF] = record(number)
    image.write_bytes(b"".join(sectors))
    with image.open("r+b") as file:
        file.truncate(qemu.DISK_BYTES)


def largest(raw_image: str) -> int:
    return max((number for number, _, _ in records_in(raw_image).values()), default=0)
