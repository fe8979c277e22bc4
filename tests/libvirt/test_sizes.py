"""Sizes of disks: a run takes them from the images' headers, and tables from libvirt."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import snapkit
from snapkit import loop
from snapkit.errors import PlanError
from tests.libvirt.world import Seed
from tests.libvirtd import PrivateLibvirt


def virtual_sizes(vm: snapkit.VirtualMachine, *, counters: bool) -> dict[str, list[int]]:
    """The sizes of every disk's layers, as one kind of reading has them."""
    graph = loop.call(vm._backend.observe(counters=counters))
    return {d.name: [x.virtual_size for x in d.layers] for d in graph.devices.values()}


@pytest.fixture
def odd(libvirt: PrivateLibvirt) -> str:
    """A domain whose raw image has a size that is no number of sectors."""
    image = libvirt.image("odd.img", "raw", "1M")
    os.truncate(image, 1024 * 1024 - 100)
    return libvirt.paused(image, libvirt.image("even.qcow2", size="1M"), name="odd")


def test_both_readings_have_the_same_sizes(libvirt: PrivateLibvirt, odd: str) -> None:
    with snapkit.connect(libvirt.uri, odd) as vm:
        assert vm.snapshot(["vda", "vdb"]).ok
        found = virtual_sizes(vm, counters=False)
        assert found == virtual_sizes(vm, counters=True)
        assert found == {"vda": [1024 * 1024] * 2, "vdb": [1024 * 1024] * 2}
        assert vm.snapshot(["vda", "vdb"]).ok


def test_where_a_header_cannot_be_read_libvirt_is_asked(seed: Seed) -> None:
    with snapkit.connect(seed.uri, seed.name, local=False) as vm:
        found = virtual_sizes(vm, counters=False)
        assert found == virtual_sizes(vm, counters=True)
        assert all(size for sizes in found.values() for size in sizes)


def test_a_raw_image_has_the_size_that_qemu_found(libvirt: PrivateLibvirt) -> None:
    image = libvirt.image("grown.img", "raw", "1M")
    name = libvirt.paused(image)
    with snapkit.connect(libvirt.uri, name) as vm:
        plan = vm.plan(["vda"])
        os.truncate(image, 2 * 1024 * 1024)
        assert virtual_sizes(vm, counters=False) == {"vda": [1024 * 1024]}
        assert plan.run().ok
        assert virtual_sizes(vm, counters=False)["vda"][0] == 1024 * 1024


@pytest.mark.parametrize("disk", ["vda", "vdb"])
def test_a_disk_that_was_resized_since_is_refused(
    seed: Seed, vm: snapkit.VirtualMachine, disk: str
) -> None:
    plan = vm.plan(seed.targets)
    seed.daemon.virsh("blockresize", seed.name, disk, "8M")
    with pytest.raises(PlanError, match=rf"{disk} has another size"):
        plan.run()
    assert not Path(seed.targets[disk]).exists()
    assert vm.snapshot(seed.targets).ok
