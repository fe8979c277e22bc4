"""Answers that are not what QMP says they are: refused or read, never stumbled over."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapkit.backends.qmp_graph import Inconsistent, Malformed, Reading, build, danger
from tests.backends.answers import Vm


@pytest.fixture(scope="module")
def whole() -> Reading:
    """A reading with something of everything."""
    vm = Vm()
    vm.image("base", "/imgs/base")
    vm.device(vm.image("top", "/imgs/top", backing="base"), drive="drive0", qdev="q0")
    vm.device(qdev="cd0")
    vm.stats.append({"device": "drive0", "qdev": "q0", "stats": {"rd_bytes": 1}})
    vm.export("e0", vm.image("n1"))
    vm.job("job0", "mirror", "n1")
    return vm.reading()


def places(value: Any, path: Sequence[Any] = ()) -> Iterable[Sequence[Any]]:
    """The way to every value within an answer."""
    if path:
        yield path
    for key, inner in enumerate(value) if isinstance(value, list) else dict(value or {}).items():
        if isinstance(inner, list | dict):
            yield from places(inner, (*path, key))
        else:
            yield (*path, key)


ODD: tuple[Any, ...] = (
    None,
    "x",
    -1,
    1.5,
    float("nan"),
    True,
    [],
    {},
    [[]],
    {"x": 1},
    2**70,
    "\ud800",
    "\x1b[31m",
)


def answers(reading: Reading) -> dict[str, Any]:
    return {name: copy.deepcopy(getattr(reading, name)) for name in reading.__slots__}


def try_to_build(given_answers: dict[str, Any]) -> None:
    """Whatever comes, it is a graph or one of two errors, and every text can be stored."""
    try:
        danger(given_answers["graph"], given_answers.get("jobs", []))
        graph = build(Reading(**given_answers))
    except (Inconsistent, Malformed):
        return
    repr(graph).encode()
    assert graph.fingerprint


@pytest.mark.parametrize("name", ["block", "nodes", "graph", "stats", "jobs", "exports"])
def test_an_answer_with_anything_else_in_any_place_is_refused_or_read(
    whole: Reading, name: str
) -> None:
    for value in ODD:
        try_to_build(answers(whole) | {name: value})
    for path in places(getattr(whole, name)):
        for value in (*ODD, "gone"):
            changed = answers(whole)
            inner = changed[name]
            for key in path[:-1]:
                inner = inner[key]
            if value == "gone":
                del inner[path[-1]]
            else:
                inner[path[-1]] = value
            try_to_build(changed)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(json_values, json_values, json_values)
def test_answers_of_any_shape_are_refused_or_read(one: Any, two: Any, three: Any) -> None:
    names = {
        "block": one,
        "nodes": two,
        "graph": three,
        "stats": one,
        "jobs": two,
        "exports": three,
    }
    try_to_build(names)
    try_to_build({"block": one, "nodes": [], "graph": {"nodes": [], "edges": []}, "jobs": three})
