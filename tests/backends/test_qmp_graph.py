"""The block graph, from answers as QEMU gives them, written down by hand."""

from __future__ import annotations

import pytest

from snapkit.backends.qmp_graph import Inconsistent, Malformed, Reading, build, danger
from tests.backends.answers import VIRTIO, Vm


@pytest.fixture
def vm() -> Vm:
    return Vm()


def test_a_drive_is_called_by_its_id_and_a_blockdev_disk_by_its_qdev_id(vm: Vm) -> None:
    vm.device(vm.image("#block1"), drive="drive0", qdev="/machine/peripheral-anon/device[0]")
    vm.device(vm.image("n1"), qdev=VIRTIO.format("vd0"))
    vm.device(vm.image("n2"), qdev="/machine/peripheral-anon/device[1]/virtio-backend")
    vm.device(vm.image("n3"), qdev="vb")

    graph = vm.build()

    assert list(graph.devices) == ["drive0", "vd0", "peripheral-anon/device[1]", "vb"]
    assert [d.node for d in graph.devices.values()] == ["#block1", "n1", "n2", "n3"]
    for name in ("drive0", "/machine/peripheral-anon/device[0]", "#block1"):
        assert graph.find(name) is graph.devices["drive0"]
    for name in ("vd0", VIRTIO.format("vd0"), "n1"):
        assert graph.find(name) is graph.devices["vd0"]
    assert graph.find("nobody") is None


def test_a_drive_and_a_qdev_id_of_the_same_name_are_two_disks_each_on_its_own_node(vm: Vm) -> None:
    vm.device(vm.image("n1"), drive="disk", qdev="/machine/peripheral-anon/device[0]")
    vm.device(vm.image("n2"), qdev="disk")

    graph = vm.build()

    assert {name: d.node for name, d in graph.devices.items()} == {"disk": "n1", "n2": "n2"}
    assert graph.find("disk") is graph.devices["disk"]


def test_ids_that_are_the_same_when_cut_short_stay_apart(vm: Vm) -> None:
    vm.device(vm.image("n1"), qdev=VIRTIO.format("vd0"))
    vm.device(vm.image("n2"), qdev="vd0")
    vm.device(vm.image("n3"), qdev="/machine/vd0")

    graph = vm.build()

    assert [d.node for d in graph.devices.values()] == ["n1", "n2", "n3"]
    assert list(graph.devices) == ["vd0", "n2", "/machine/vd0"]


def test_a_second_name_that_could_mean_two_disks_means_neither(vm: Vm) -> None:
    vm.device(vm.image("n1"), drive="drive0", qdev="data")
    vm.device(vm.image("data"), qdev="vd1")

    graph = vm.build()

    assert graph.find("data") is None
    assert graph.find("n1") is graph.devices["drive0"]


def test_the_snapshot_goes_below_the_filters(vm: Vm) -> None:
    vm.image("base", "/imgs/base.qcow2")
    vm.node("cor", "copy-on-read", "json:{}", file="base")
    vm.node("limit", "throttle", "json:{}", file="cor")
    vm.device("limit", qdev="vd0")

    device = vm.build().devices["vd0"]

    assert (device.root, device.filters, device.node) == ("limit", ("limit", "cor"), "base")
    assert (device.file, device.depth, device.snapshotable) == ("/imgs/base.qcow2", 0, True)


def test_a_chain_is_read_from_the_top_down_without_the_filters_in_it(vm: Vm) -> None:
    vm.image("base", "/imgs/base.qcow2")
    vm.node("limit", "throttle", "json:{}", file="base")
    vm.image("top", "/imgs/top.qcow2", backing="limit")
    vm.device("top", qdev="vd0")

    device = vm.build().devices["vd0"]

    assert [layer.node for layer in device.layers] == ["top", "base"]
    assert device.layers[0].backing_file == "/imgs/base.qcow2"
    assert device.layers[1].backing_file is None
    assert device.inner == ("top-file", "base-file")


def test_a_chain_of_a_thousand_images_is_read(vm: Vm) -> None:
    name = vm.image("n0")
    for number in range(1, 1000):
        name = vm.image(f"n{number}", backing=name)
    vm.device(name, drive="drive0")

    assert vm.build().devices["drive0"].depth == 999


