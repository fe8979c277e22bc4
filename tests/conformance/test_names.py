"""File names as people and attackers write them: taken as they are, or refused clearly."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

import snapkit
from tests.conformance.conftest import every_engine
from tests.conformance.machines import Image, Machine
from tests.conftest import chain_of
from tests.odd_names import ODD, UNTELLABLE


@every_engine
def test_overlays_may_have_odd_names(blank: Machine, engine: str) -> None:
    """One after the other on one disk, so that each becomes a backing file too."""
    blank.boot(blank.image("disk"))
    (name,) = blank.names
    chain = blank.images[name].chain
    with blank.connect() as vm:
        for odd in ODD.values():
            overlay = blank.file(odd)
            plan = vm.plan({name: overlay}, engine=engine)
            assert plan.ok, plan.problems
            repr(plan), plan._repr_html_(), plan.preview(), plan.preview("python")
            outcome = plan.run()
            assert outcome.ok, outcome.findings
            outcome._repr_html_()
            chain = [overlay, *chain]
            assert vm.devices().loc[name, "file"] == overlay
            assert list(vm.layers().loc[name]["file"]) == chain
            assert blank.chains() == {name: chain}
    assert [layer["filename"] for layer in chain_of(chain[0])] == chain


def test_disks_may_have_odd_names_and_overlays_are_named_after_them(blank: Machine) -> None:
    images = [blank.image(name[:200]) for name in list(ODD.values())[:8]]
    blank.boot(*images)
    with blank.connect() as vm:
        assert vm.devices()["file"].to_dict() == blank.first()
        for _ in range(2):
            outcome = vm.snapshot(blank.names)
            assert outcome.ok, outcome.findings
        assert "<script>" not in vm.devices().to_html()
    for name, chain in blank.chains().items():
        assert chain[-1] == blank.images[name].file
        assert len(chain) == 3
        assert {os.path.dirname(file) for file in chain} == {str(blank.directory)}
        assert [layer["filename"] for layer in chain_of(chain[0])] == chain


@every_engine
def test_a_name_that_xml_cannot_hold_is_taken_or_refused_clearly(
    blank: Machine, engine: str
) -> None:
    blank.boot(blank.image("disk"))
    (name,) = blank.names
    with blank.connect() as vm:
        for character in UNTELLABLE:
            overlay = blank.file(f"two{character}lines")
            before = blank.state()
            plan = vm.plan({name: overlay}, engine=engine)
            if blank.backend == "qmp":
                assert plan.run().ok
                assert blank.active() == {name: overlay}
                continue
            (problem,) = plan.problems
            assert (problem.check, problem.severity) == ("path", "error")
            assert "libvirt cannot be told such a name" in str(problem)
            with pytest.raises(snapkit.PlanError):
                plan.run()
            assert blank.state() == before


def test_markup_in_a_name_is_text_in_every_html_form(blank: Machine) -> None:
    blank.boot(blank.image("disk"))
    (name,) = blank.names
    overlay = blank.file(ODD["markup"])
    with blank.connect() as vm:
        bad = vm.plan({name: overlay, "<b>": "<i>"})
        assert "<script>" not in bad._repr_html_()
        assert "<b>" not in bad._repr_html_()
        good = vm.plan({name: overlay})
        for form in good.forms:
            assert "<script>" not in good.preview(form)._repr_html_()
        assert "<script>" not in good.run()._repr_html_()


@every_engine
def test_a_roundabout_name_is_recognized_afterwards(blank: Machine, engine: str) -> None:
    blank.boot_small(4)
    blank.folder("sub")
    os.symlink(blank.directory, blank.file("link"))
    spellings = ["./a", "/b", "link/c", "sub/../d"]
    targets = {
        name: f"{blank.directory}/{spelling}"
        for name, spelling in zip(blank.names, spellings, strict=True)
    }
    with blank.connect() as vm:
        outcome = vm.snapshot(targets, engine=engine)
    assert outcome.ok, outcome.findings
    assert {"a", "b", "c", "d"} <= set(os.listdir(blank.directory))


def test_no_terminal_escape_in_a_name_gets_into_an_error(blank: Machine) -> None:
    blank.boot(blank.image("disk"))
    (name,) = blank.names
    target = blank.file("\x1b[31mred")

    def appear(phase: str) -> None:
        if phase == "prepare":
            with open(target, "w") as file:
                file.write("theirs")

    with blank.connect() as vm, pytest.raises(snapkit.SnapkitError) as caught:
        vm.plan({name: target}).run(appear)
    assert "\x1b" not in str(caught.value)
    assert r"\x1b" in str(caught.value)


def test_an_image_under_another_name_is_the_same_disk(blank: Machine) -> None:
    image = blank.image("disk")
    os.symlink(image.file, blank.file("alias"))
    alias: Image = replace(image, file=blank.file("alias"))
    blank.boot(alias)
    (name,) = blank.names
    with blank.connect() as vm:
        plan = vm.plan({name: image.file})
        assert "in use" in {problem.check for problem in plan.problems}
        assert vm.snapshot(blank.targets()).ok
    assert chain_of(blank.targets()[name])[-1]["format"] == "qcow2"
