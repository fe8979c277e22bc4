from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapkit import request
from snapkit.errors import PlanError
from snapkit.model import Device, Graph, Layer, Problem, Target


def device(name: str, file: str) -> Device:
    layer = Layer(f"{name}-node", "qcow2", file, 1024, 1024, None, None)
    aliases = (f"/machine/{name}", f"{name}-node")
    return Device(name, root=layer.node, node=layer.node, layers=(layer,), aliases=aliases)


GRAPH = Graph({n: device(n, f"/imgs/{n}.qcow2") for n in ("drive0", "drive1")}, {})


def read(asked: object, **options: Any) -> request.Request:
    return request.read(asked, GRAPH, request.Options.of(options), "snap1")


def targets(asked: object, **options: Any) -> tuple[Target, ...]:
    found = read(asked, **options)
    assert found.problems == ()
    return found.targets


def problem(asked: object, **options: Any) -> Problem:
    (found,) = read(asked, **options).problems
    assert found.severity == "error"
    assert found.remedy
    return found


def test_a_dict_names_the_files() -> None:
    assert targets({"drive0": "/a", "drive1": Path("/b")}) == (
        Target("drive0", "/a"),
        Target("drive1", "/b"),
    )


def test_a_dict_can_give_each_device_its_own_format_and_mode() -> None:
    asked = {
        "drive0": {"file": "/a", "format": "qed"},
        "drive1": {"snapshot-file": "/b", "mode": "existing"},
    }
    assert targets(asked, format="qcow2") == (
        Target("drive0", "/a", "qed"),
        Target("drive1", "/b", mode="existing"),
    )


def test_a_dict_can_hold_the_targets_of_another_plan() -> None:
    target = Target("elsewhere", "/a", "qed", "existing")
    assert targets({"drive0": target}) == (Target("drive0", "/a", "qed", "existing"),)
    assert targets([Target("drive0", "/a")]) == (Target("drive0", "/a"),)


def test_a_list_is_named_by_the_template() -> None:
    assert targets(["drive0", "drive1"], format="qed") == (
        Target("drive0", "/imgs/drive0.snap1.qed", "qed"),
        Target("drive1", "/imgs/drive1.snap1.qed", "qed"),
    )


@pytest.mark.parametrize(
    "asked", ["drive0", ("drive0",), {"drive0": None}.keys(), iter(["drive0"])]
)
def test_whatever_lists_devices_is_a_list(asked: object) -> None:
    assert targets(asked) == (Target("drive0", "/imgs/drive0.snap1.qcow2"),)


@pytest.mark.parametrize("name", ["/machine/drive0", "drive0-node"])
def test_a_device_may_be_named_in_other_ways_and_gets_its_own_name(name: str) -> None:
    assert targets({name: "/a"}) == (Target("drive0", "/a"),)


def test_an_unknown_device_is_kept_for_the_checks_to_judge() -> None:
    assert targets(["nope"]) == (Target("nope", ""),)
    assert targets({"nope": "/a"}) == (Target("nope", "/a"),)


def test_names_of_bytes_are_read_as_the_file_system_does() -> None:
    assert targets({"drive0": b"/a\xff"}) == (Target("drive0", "/a\udcff"),)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (3, "cannot be read from int"),
        (None, "cannot be read from NoneType"),
        ({"drive0": 3}, "is int, not a path"),
        ({"drive0": None}, "is NoneType, not a path"),
        ({"drive0": {"file": "/a", "fromat": "qed"}}, "no field 'fromat'"),
        ({"drive0": {"file": 3}}, "is int, not a path"),
        (pd.DataFrame({"x": [1]}, index=["drive0"]), "no column 'snapshot_file'"),
    ],
)
def test_what_cannot_be_read_is_a_problem_and_not_an_error(asked: object, words: str) -> None:
    assert words in problem(asked).message


