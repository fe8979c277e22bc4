"""The checks of whether a device can be snapshotted, by writing down facts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from snapkit.model import Device, Graph, Job, Node, Problem, Target
from tests.checks.world import DRIVE0, GOOD, MIB, check, device, facts, free, graph, layer, one

JOB = Job("j", "mirror", "running", ("drive0-0",))


def refused(found: Device, jobs: tuple[Job, ...] = (), **nodes: Node) -> list[Problem]:
    shape = graph(found)
    known = Graph({found.name: found}, {**shape.nodes, **nodes}, jobs)
    return check(Target(found.name, "/over/x"), known=facts(free("/over/x"), graph=known))


BARE = replace(DRIVE0, layers=(layer("n", "/imgs/a", "file"),), node="", root="n")
REASONS: dict[str, tuple[Device, dict[str, Any], str]] = {
    "empty": (device("cd0", why_not="it is empty"), {}, "no medium is inserted"),
    "filter": (
        device("drive0", root="throttle0", why_not="it stands on nothing"),
        {},
        "its filter throttle0 stands on nothing",
    ),
    "protocol": (
        replace(BARE, why_not="it is a file"),
        {"n": Node("n", "file")},
        "its node n is a protocol node (file) without a format above it",
    ),
    "unattached": (
        replace(DRIVE0, attached=False, why_not="unused"),
        {},
        "neither a guest device nor an export uses this node",
    ),
    "job": (replace(DRIVE0, why_not="busy"), {"jobs": (JOB,)}, "the job j (mirror, running)"),
    "read-only": (replace(DRIVE0, read_only=True, why_not="read-only"), {}, "it is read-only"),
}


@pytest.mark.parametrize("name", REASONS)
def test_each_reason_against_a_snapshot_is_told_once_by_its_own_check(name: str) -> None:
    found, more, words = REASONS[name]
    assert words in one(refused(found, **more), name).message


def test_a_reason_that_no_check_knows_is_told_in_the_device_s_own_words() -> None:
    problem = one(refused(replace(DRIVE0, why_not="it is the same disk as vda")), "snapshotable")
    assert problem.message == "it cannot be snapshotted: it is the same disk as vda"


def test_all_reasons_are_told_at_once() -> None:
    found = refused(replace(DRIVE0, read_only=True, why_not="busy"), (JOB,))
    assert [problem.check for problem in found] == ["job", "read-only"]


def test_a_job_on_another_disk_is_no_reason() -> None:
    assert refused(DRIVE0, (replace(JOB, nodes=("other",)),)) == []


def test_a_job_on_a_filter_of_the_disk_is_one() -> None:
    above = replace(DRIVE0, filters=("mirror_top",), why_not="busy")
    one(refused(above, (replace(JOB, nodes=("mirror_top",)),)), "job")


@pytest.mark.parametrize(
    ("facts_", "warned"),
    [
        ({"removable": True, "qdev": "usb0"}, True),
        ({"removable": False, "qdev": "usb0"}, False),
        # QEMU calls a drive that no guest device uses removable.
        ({"removable": True, "qdev": ""}, False),
    ],
)
def test_a_removable_medium_is_a_warning(facts_: dict[str, Any], warned: bool) -> None:
    found = refused(replace(DRIVE0, **facts_))
    assert [(p.check, p.severity) for p in found] == [("removable", "warning")] * warned


def test_an_empty_removable_drive_is_only_empty() -> None:
    found = refused(device("cd0", removable=True, qdev="cd0", why_not="it is empty"))
    assert one(found, "empty").remedy == "Insert a medium first, or leave the device out"


@pytest.mark.parametrize("node", ["", "drive\N{REPLACEMENT CHARACTER}", "a\0"])
def test_a_node_that_cannot_be_named_is_refused(node: str) -> None:
    odd = replace(DRIVE0, node=node, layers=(replace(DRIVE0.layers[0], node=node),))
    known = Graph({"drive0": odd}, {node: Node(node, "qcow2", virtual_size=MIB)})
    found = check(GOOD, known=facts(free(GOOD.file), graph=known))
    assert "cannot be sent" in one(found, "node name").message


def test_an_overlay_s_node_that_qemu_would_not_take_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("#1", "drive0-0", "a" * 30):
        monkeypatch.setattr("snapkit.node_names.propose", lambda *_, name=name: [name])
        assert "QEMU does not take" in one(check(GOOD)[:1], "node name").message
