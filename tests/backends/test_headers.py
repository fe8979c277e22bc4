"""Chains read from the images' own headers, beside what qemu-img reads there."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snapkit.backends import files, headers
from tests.conftest import create_image, qemu_img

QCOW2 = {
    "version 3": "compat=1.1",
    "version 2": "compat=0.10",
    "small clusters": "cluster_size=512",
    "large clusters": "cluster_size=2M",
    "wide entries": "extended_l2=on",
    "zstd": "compression_type=zstd",
    "lazy": "lazy_refcounts=on",
}
NAMES = (
    *("plain", "with space", "a,b", "#1", "ünï-日本", "new\nline", "quote'\"", "%s", "-dash"),
    *("x" * 200, "a:b", "json:{}", "back\\slash"),
)
BYTES = 4096 + 512
"""What is changed of an image: more than its reader looks at."""


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails where qemu-img would be asked."""

    def asked(path: str, format: str) -> None:
        pytest.fail(f"qemu-img was asked about {path} ({format})")

    with monkeypatch.context() as patch:
        patch.setattr(files, "chain", asked)
        yield


def image(path: Path, options: str = "", format: str = "qcow2", *below: str) -> str:
    given = ["-o", options] if options else []
    # With -u the image below need not be there.
    qemu_img("create", "-q", "-u", "-f", format, *given, *below, path, "8M")
    return str(path)


def both(path: str, format: str = "qcow2") -> list[tuple[str, str]]:
    """The chain, which has to be the one that qemu-img sees."""
    found = headers.chain(path, format)
    assert isinstance(found, list), found
    assert found == files.chain(path, format)
    return found


@pytest.mark.parametrize("below", ["raw", "version 2", "version 3", "qed", "nothing"])
@pytest.mark.parametrize("top", [*QCOW2, "qed"])
def test_every_usual_pair_reads_as_qemu_img_reads_it(
    tmp_path: Path, top: str, below: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    over, options = ("qed", "") if top == "qed" else ("qcow2", QCOW2[top])
    names: list[str] = []
    if below != "nothing":
        kind = below if below in {"raw", "qed"} else "qcow2"
        names = ["-F", kind, "-b", image(tmp_path / "below", QCOW2.get(below, ""), kind)]
    path = image(tmp_path / "top", options, over, *names)
    expected = files.chain(path, over)
    monkeypatch.setattr(files, "chain", lambda *_: None)
    # qemu-img is left small clusters, whose header is shorter than what is read of it.
    assert headers.chain(path, over) in (expected, None)
    if top != "small clusters":
        assert headers.chain(path, over) == expected


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_names_are_those_that_qemu_img_shows(tmp_path: Path, name: str, relative: bool) -> None:
    (tmp_path / "sub").mkdir()
    image(tmp_path / "sub" / "x.qcow2")
    os.rename(tmp_path / "sub" / "x.qcow2", tmp_path / "sub" / name)
    named = f"./sub/{name}" if relative else f"{tmp_path}/sub/{name}"
    top = image(tmp_path / "top", "", "qcow2", "-F", "qcow2", "-b", named)
    found = both(top)
    assert [os.path.basename(file) for file, _ in found] == ["top", name]


@pytest.mark.parametrize("named", ["below", "./below", "../there/below", "/no/below", "a:below"])
def test_a_relative_name_is_relative_to_its_image(tmp_path: Path, named: str) -> None:
    (tmp_path / "there").mkdir()
    image(tmp_path / "there" / "below")
    top = image(tmp_path / "there" / "top", "", "qcow2", "-F", "qcow2", "-b", named)
    expected = files.chain(top, "qcow2")
    found = headers.chain(top, "qcow2")
    if "below" in named and not named.startswith(("/no", "a:")):
        assert found == expected
        assert isinstance(found, list)
    else:
        assert isinstance(expected, str)
        assert isinstance(found, str)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "there" / "top")
    # The name counts by which an image was opened, not the one that a link leads to.
    assert type(headers.chain(str(link), "qcow2")) is type(files.chain(str(link), "qcow2"))


@pytest.mark.parametrize("kind", ["raw", "qcow2", "qed", "vmdk"])
@pytest.mark.parametrize("top", ["qcow2", "qed"])
def test_a_format_that_is_not_recorded_is_guessed_as_qemu_img_does(
    tmp_path: Path, kind: str, top: str
) -> None:
    below = image(tmp_path / "below", "", kind)
    over = image(tmp_path / "over", "", "qcow2", "-F", kind, "-b", below)
    path = image(tmp_path / "top", "", top, "-F", "qcow2", "-b", over)
    forget_format(tmp_path / "over")
    forget_format(tmp_path / "top")
    assert both(path, top)[-1] == (below, kind)


def forget_format(path: Path) -> None:
    """Make the extension with the backing file's format one that nobody knows."""
    with path.open("r+b") as file:
        start = file.read(4096)
        where = start.find(bytes.fromhex("e2792aca"))
        if where >= 0:
            file.seek(where)
            file.write(b"none")


@pytest.mark.usefixtures("no_process")
def test_a_long_chain_takes_no_process(tmp_path: Path) -> None:
    paths = [image(tmp_path / "0", "", "raw")]
    formats = ["raw", *("qcow2" for _ in range(40))]
    for number, below in enumerate(formats[:-1], 1):
        paths.append(image(tmp_path / str(number), "", "qcow2", "-F", below, "-b", paths[-1]))
    assert headers.chain(paths[-1], "qcow2") == list(zip(paths, formats, strict=True))[::-1]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("vmdk", ""),
        ("vdi", ""),
        ("qcow", ""),
        ("qcow2", "data_file={}/data.raw"),
        ("qcow2", "data_file={}/data.raw,data_file_raw=on"),
    ],
)
def test_what_is_unusual_is_qemu_img_s_to_read(tmp_path: Path, kind: str, options: str) -> None:
    below = image(tmp_path / "below", options.format(tmp_path), kind)
    assert both(below, kind)
    top = image(tmp_path / "top", "", "qcow2", "-F", kind, "-b", below)
    assert len(both(top)) == 2