def test_a_bad_template_is_a_problem_of_each_device() -> None:
    found = read(["drive0", "drive1"], template="/x/{nope}").problems
    assert [p.device for p in found] == ["drive0", "drive1"]
    assert all("{directory}" in p.remedy for p in found)


@pytest.mark.parametrize("options", [{"engine": "fast"}, {"quiesce": "maybe"}, {"fromat": "qed"}])
def test_an_option_that_does_not_exist_is_refused_at_once(options: dict[str, str]) -> None:
    with pytest.raises(PlanError, match=str(next(iter(options)))):
        request.Options.of(options)


def frame(**columns: list[object]) -> pd.DataFrame:
    return pd.DataFrame(columns, index=pd.Index(["drive0", "drive1"], name="device"))


def test_a_table_gives_a_target_a_row() -> None:
    table = frame(snapshot_file=["/a", "/b"], format=["qed", None], mode=[np.nan, "existing"])
    assert targets(table) == (
        Target("drive0", "/a", "qed"),
        Target("drive1", "/b", mode="existing"),
    )
    assert targets(table.reset_index()) == targets(table)


@pytest.mark.parametrize(
    "empty", [None, np.nan, np.float32("nan"), pd.NA, pd.NaT, "", "  "], ids=repr
)
def test_a_row_without_a_file_is_left_out(empty: object) -> None:
    assert targets(frame(snapshot_file=["/a", empty])) == (Target("drive0", "/a"),)


@pytest.mark.parametrize(
    "no", [False, np.False_, 0, 0.0, "False", "no", "0", np.nan, pd.NA, None], ids=ascii
)
@pytest.mark.parametrize("yes", [True, np.True_, 1, 1.0, "True", "yes", "1"], ids=ascii)
def test_only_rows_that_are_to_be_included_count(yes: object, no: object) -> None:
    table = frame(snapshot_file=["/a", "/b"], include=[yes, no])
    assert targets(table) == (Target("drive0", "/a"),)


def test_a_row_that_may_or_may_not_be_included_is_a_problem() -> None:
    found = problem(frame(snapshot_file=["/a", "/b"], include=[True, "perhaps"]))
    assert (found.device, "perhaps" in found.message) == ("drive1", True)


def test_numpy_texts_are_texts() -> None:
    found = targets(frame(snapshot_file=[np.str_("/a"), np.str_("/b")]))
    assert found == (Target("drive0", "/a"), Target("drive1", "/b"))


def test_in_a_table_of_devices_file_and_format_are_those_of_the_disk() -> None:
    table = frame(virtual_size=[1, 1], file=["/imgs/a", "/imgs/b"], format=["raw", "qed"])
    assert "no column 'snapshot_file'" in problem(table).message
    table["snapshot_file"] = pd.Series({"drive0": "/a"})
    assert targets(table) == (Target("drive0", "/a", "qcow2"),)
    table["snapshot_format"] = pd.Series({"drive0": "qed"})
    assert targets(table) == (Target("drive0", "/a", "qed"),)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.lists(st.integers(), max_size=2),
    st.just(np.array([1.0, 2.0])),
    st.just(pd.NA),
)


@given(st.dictionaries(st.one_of(st.just("drive0"), st.text(max_size=5)), VALUES, max_size=3))
def test_any_dict_gives_targets_or_problems(asked: dict[str, object]) -> None:
    found = read(asked)
    assert len(found.targets) + len(found.problems) == len(asked)
    assert all(isinstance(target.file, str) for target in found.targets)


@given(st.lists(st.tuples(VALUES, VALUES, VALUES, VALUES), max_size=3))
def test_any_table_gives_targets_or_problems(rows: list[tuple[object, ...]]) -> None:
    columns = ["snapshot_file", "format", "mode", "include"]
    index = [f"drive{number}" for number in range(len(rows))]
    found = read(pd.DataFrame(rows, index=index, columns=columns, dtype=object))
    assert len(found.targets) + len(found.problems) <= len(rows)
    for target in found.targets:
        assert {type(value) for value in (target.file, target.format, target.mode)} == {str}