def test_what_must_not_be_snapshotted_says_why(vm: Vm) -> None:
    vm.device(vm.node("protocol", "file", "/imgs/a"), drive="plain")
    vm.device(qdev="cd0")
    vm.device(vm.image("disc"), drive="cd1", ro=True)
    vm.device(vm.image("moving"), drive="busy")
    vm.job("job0", "mirror", "moving")
    vm.image("alone")

    graph = vm.build()

    assert {name: device.why_not for name, device in graph.devices.items()} == {
        "plain": "its node protocol is a protocol node (file) without a format above it",
        "cd0": "it is empty: no medium is inserted",
        "cd1": "it is read-only: nothing is written to it",
        "busy": "the job job0 (mirror, running) is running on it",
        "alone": "neither a guest device nor an export uses this node",
    }
    assert not any(device.snapshotable for device in graph.devices.values())
    assert graph.devices["plain"].node == ""
    assert not graph.devices["alone"].attached


def test_a_job_holds_a_disk_also_through_its_filter(vm: Vm) -> None:
    vm.image("base")
    vm.node("#block9", "mirror_top", "json:{}", backing="base")
    vm.device("#block9", drive="drive0", shown="base")
    vm.job("job0", "mirror", "#block9")

    device = vm.build().devices["drive0"]

    assert (device.root, device.node, device.filters) == ("#block9", "base", ("#block9",))
    assert "job0" in device.why_not


def test_the_left_over_filter_of_an_ended_job_is_a_danger(vm: Vm) -> None:
    vm.device(vm.image("n0"), drive="drive0")
    vm.node("#block9", "copy-on-read", "json:{}")
    vm.job("job0", "stream", "#block9", "n0")
    assert danger(vm.graph, vm.jobs) == ""

    vm.jobs[0]["status"] = "concluded"
    assert "job-dismiss with the id job0" in danger(vm.graph, vm.jobs)

    vm.edges = [edge for edge in vm.edges if edge["child"] != vm.id_of("#block9")]
    assert danger(vm.graph, vm.jobs) == ""


def test_one_disk_that_is_used_twice_is_snapshotted_once(vm: Vm) -> None:
    vm.device(vm.image("n1"), drive="drive0")
    vm.export("out", "n1")

    graph = vm.build()

    assert graph.devices["drive0"].snapshotable
    assert graph.devices["out"].why_not == "it is the same disk as drive0 (node n1): snapshot that"
    assert graph.find("n1") is graph.devices["drive0"]


def test_an_image_with_another_on_top_of_it_is_not_snapshotted(vm: Vm) -> None:
    vm.export("old", vm.image("base"))
    vm.export("new", vm.image("top", backing="base"))

    graph = vm.build()

    assert graph.devices["new"].snapshotable
    assert graph.devices["old"].why_not == "its node base is the backing file of the node top"


def test_exports_of_a_storage_daemon_are_its_devices(vm: Vm) -> None:
    vm.export("e0", vm.image("n0", "/imgs/n0.qcow2"))
    vm.image("n1")

    graph = vm.build()

    assert list(graph.devices) == ["e0", "n1"]
    assert graph.devices["e0"].attached
    assert not graph.devices["n1"].attached
    assert graph.devices["e0"].stats == {}


def test_counters_are_those_of_the_device(vm: Vm) -> None:
    vm.device(vm.image("n0"), drive="drive0", qdev="q0")
    vm.device(vm.image("n1"), qdev="q1")
    some = {"rd_bytes": 1, "wr_bytes": 2, "rd_operations": 3, "wr_operations": 4, "unknown": "x"}
    vm.stats.append({"device": "drive0", "qdev": "q0", "stats": some})
    vm.stats.append({"device": "", "qdev": "q1", "stats": some | {"rd_bytes": 2**62}})

    graph = vm.build()

    assert graph.devices["drive0"].stats == {
        "rd_bytes": 1,
        "wr_bytes": 2,
        "rd_ops": 3,
        "wr_ops": 4,
    }
    assert graph.devices["q1"].stats["rd_bytes"] == 2**62


