from __future__ import annotations

import posixpath
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapkit import naming
from snapkit.model import Device, Layer


def device(file: str, name: str = "drive0", depth: int = 0) -> Device:
    layers = [Layer(f"n{n}", "qcow2", file, 1, 1, None, None) for n in range(depth + 1)]
    return Device(name, layers=tuple(layers))


def fill(template: str, file: str = "/imgs/data.qcow2", **options: object) -> str:
    name, depth = str(options.get("name", "drive0")), int(str(options.get("depth", 0)))
    return naming.fill(template, device(file, name, depth), tag="snap1", format="qcow2")


@pytest.mark.parametrize(
    ("file", "overlay"),
    [
        ("/imgs/data.qcow2", "/imgs/data.snap1.qcow2"),
        ("/imgs/win2003.img", "/imgs/win2003.snap1.qcow2"),
        ("/imgs/data", "/imgs/data.snap1.qcow2"),
        ("/imgs/a.b.c.img", "/imgs/a.b.c.snap1.qcow2"),
        ("/imgs/.hidden", "/imgs/.hidden.snap1.qcow2"),
        ("/disk", "/disk.snap1.qcow2"),
        ("/im gs/{stem}.img", "/im gs/{stem}.snap1.qcow2"),
    ],
)
def test_an_overlay_lies_beside_its_image_and_is_named_after_it(file: str, overlay: str) -> None:
    assert fill(naming.TEMPLATE, file) == overlay


def test_the_tag_of_an_earlier_snapshot_is_replaced_and_not_piled_up() -> None:
    assert fill(naming.TEMPLATE, "/imgs/data.snap7.qcow2") == "/imgs/data.snap1.qcow2"
    assert naming.stem("/imgs/data.snap7.qcow2") == "data"
    assert naming.stem("/imgs/.snap7.qcow2") == ".snap7.qcow2"


def test_every_field_can_be_used() -> None:
    template = "/over/{device}/{depth}-{tag}-{stem}.{format}"
    assert fill(template, depth=2) == "/over/drive0/3-snap1-data.qcow2"
    assert fill("{directory}/x") == "/imgs/x"


def test_a_number_can_be_given_a_width() -> None:
    assert fill("/over/{depth:03}") == "/over/001"
    assert fill("/over/{depth:3d}") == "/over/  1"


def test_a_device_name_never_makes_directories() -> None:
    assert fill("/over/{device}", name="/machine/peripheral-anon/device[0]") == (
        "/over/-machine-peripheral-anon-device[0]"
    )


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("/over/{nonsense}", "unknown field {nonsense}"),
        ("/over/{}", "unknown field {}"),
        ("/over/{0}", "unknown field {0}"),
        ("/over/{stem.__class__}", "unknown field {stem.__class__}"),
        ("/over/{stem[0]}", "unknown field {stem[0]}"),
        ("/over/{stem", "cannot be read"),
        ("/over/}", "cannot be read"),
        ("/over/{stem!r}", "only a width"),
        ("/over/{stem:{device}}", "only a width"),
        ("/over/{depth:9999999999}", "only a width"),
        ("/over/{stem:3d}", "cannot be filled in"),
    ],
)
def test_a_template_that_cannot_be_filled_in_says_why(template: str, words: str) -> None:
    with pytest.raises(naming.TemplateError, match=words.replace("{", r"\{").replace("[", r"\[")):
        fill(template)


@pytest.mark.parametrize("file", ["nbd://host/disk", 'json:{"driver": "null-co"}', ""])
def test_a_name_beside_the_image_needs_an_image_that_is_a_file(file: str) -> None:
    with pytest.raises(naming.TemplateError, match="cannot be derived"):
        fill("{directory}/{stem}", file)
    assert fill("/over/{device}", file) == "/over/drive0"


@given(st.text(max_size=40))
def test_any_template_gives_a_name_or_says_why_not(template: str) -> None:
    with suppress(naming.TemplateError):
        assert len(fill(template)) <= len(template) * 20 + 20


@given(st.text(alphabet="abc.%{}s1 é", min_size=1, max_size=12).filter(lambda n: n != "." * len(n)))
def test_any_image_name_gives_an_overlay_beside_it(name: str) -> None:
    overlay = fill(naming.TEMPLATE, f"/imgs/{name}")
    assert posixpath.dirname(overlay) == "/imgs"
    assert posixpath.basename(overlay).endswith(".snap1.qcow2")
    assert len(posixpath.basename(overlay)) > len(".snap1.qcow2")
