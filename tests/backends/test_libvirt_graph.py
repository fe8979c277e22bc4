"""libvirt's answers as a block graph."""

from __future__ import annotations

from dataclasses import replace

import pytest

from snapkit import eligible
from snapkit.backends import libvirt_graph
from snapkit.backends.headers import Header
from snapkit.backends.libvirt_graph import BlockJob, Inconsistent, LayerStats, Reading
from snapkit.backends.libvirt_xml import Disk, Domain, Image
from snapkit.model import Graph

TOP, BASE = Image("file", "/i/top", "qcow2", 5), Image("file", "/i/base", "raw", 4)
VDA = Disk("vda", alias="virtio-disk0", images=(TOP, BASE))


def stats(disk: Disk, **counters: int) -> list[LayerStats]:
    return [LayerStats(disk.target, x.index, x.file, 1024, 512, counters) for x in disk.images]


def build(
    *disks: Disk, jobs: tuple[BlockJob, ...] = (), layers: list[LayerStats] | None = None
) -> Graph:
    counted = [each for disk in disks for each in stats(disk)] if layers is None else layers
    domain = Domain("d", "u", 1, disks)
    return libvirt_graph.build(Reading(domain, counted, jobs, lambda _: None))


def test_a_disk_is_a_device_on_the_nodes_that_libvirt_names() -> None:
    device = build(VDA).devices["vda"]
    assert [layer.node for layer in device.layers] == ["libvirt-5-format", "libvirt-4-format"]
    assert [layer.file for layer in device.layers] == ["/i/top", "/i/base"]
    assert (device.layers[0].virtual_size, device.layers[0].actual_size) == (1024, 512)
    assert (device.why_not, device.depth) == ("", 1)
    assert build(VDA).nodes["libvirt-5-storage"].driver == "file"


@pytest.mark.parametrize("name", ["virtio-disk0", "drive-virtio-disk0", "/i/top"])
def test_a_disk_is_found_by_alias_and_by_image(name: str) -> None:
    found = build(VDA).find(name)
    assert found is not None
    assert found.name == "vda"


def test_an_image_that_two_disks_are_on_names_neither() -> None:
    twin = replace(VDA, target="vdb", alias="virtio-disk1")
    assert build(VDA, twin).find("/i/top") is None


def test_counters_of_another_chain_mean_that_it_has_to_be_read_again() -> None:
    moved = replace(VDA, images=(replace(TOP, index=6), TOP, BASE))
    with pytest.raises(Inconsistent):
        build(VDA, layers=stats(moved))


def test_an_image_over_the_network_has_a_number_and_no_path() -> None:
    far = replace(BASE, kind="network", file="nbd://far:1/e")
    disk = replace(VDA, images=(TOP, far))
    counted = [replace(layer, path="") if layer.index == 4 else layer for layer in stats(disk)]
    device = build(disk, layers=counted).devices["vda"]
    assert [layer.file for layer in device.layers] == ["/i/top", "nbd://far:1/e"]
    assert [layer.virtual_size for layer in device.layers] == [1024, 1024]


def test_a_driver_without_counters_still_shows_the_chain() -> None:
    device = build(VDA, layers=[]).devices["vda"]
    assert [layer.actual_size for layer in device.layers] == [None, None]


def test_where_libvirt_gives_no_number_the_names_are_stable() -> None:
    plain = replace(VDA, images=(replace(TOP, index=None), replace(BASE, index=None)))
    assert [layer.node for layer in build(plain).devices["vda"].layers] == ["vda-0", "vda-1"]


def test_a_volume_is_named_by_the_file_that_the_counters_give() -> None:
    volume = Image("volume", "volume:pool/name", "qcow2", 5)
    disk = replace(VDA, images=(volume,))
    counted = [LayerStats("vda", 5, "/pool/name", 1, 1, {})]
    assert build(disk, layers=counted).devices["vda"].file == "/pool/name"