@pytest.mark.parametrize(
    ("given_name", "file"),
    [
        ("/imgs/a", "/imgs/a"),
        ("a.img", "/vm/a.img"),
        ("./a:b.img", "/vm/a:b.img"),
        ("../a.img", "/a.img"),
        ("nbd://host/x", "nbd://host/x"),
        ("nbd+unix:///x?socket=y", "nbd+unix:///x?socket=y"),
        ('json:{"driver": "qcow2", "file": {"driver": "file", "filename": "/imgs/a"}}', "/imgs/a"),
        ('json:{"driver": "file", "filename": "a"}', "/vm/a"),
        (
            'json:{"backing": "", "driver": "qed", "file": {"driver": "file", "filename": "/a"}}',
            "/a",
        ),
        ('json:{"driver": "raw", "offset": 1, "file": {"driver": "file", "filename": "/a"}}', None),
        ('json:{"driver": "qcow2", "file": {"driver": "nbd", "filename": "/a"}}', None),
        ('json:{"driver": "qcow2", "file": "n0"}', None),
        ("json:{not json", None),
        ("json:" + "[" * 100_000, None),
        (
            "/imgs/<script>alert(1)</script>\n\x1b[31m'\"",
            "/imgs/<script>alert(1)</script>\n\x1b[31m'\"",
        ),
        ("/imgs/\ufffd.img", "/imgs/\ufffd.img"),
        ("", ""),
    ],
)
def test_a_file_name_is_made_plain_and_absolute_where_that_loses_nothing(
    vm: Vm, given_name: str, file: str | None
) -> None:
    vm.image("n0")
    vm.nodes[-1]["file"] = given_name
    vm.device("n0", drive="drive0")

    graph = vm.build()

    assert graph.devices["drive0"].file == (given_name if file is None else file)
    assert graph.nodes["n0"].given_name == given_name


def test_a_relative_name_stays_where_qemus_directory_is_not_known(vm: Vm) -> None:
    vm.directory = ""
    vm.device(vm.image("n0", "a.img"), drive="drive0")

    assert vm.build().devices["drive0"].file == "a.img"


def test_a_graph_that_changed_between_two_answers_is_read_again(vm: Vm) -> None:
    vm.device(vm.image("n0"), drive="drive0")
    vm.export("e0", vm.image("n1"))
    whole = vm.reading()
    build(whole)
    spare = {"id": 99, "type": "block-driver", "name": "new"}
    for changed in (
        Reading(whole.block, vm.nodes[1:], whole.graph, exports=whole.exports),
        Reading(whole.block, [*vm.nodes, vm.nodes[0] | {"node-name": "new"}], whole.graph),
        Reading(whole.block, whole.nodes, vm.graph | {"nodes": [*vm.points, spare]}),
        # The disk was moved to another node, or unplugged, after query-block.
        Reading([vm.block[0] | {"inserted": {"node-name": "n1"}}], whole.nodes, whole.graph),
        Reading([vm.block[0] | {"device": "unplugged"}], whole.nodes, whole.graph),
        Reading(
            whole.block, whole.nodes, whole.graph, exports=[vm.exports[0] | {"node-name": "n0"}]
        ),
    ):
        with pytest.raises(Inconsistent):
            build(changed)


def test_a_graph_that_bites_its_tail_is_refused(vm: Vm) -> None:
    vm.image("a")
    vm.image("b", backing="a")
    vm.edge(vm.id_of("a"), "b", "backing")
    vm.device("b", drive="drive0")

    with pytest.raises(Malformed, match="stands on itself"):
        vm.build()


def test_storage_that_bites_its_tail_ends(vm: Vm) -> None:
    vm.image("a")
    vm.edge(vm.id_of("a-file"), "a", "file")
    vm.device("a", drive="drive0")

    assert vm.build().devices["drive0"].inner == ("a-file", "a")


def test_half_a_surrogate_pair_is_shown_as_a_replacement(vm: Vm) -> None:
    vm.device(vm.image("n0", "/imgs/\ud800x"), drive="drive0")

    assert vm.build().devices["drive0"].file == "/imgs/\ufffdx"


def test_the_fingerprint_changes_with_the_chain_and_not_with_the_counters(vm: Vm) -> None:
    vm.image("base")
    vm.device(vm.image("top", backing="base"), drive="drive0")
    before = vm.build().fingerprint
    vm.stats.append({"device": "drive0", "stats": {"rd_bytes": 5}})
    assert vm.build().fingerprint == before

    vm.nodes[1]["file"] = "another"
    assert vm.build().fingerprint != before
