"""Reading the guest's numbers from images of every kind."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from snapkit.errors import SnapkitError
from snapkit.lab.sequence import last_sequences
from tests.lab.watch import record


def numbers(*files: Path | str) -> list[int]:
    return last_sequences([str(file) for file in files], None).to_list()


def write_raw(path: Path, *records: tuple[int, int], sectors: int = 131072) -> Path:
    """Make a raw image with (sector, sequence number) records."""
    with path.open("wb") as file:
        file.truncate(sectors * 512)
        for sector, number in records:
            file.seek(sector * 512)
            file.write(record(number))
    return path


def qemu_img(*arguments: str | Path) -> None:
    subprocess.run(["qemu-img", *arguments], check=True, stdout=subprocess.DEVNULL)


def converted(source: Path, target: Path, image_format: str) -> Path:
    qemu_img("convert", "-f", "raw", "-O", image_format, source, target)
    return target


def overlay(path: Path, backing: Path, image_format: str, backing_format: str) -> Path:
    qemu_img("create", "-q", "-f", image_format, "-b", backing, "-F", backing_format, path)
    return path


def test_a_raw_image_gives_its_largest_number(tmp_path: Path) -> None:
    assert numbers(write_raw(tmp_path / "a.img", (1, 1), (2, 2), (3, 3))) == [3]


def test_numbers_are_compared_and_not_their_places(tmp_path: Path) -> None:
    wrapped = write_raw(tmp_path / "a.img", (65535, 65535), (0, 65536), (1, 65537))
    assert numbers(wrapped) == [65537]


def test_an_image_without_records_gives_zero(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "a.img")
    assert numbers(raw, converted(raw, tmp_path / "a.qcow2", "qcow2")) == [0, 0]


def test_data_that_only_resembles_a_record_does_not_count(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "a.img", (1, 1))
    with raw.open("r+b") as file:
        file.seek(5 * 512 + 8)
        file.write(record(9)[:64])
    assert numbers(raw) == [1]


def test_an_image_smaller_than_the_ring_is_read_to_its_end(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "a.raw", (1, 1), (2047, 2047), sectors=2048)
    assert numbers(raw, converted(raw, tmp_path / "a.qcow2", "qcow2")) == [2047, 2047]


@pytest.mark.parametrize("image_format", ["qcow2", "qed", "vmdk", "raw"])
def test_the_format_of_other_files_is_found_out(tmp_path: Path, image_format: str) -> None:
    raw = write_raw(tmp_path / "a.img", (1, 1), (2, 2))
    assert numbers(converted(raw, tmp_path / "image", image_format)) == [2]


def test_what_comes_from_the_backing_chain_counts(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "a.img", (1, 1), (2, 2))
    middle = overlay(tmp_path / "middle", raw, "qed", "raw")
    top = overlay(tmp_path / "top", middle, "qcow2", "qed")
    assert numbers(top) == [2]


def test_a_raw_disk_of_the_lab_is_never_probed(tmp_path: Path) -> None:
    secret = write_raw(tmp_path / "secret.raw", (7, 7))
    lure = overlay(tmp_path / "win2003.img", secret, "qcow2", "raw")
    assert numbers(lure) == [0]


@pytest.mark.parametrize("name", ["a,b=c.qcow2", "json:{}", "nbd:x y", "a'\"<b>\n.q", "\udcff.q"])
def test_odd_file_names_are_only_names(tmp_path: Path, name: str) -> None:
    raw = write_raw(tmp_path / "a.img", (1, 1))
    qcow2 = converted(raw, tmp_path / "a.qcow2", "qcow2")
    odd = qcow2.rename(tmp_path / name)
    assert numbers(odd) == [1]


def test_a_relative_name_is_kept_as_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = write_raw(tmp_path / "a.img", (1, 1))
    converted(raw, tmp_path / "b:c", "qcow2")
    monkeypatch.chdir(tmp_path)
    series = last_sequences(["b:c", "a.img"], None)
    assert series.index.to_list() == ["b:c", "a.img"]
    assert series["b:c"] == 1


def test_no_files_give_an_empty_series_of_the_same_kind() -> None:
    series = last_sequences([], None)
    assert (len(series), str(series.dtype), series.name, series.index.name) == (
        0,
        "int64",
        "sequence",
        "file",
    )


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SnapkitError, match=r"none\.img': No such file"):
        numbers(tmp_path / "none.img")


def test_a_directory_and_a_pipe_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(SnapkitError, match="not a regular file"):
            numbers(path)


def test_a_damaged_image_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "bad.qcow2").write_bytes(b"QFI\xfb\0\0\0\x09" + bytes(600))
    with pytest.raises(SnapkitError, match=r"bad\.qcow2.*Unsupported qcow2 version"):
        numbers(tmp_path / "bad.qcow2")


def test_a_missing_backing_file_is_an_error(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "a.img", (1, 1))
    top = overlay(tmp_path / "top", raw, "qcow2", "raw")
    raw.unlink()
    with pytest.raises(SnapkitError, match=r"top.*Could not open"):
        numbers(top)


def test_temporary_files_go_where_they_were_asked_to_and_are_removed(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "a.img", (1, 1))
    qcow2 = converted(raw, tmp_path / "a.qcow2", "qcow2")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    last_sequences([str(qcow2)], scratch)
    assert list(scratch.iterdir()) == []