def test_internal_snapshots_and_bitmaps_do_not_disturb(tmp_path: Path) -> None:
    below = image(tmp_path / "below")
    qemu_img("snapshot", "-c", "one", below)
    qemu_img("bitmap", "--add", below, "b0")
    top = image(tmp_path / "top", "", "qcow2", "-F", "qcow2", "-b", below)
    qemu_img("bitmap", "--add", top, "b0")
    assert both(top) == [(top, "qcow2"), (below, "qcow2")]


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_loop_is_a_complaint(tmp_path: Path, length: int) -> None:
    paths = [tmp_path / str(number) for number in range(length)]
    for path, below in zip(paths, [*paths[1:], paths[0]], strict=True):
        # qemu-img makes no image that names itself.
        os.rename(image(tmp_path / "x", "", "qcow2", "-F", "qcow2", "-b", str(below)), path)
    found = headers.chain(str(paths[0]), "qcow2")
    assert isinstance(found, str)
    assert "infinite loop" in found
    assert isinstance(files.chain(str(paths[0]), "qcow2"), str)


@pytest.mark.parametrize("kind", ["pipe", "directory", "device", "nothing", "dangling", "NUL"])
@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.usefixtures("no_process")
def test_what_is_no_image_is_a_complaint_without_waiting(
    tmp_path: Path, kind: str, recorded: bool
) -> None:
    below = tmp_path / "below"
    if kind == "pipe":
        os.mkfifo(below)
    elif kind == "directory":
        below.mkdir()
    elif kind != "nothing":
        below.symlink_to("/dev/null" if kind == "device" else "nowhere")
    top = image(tmp_path / "top", "", "qcow2", "-F", "raw", "-b", str(below))
    if not recorded:
        forget_format(tmp_path / "top")
    for found in (headers.chain(top, "qcow2"), headers.chain(str(below), "raw")):
        assert isinstance(found, str)
        assert str(below) in found
    found = headers.chain(f"{below}\0", "qcow2")
    assert isinstance(found, str)


def test_a_format_that_is_not_the_image_s_is_a_complaint(tmp_path: Path) -> None:
    raw, qed = image(tmp_path / "raw", "", "raw"), image(tmp_path / "qed", "", "qed")
    for path, said in itertools.product((raw, qed), ("qcow2", "bogus")):
        assert isinstance(headers.chain(path, said), str)
    assert headers.chain(qed, "raw") == [(qed, "raw")]


@pytest.mark.parametrize("backing", ["json:{", "nbd:nowhere:1", "file:///x", "x" * 1023, "/" * 99])
def test_an_odd_backing_name_is_qemu_img_s_to_judge(tmp_path: Path, backing: str) -> None:
    path = image(tmp_path / "top", "", "qcow2", "-F", "raw", "-b", backing)
    assert isinstance(headers.chain(path, "qcow2"), str)
    assert isinstance(files.chain(path, "qcow2"), str)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An overlay of each format over images of a raw one's name."""
    place = tmp_path_factory.mktemp("headers")
    below = create_image(place / "below", "8M", "raw")
    for top in ("qcow2", "qed"):
        create_image(place / f"top.{top}", "8M", top, backing=below, backing_format="raw")
    return place


@pytest.mark.parametrize("format", ["qcow2", "qed"])
@pytest.mark.parametrize("length", [0, 1, 4, 20, 64, 72, 103, 112, 300, 600, 4095, 4096, 70000])
def test_a_truncated_image_reads_as_qemu_img_reads_it(
    tmp_path: Path, template: Path, format: str, length: int
) -> None:
    path = shutil.copy(template / f"top.{format}", tmp_path / "top")
    os.truncate(path, length)
    found, expected = headers.chain(str(path), format), files.chain(str(path), format)
    assert isinstance(found, str) == isinstance(expected, str)
    assert isinstance(found, str) or found == expected


FIELDS = st.lists(
    st.tuples(
        st.integers(0, 130) | st.integers(0, BYTES),
        st.sampled_from((b"\0", b"\xff", b"\0" * 8, b"\xff" * 4, b"\1", b"raw\0", b"/"))
        | st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=3,
)


@pytest.mark.parametrize("format", ["qcow2", "qed"])
@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(changes=FIELDS)
def test_a_damaged_header_reads_as_qemu_img_reads_it(
    template: Path, format: str, changes: list[tuple[int, bytes]]
) -> None:
    path = template / f"damaged.{format}"
    shutil.copy(template / f"top.{format}", path)
    with path.open("r+b") as file:
        for offset, data in changes:
            file.seek(offset)
            file.write(data)
    found, expected = headers.chain(str(path), format), files.chain(str(path), format)
    assert isinstance(found, str) == isinstance(expected, str), (found, expected)
    assert isinstance(found, str) or found == expected


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    magic=st.sampled_from((b"", b"QFI\xfb", b"QFI\xfb\0\0\0\3", b"QED\0")),
    rest=st.binary(max_size=200),
    size=st.sampled_from((0, 5000)),
    format=st.sampled_from(("qcow2", "qed")),
)
def test_garbage_is_a_complaint(
    template: Path, magic: bytes, rest: bytes, size: int, format: str
) -> None:
    path = template / "garbage"
    path.write_bytes((magic + rest).ljust(size, b"\0"))
    assert isinstance(headers.chain(str(path), format), str)
