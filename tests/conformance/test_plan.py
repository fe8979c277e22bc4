"""A plan as tables and text; making one changes nothing. None of these tests does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import snapkit
from snapkit.checks import CHECKS
from tests.conformance.machines import Machine


@pytest.fixture
def vm(standing: Machine) -> Iterator[snapkit.VirtualMachine]:
    with standing.connect() as connected:
        yield connected


@pytest.fixture
def names(standing: Machine) -> list[str]:
    return standing.names


def test_looking_and_planning_send_nothing_that_changes_anything(standing: Machine) -> None:
    before, tap = standing.state(), standing.tap()
    with standing.connect(tap) as vm:
        vm.devices(), vm.layers(), vm.stats(), vm.events()
        plan = vm.plan(standing.names)
        for form in plan.forms:
            plan.preview(form)
        plan.to_frame(), plan.checks(), repr(plan), plan._repr_html_()
        assert plan.ok
    assert standing.sent(tap) == []
    assert standing.state() == before


def test_the_table_of_a_plan_says_what_will_happen_and_what_stands_in_the_way(
    standing: Machine, vm: snapkit.VirtualMachine, names: list[str]
) -> None:
    frame = vm.plan({names[0]: standing.file("a.snap"), names[1]: "relative"}).to_frame()
    assert list(frame.index) == names[:2]
    assert frame.index.name == "device"
    assert list(frame.columns) == (
        "node file_before snapshot_file format mode overlay_node ok problems".split()
    )
    assert frame.loc[names[0], "file_before"] == standing.images[names[0]].file
    assert list(frame["node"]) == [vm.devices()["node"].to_dict()[name] for name in names[:2]]
    assert list(frame["snapshot_file"]) == [standing.file("a.snap"), "relative"]
    assert set(frame["mode"]) == {"absolute-paths"}
    assert set(frame["format"]) == {"qcow2"}
    assert list(frame["ok"]) == [True, False]
    assert "not absolute" in str(frame.loc[names[1], "problems"])


def test_the_matrix_of_checks_has_a_row_a_device_and_a_column_a_check(
    standing: Machine, vm: snapkit.VirtualMachine, names: list[str]
) -> None:
    matrix = vm.plan({names[0]: standing.file("a.snap"), "nope": "/x"}).checks()
    assert list(matrix.index) == [names[0], "nope"]
    assert list(matrix.columns) == [check.name for check in CHECKS]
    assert matrix.loc[names[0], "exists"] == "ok"
    assert matrix.loc[names[0], "overlay"] == "-"
    assert str(matrix.loc["nope", "known"]).startswith("error: ")


def test_an_edited_plan_is_a_plan_again(
    standing: Machine, vm: snapkit.VirtualMachine, names: list[str]
) -> None:
    frame = vm.plan(names).to_frame()
    frame.loc[names[0], "snapshot_file"] = standing.file("mine.snap")
    frame.loc[names[0], "format"] = "qed"
    frame["include"] = [True, False, False]
    plan = vm.plan(frame)
    assert plan.ok
    assert [(t.device, t.file, t.format) for t in plan.targets] == [
        (names[0], standing.file("mine.snap"), "qed")
    ]


def test_a_table_of_devices_with_a_column_of_files_is_a_plan(
    standing: Machine, vm: snapkit.VirtualMachine, names: list[str]
) -> None:
    frame = vm.devices()
    files = {names[0]: np.nan, names[1]: np.str_(standing.file("b.snap")), names[2]: None}
    frame["snapshot_file"] = pd.Series(files)
    plan = vm.plan(frame)
    assert [(t.device, t.file, t.format) for t in plan.targets] == [
        (names[1], standing.file("b.snap"), "qcow2")
    ]
    assert plan.ok
    assert vm.plan(pd.DataFrame({"snapshot_file": []})).problems[0].check == "targets"


def test_overlays_of_one_plan_share_the_first_tag_that_is_free_for_all(
    standing: Machine, vm: snapkit.VirtualMachine, names: list[str]
) -> None:
    taken = Path(standing.file("system.snap1.qcow2"))
    taken.touch()
    both, one = vm.plan(names[:2]), vm.plan(name for name in names[1:2])
    taken.unlink()
    files = [target.file for target in both.targets]
    assert files == [standing.file("system.snap2.qcow2"), standing.file("data.snap2.qcow2")]
    assert [target.file for target in one.targets] == [standing.file("data.snap1.qcow2")]


def test_a_tag_and_a_template_can_be_chosen(
    standing: Machine, vm: snapkit.VirtualMachine, names: list[str]
) -> None:
    (target,) = vm.plan(names[:1], tag="before-update", format="qed").targets
    assert target.file == standing.file("system.before-update.qed")
    (target,) = vm.plan(names[:1], template="{directory}/{device}-{tag}", tag="t").targets
    assert target.file == standing.file(f"{names[0]}-t")


def test_a_device_may_be_named_by_its_node(
    standing: Machine, vm: snapkit.VirtualMachine, names: list[str]
) -> None:
    node = str(vm.devices().loc[names[1], "node"])
    plan = vm.plan({node: standing.file("x.snap")})
    assert plan.ok
    assert [target.device for target in plan.targets] == [names[1]]


def test_a_set_of_all_disks_has_no_problem_and_one_of_some_warns_of_the_rest(
    vm: snapkit.VirtualMachine, names: list[str]
) -> None:
    assert vm.plan(names).problems == ()
    some = vm.plan(names[1:])
    assert [(p.device, p.check, p.severity) for p in some.problems] == [
        (names[0], "left out", "warning")
    ]
    assert some.ok
    told = str(some.checks().loc[names[1], "left out"])
    assert told.startswith(f"warning: {names[0]}: ")


def test_a_plan_shows_itself_in_one_line_and_as_html(
    vm: snapkit.VirtualMachine, names: list[str]
) -> None:
    good, bad = vm.plan(names), vm.plan({names[0]: ""})
    assert repr(good) == f"<Plan: {', '.join(names)}; ok; 0 problems>"
    assert repr(bad) == f"<Plan: {names[0]}; refused; 1 problem, 2 warnings>"
    assert "<table" in good._repr_html_()
    assert "no snapshot file is given" in bad._repr_html_()
    assert repr(vm.plan({})) == "<Plan: nothing; refused; 1 problem>"


def test_a_preview_shows_itself_as_it_is(vm: snapkit.VirtualMachine, names: list[str]) -> None:
    plan = vm.plan(names)
    assert plan.preview() == plan.preview(plan.forms[0])
    for form in plan.forms:
        preview = plan.preview(form)
        assert repr(preview) == preview
        assert preview._repr_html_().startswith("<pre")


def test_a_form_that_there_is_not_is_refused_with_those_that_there_are(
    vm: snapkit.VirtualMachine, names: list[str]
) -> None:
    plan = vm.plan(names)
    others = {"qmp", "qmp-shell", "xml", "virsh", "", "PYTHON"} - set(plan.forms)
    assert len(others) == 4
    for form in others:
        with pytest.raises(snapkit.SnapkitError, match=f"Choose one of: {', '.join(plan.forms)}"):
            plan.preview(form)


def test_a_refused_plan_previews_nothing(vm: snapkit.VirtualMachine, names: list[str]) -> None:
    plan = vm.plan({names[0]: "relative"})
    for form in plan.forms:
        with pytest.raises(snapkit.PlanError, match="refused"):
            plan.preview(form)


def test_an_option_that_there_is_not_is_refused(
    vm: snapkit.VirtualMachine, names: list[str]
) -> None:
    with pytest.raises(snapkit.PlanError, match="no option 'modus'"):
        vm.plan(names, modus="existing")
    with pytest.raises(snapkit.PlanError, match="prepared, classic"):
        vm.plan(names, engine="fast")


def test_quiescing_that_is_required_is_refused_and_otherwise_warned_of(
    vm: snapkit.VirtualMachine, names: list[str]
) -> None:
    required, tried = vm.plan(names, quiesce="require"), vm.plan(names, quiesce="try")
    assert {(p.check, p.severity) for p in required.problems} == {("quiesce", "error")}
    assert {(p.check, p.severity) for p in tried.problems} == {("quiesce", "warning")}
