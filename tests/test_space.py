"""How much an overlay needs: compared with what qemu-img makes and measures."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from snapkit import space
from tests.conftest import qemu_img

GIB = 1 << 30
SIZES = [512, 1 << 20, 64 << 20, 10 * GIB + 512, 1024 * GIB]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cluster", [4096, 65536, 2 << 20])
def test_a_full_qcow2_image_has_the_size_that_qemu_img_measures(size: int, cluster: int) -> None:
    options = "-O", "qcow2", "-o", f"cluster_size={cluster}", "--output=json"
    measured = json.loads(qemu_img("measure", *options, "--size", str(size)))
    assert space.at_worst("qcow2", size, cluster) == measured["fully-allocated"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cluster", [4096, 65536, 2 << 20])
def test_an_empty_qcow2_image_takes_what_is_said(tmp_path: Path, size: int, cluster: int) -> None:
    path = tmp_path / "x"
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"cluster_size={cluster}", path, str(size))
    taken = path.stat().st_size
    assert 0 <= taken - space.at_first("qcow2", size, cluster) < cluster


def test_a_full_qed_image_has_no_more_than_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x"
    size = 64 << 20
    qemu_img("create", "-q", "-f", "qed", path, str(size))
    assert space.at_first("qed", size) <= path.stat().st_size
    (tmp_path / "raw").write_bytes(os.urandom(1 << 16) * (size >> 16))
    qemu_img("convert", "-f", "raw", "-O", "qed", tmp_path / "raw", path)
    assert path.stat().st_size == space.at_worst("qed", size)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (3 * GIB // 2, "1.5 GiB"),
        (1 << 70, "1048576.0 PiB"),
    ],
)
def test_a_size_is_told_in_words(size: int, words: str) -> None:
    assert space.in_words(size) == words