@pytest.mark.parametrize(
    ("disk", "words"),
    [
        (replace(VDA, images=()), "no medium"),
        (replace(VDA, read_only=True), "read-only"),
        (replace(VDA, transient=True), "transient"),
        (replace(VDA, shareable=True), "shareable"),
        (replace(VDA, device="lun"), "handed through"),
        (replace(VDA, images=(replace(TOP, kind="vhostuser"),)), "another process"),
        (replace(VDA, job="copy"), "copy, running"),
    ],
)
def test_why_a_disk_cannot_be_snapshotted_is_said(disk: Disk, words: str) -> None:
    assert words in build(disk).devices["vda"].why_not


def test_the_firmware_s_memory_is_shown_with_why_it_is_no_target() -> None:
    code = Disk("pflash0", "pflash", alias="pflash0", read_only=True, images=(BASE,))
    variables = Disk("pflash1", "pflash", alias="pflash1", images=(replace(BASE, file="/i/vars"),))
    told = Domain("d", "u", 1, (VDA,), flash=(code, variables))
    graph = libvirt_graph.build(Reading(told, stats(VDA), (), lambda _: Header("raw", 262144, 0)))
    assert list(graph.devices) == ["vda", "pflash0", "pflash1"]
    assert "read-only" in graph.devices["pflash0"].why_not
    chip = graph.devices["pflash1"]
    assert "libvirt takes no snapshot" in chip.why_not
    assert chip.layers[0].node == "libvirt-pflash1-format"
    assert chip.layers[0].virtual_size == 262144
    assert eligible.is_firmware(chip)


@pytest.mark.parametrize(
    ("kind", "file", "driver"),
    [
        ("network", "nbd+unix:///e?socket=/s", "nbd"),
        ("network", "rbd:pool/disk", "rbd"),
        ("nvme", "nvme://0000:01:00.1/1", "nvme"),
        ("block", "/dev/vg/lv", "host_device"),
    ],
)
def test_what_is_below_an_image_is_a_protocol(kind: str, file: str, driver: str) -> None:
    far = replace(VDA, images=(replace(TOP, kind=kind, file=file),))
    node = build(far).nodes["libvirt-5-storage"]
    assert (node.driver, node.kind) == (driver, "protocol")


def test_a_block_job_is_ready_when_it_has_done_all() -> None:
    busy = build(VDA, jobs=(BlockJob("vda", "active-commit", 10, 10),))
    assert "active-commit, ready" in busy.devices["vda"].why_not
    assert busy.jobs[0].nodes == ("libvirt-5-format", "libvirt-4-format")


def test_the_fingerprint_changes_with_the_chain_and_not_with_the_counters() -> None:
    before = build(VDA)
    assert build(VDA, layers=stats(VDA, rd_bytes=9)).fingerprint == before.fingerprint
    other = replace(VDA, images=(Image("file", "/i/new", "qcow2", 6), TOP, BASE))
    assert build(other).fingerprint != before.fingerprint


def test_a_header_is_told_where_it_could_be_read_and_is_unknown_elsewhere() -> None:
    said = {"/i/top": Header("qcow2", 1024, 65536, "/i/base", "raw")}
    domain = Domain("d", "u", 1, (VDA,))
    graph = libvirt_graph.build(Reading(domain, stats(VDA), (), lambda x: said.get(x.file)))
    top, base = (graph.nodes[f"libvirt-{n}-format"] for n in (5, 4))
    assert (top.header_backing_file, top.header_backing_format) == ("/i/base", "raw")
    assert (top.header_known, base.header_known) == (True, False)


def test_counters_are_read_layer_by_layer() -> None:
    answer = {
        "block.count": 2,
        "block.0.name": "vda",
        "block.0.path": "/i/top",
        "block.0.backingIndex": 5,
        "block.0.rd.bytes": 3,
        "block.0.capacity": 9,
        "block.0.physical": 4,
        "block.1.name": "vda",
        "block.1.path": "/i/base",
        "block.1.backingIndex": 4,
    }
    top, base = libvirt_graph.layer_stats(answer)
    assert (top.counters, top.capacity, top.physical) == ({"rd_bytes": 3}, 9, 4)
    assert (base.index, base.capacity) == (4, None)
