"""The exact commands, by writing down the graph."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapkit.backends import qmp_script
from snapkit.errors import SnapkitError
from snapkit.facts import Facts
from snapkit.model import Device, Graph, Job, Layer, Node, Target
from snapkit.script import Command, Script

MIB = 1024 * 1024


def world(*names: str, cluster: int | None = None, depth: int = 0, **options: Any) -> Facts:
    devices, nodes = {}, {}
    for number, name in enumerate(names):
        node = f"#block{number}"
        layer = Layer(node, "qcow2", f"/imgs/{number}.qcow2", MIB, MIB, None, None)
        layers = tuple(layer for _ in range(depth + 1))
        devices[name] = Device(name, root=node, node=node, layers=layers, **options)
        nodes[node] = Node(node, "qcow2", layer.file, layer.file, cluster_size=cluster)
    return Facts(Graph(devices, nodes), {})


def write(
    *names: str, engine: str = "prepared", mode: str = "absolute-paths", **more: Any
) -> Script:
    targets = [Target(name, f"/over/{n}", mode=mode) for n, name in enumerate(names)]
    return qmp_script.write(targets, world(*names, **more), engine)


def executed(script: Script) -> list[str]:
    return [command.execute for command in script.commands]


def test_prepared_each_step_is_taken_for_all_devices_before_the_next() -> None:
    script = write("drive0", "drive1")
    steps = ["blockdev-create", "job-dismiss", "blockdev-add"] * 2
    assert executed(script) == [name for step in steps for name in (step, step)] + ["transaction"]
    assert [c.device for c in script.commands[:2]] == ["drive0", "drive1"]
    assert script.switch.arguments == {
        "actions": [
            {"type": "blockdev-snapshot", "data": {"node": "#block0", "overlay": "drive0-snap1"}},
            {"type": "blockdev-snapshot", "data": {"node": "#block1", "overlay": "drive1-snap1"}},
        ]
    }


def test_prepared_an_existing_overlay_is_only_opened() -> None:
    script = write("drive0", mode="existing")
    assert executed(script) == ["blockdev-add", "blockdev-add", "transaction"]


def test_the_header_is_written_with_backing_file_and_format_and_the_disk_s_size() -> None:
    options: Any = write("drive0").prepare[3].arguments["options"]
    assert options == {
        "driver": "qcow2",
        "file": "drive0-snap1-file",
        "size": MIB,
        "backing-file": "/imgs/0.qcow2",
        "backing-fmt": "qcow2",
    }


@pytest.mark.parametrize(("cluster", "given_on"), [(None, None), (65536, None), (2 * MIB, 2 * MIB)])
def test_an_unusual_cluster_size_is_kept(cluster: int | None, given_on: int | None) -> None:
    options: Any = write("drive0", cluster=cluster).prepare[3].arguments["options"]
    assert options.get("cluster-size") == given_on


def test_the_cluster_size_of_another_format_is_not_taken_over() -> None:
    targets = [Target("drive0", "/over/x", "qed")]
    script = qmp_script.write(targets, world("drive0", cluster=2 * MIB), "prepared")
    options: Any = script.prepare[3].arguments["options"]
    assert "cluster-size" not in options


def test_classic_a_drive_is_named_as_the_article_does() -> None:
    script = write("drive0", engine="classic", drive="drive0")
    assert script.prepare == ()
    (action,) = actions(script)
    assert action["data"] == {
        "device": "drive0",
        "snapshot-file": "/over/0",
        "format": "qcow2",
        "mode": "absolute-paths",
    }


@pytest.mark.parametrize("options", [{}, {"drive": "drive0", "filters": ("throttle0",)}])
def test_classic_without_a_drive_or_below_a_filter_the_node_is_named(
    options: dict[str, Any],
) -> None:
    (action,) = actions(write("drive0", engine="classic", mode="existing", **options))
    assert action["data"] == {
        "node-name": "#block0",
        "snapshot-node-name": "drive0-snap1",
        "snapshot-file": "/over/0",
        "format": "qcow2",
        "mode": "existing",
    }


def actions(script: Script) -> Any:
    return script.switch.arguments["actions"]


HOSTILE = st.one_of(
    st.text(max_size=60),
    st.sampled_from(["", "#block0", "1", "drive0-snap1", "a" * 99, "-", "/machine/x[0]", "äöü"]),
)


@given(st.lists(HOSTILE, min_size=1, max_size=6, unique=True), st.integers(0, 200))
def test_node_names_are_valid_short_and_their_own_for_any_device_name(
    names: list[str], depth: int
) -> None:
    facts = world(*names, depth=depth)
    targets = [Target(name, f"/over/{n}") for n, name in enumerate(names)]
    overlays = qmp_script.write(targets, facts, "prepared").overlays
    made = [name for overlay in overlays for name in (overlay.node, overlay.file_node)]
    assert len(set(made)) == len(made)
    assert not set(made) & (set(facts.graph.nodes) | set(names))
    for name in made:
        assert re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]{0,30}", name)


def test_a_node_name_or_a_job_that_is_taken_is_gone_round() -> None:
    facts = world("drive0")
    nodes = {**facts.graph.nodes, "drive0-snap1": Node("drive0-snap1", "null-co")}
    jobs = (Job("create-drive0-snap2-file", "create", "concluded"),)
    taken = replace(facts, graph=Graph(facts.graph.devices, nodes, jobs))
    (overlay,) = qmp_script.write([Target("drive0", "/x")], taken, "prepared").overlays
    assert overlay.node == "drive0-snap3"


def test_qmp_is_one_command_a_line_as_it_is_sent() -> None:
    script = write("drive0")
    lines = qmp_script.render(script, "qmp").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"execute": c.execute, "arguments": c.arguments} for c in script.commands
    ]
    assert Command("query-jobs", {}).to_json() == '{"execute": "query-jobs"}'


def test_qmp_shell_takes_a_transaction_line_by_line() -> None:
    script = write("drive0", "drive1", engine="classic", drive="d")
    assert qmp_script.render(script, "qmp-shell").splitlines() == [
        "transaction(",
        "blockdev-snapshot-sync device=d snapshot-file=/over/0 format=qcow2 mode=absolute-paths",
        "blockdev-snapshot-sync device=d snapshot-file=/over/1 format=qcow2 mode=absolute-paths",
        ")",
    ]


@pytest.mark.parametrize("name", ["/a b", "/a'b", '/a"b', "/a\nb"])
def test_qmp_shell_is_not_given_what_it_would_misread(name: str) -> None:
    script = qmp_script.write([Target("drive0", name)], world("drive0"), "classic")
    with pytest.raises(SnapkitError, match="it has no quoting"):
        qmp_script.render(script, "qmp-shell")


def test_another_form_is_refused() -> None:
    with pytest.raises(SnapkitError, match="no preview 'xml'"):
        qmp_script.render(write("drive0"), "xml")
