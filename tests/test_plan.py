"""A plan as tables and text. What it previews is what it sends: see test_preview."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import snapkit
from snapkit.checks import CHECKS
from tests.conftest import Process, create_image
from tests.outside import graph, state
from tests.recorder import Recorder
from tests.wire import changes


@pytest.fixture
def wire(seed_qemu: Process, recorder: Callable[..., Recorder]) -> Recorder:
    return recorder(seed_qemu.uri)


@pytest.fixture
def vm(wire: Recorder) -> Iterator[snapkit.VirtualMachine]:
    with snapkit.connect(wire.uri, local=True) as connected:
        yield connected


def test_making_a_plan_changes_nothing(
    seed_qemu: Process, wire: Recorder, vm: snapkit.VirtualMachine
) -> None:
    before = state(seed_qemu)
    plan = vm.plan(["drive0", "drive1"])
    for form in plan.forms:
        plan.preview(form)
    plan.to_frame(), plan.checks(), repr(plan), plan._repr_html_()
    assert plan.ok
    assert changes(wire) == []
    assert state(seed_qemu) == before


def test_the_table_of_a_plan_says_what_will_happen_and_what_stands_in_the_way(
    vm: snapkit.VirtualMachine, directory: Path
) -> None:
    frame = vm.plan({"drive0": str(directory / "a.snap"), "drive1": "relative"}).to_frame()
    assert list(frame.index) == ["drive0", "drive1"]
    assert frame.index.name == "device"
    assert list(frame.columns) == (
        "node file_before snapshot_file format mode overlay_node ok problems".split()
    )
    assert frame.loc["drive0", "file_before"] == str(directory / "win2003.img")
    assert list(frame["ok"]) == [True, False]
    assert "not absolute" in str(frame.loc["drive1", "problems"])


def test_the_matrix_of_checks_has_a_row_a_device_and_a_column_a_check(
    vm: snapkit.VirtualMachine, directory: Path
) -> None:
    matrix = vm.plan({"drive0": str(directory / "a.snap"), "nope": "/x"}).checks()
    assert list(matrix.index) == ["drive0", "nope"]
    assert list(matrix.columns) == [check.name for check in CHECKS]
    assert matrix.loc["drive0", "exists"] == "ok"
    assert matrix.loc["drive0", "overlay"] == "-"
    assert str(matrix.loc["nope", "known"]).startswith("error: ")


def test_an_edited_plan_is_a_plan_again(vm: snapkit.VirtualMachine, directory: Path) -> None:
    frame = vm.plan(["drive0", "drive1"]).to_frame()
    frame.loc["drive0", "snapshot_file"] = str(directory / "mine.snap")
    frame.loc["drive0", "format"] = "qed"
    frame["include"] = [True, False]
    plan = vm.plan(frame)
    (target,) = plan.targets
    assert (target.device, target.file, target.format) == (
        "drive0",
        str(directory / "mine.snap"),
        "qed",
    )
    outcome = plan.run()
    assert outcome.ok
    assert list(outcome.to_frame().index) == ["drive0"]


def test_a_table_of_devices_with_a_column_of_files_is_a_plan(
    vm: snapkit.VirtualMachine, directory: Path
) -> None:
    frame = vm.devices()
    frame["snapshot_file"] = pd.Series({"drive0": np.nan, "drive1": np.str_(directory / "b.snap")})
    plan = vm.plan(frame)
    assert [(t.device, t.file, t.format) for t in plan.targets] == [
        ("drive1", str(directory / "b.snap"), "qcow2")
    ]
    assert plan.ok
    assert vm.plan(pd.DataFrame({"snapshot_file": []})).problems[0].check == "targets"


def test_overlays_of_one_plan_share_the_first_tag_that_is_free_for_all(
    vm: snapkit.VirtualMachine, directory: Path
) -> None:
    create_image(directory / "data.snap1.qcow2", "1M")
    files = [target.file for target in vm.plan(["drive0", "drive1"]).targets]
    assert files == [f"{directory}/win2003.snap2.qcow2", f"{directory}/data.snap2.qcow2"]
    given = vm.plan(name for name in ("drive0",))
    assert [target.file for target in given.targets] == [f"{directory}/win2003.snap1.qcow2"]


def test_a_tag_can_be_chosen(vm: snapkit.VirtualMachine, directory: Path) -> None:
    (target,) = vm.plan(["drive0"], tag="before-update", format="qed").targets
    assert target.file == f"{directory}/win2003.before-update.qed"


def test_a_device_may_be_named_by_its_node(
    seed_qemu: Process, vm: snapkit.VirtualMachine, directory: Path
) -> None:
    node = graph(seed_qemu)["devices"]["drive1"][1]
    plan = vm.plan({node: str(directory / "x.snap")})
    assert plan.ok
    assert [target.device for target in plan.targets] == ["drive1"]


def test_a_plan_shows_itself_in_one_line_and_as_html(
    vm: snapkit.VirtualMachine, directory: Path
) -> None:
    good, bad = vm.plan(["drive0", "drive1"]), vm.plan({"drive0": ""})
    assert repr(good) == "<Plan: drive0, drive1; ok; 0 problems>"
    assert repr(bad) == "<Plan: drive0; refused; 1 problem, 1 warning>"
    assert "<table" in good._repr_html_()
    assert "no snapshot file is given" in bad._repr_html_()
    assert repr(vm.plan({})) == "<Plan: nothing; refused; 1 problem>"


def test_a_preview_shows_itself_as_it_is(vm: snapkit.VirtualMachine) -> None:
    preview = vm.plan(["drive0"]).preview("qmp")
    assert repr(preview) == preview
    assert preview._repr_html_().startswith("<pre")


def test_an_option_that_there_is_not_is_refused(vm: snapkit.VirtualMachine) -> None:
    with pytest.raises(snapkit.PlanError, match="no option 'modus'"):
        vm.plan(["drive0"], modus="existing")
    with pytest.raises(snapkit.PlanError, match="prepared, classic"):
        vm.plan(["drive0"], engine="fast")


def test_snapshot_plans_and_runs(vm: snapkit.VirtualMachine, directory: Path) -> None:
    told: list[str] = []
    targets = {"drive0": directory / "a.snap"}
    outcome = vm.snapshot(targets, format="qed", engine="classic", progress=told.append)
    assert outcome.ok
    assert told[0] == "journal"
    assert str(outcome) == "1 disk switched at one instant"
    with pytest.raises(snapkit.PlanError, match="already exists"):
        vm.snapshot({"drive1": str(directory / "a.snap")})
