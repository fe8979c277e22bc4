"""The tables of a domain beside what virsh says."""

from __future__ import annotations

import snapkit
from tests.conftest import wait_until
from tests.libvirt.world import Seed
from tests.libvirtd import domain_xml

DRIVES = """
<disk type='file' device='cdrom'><target dev='hda' bus='ide'/><readonly/></disk>
<disk type='file' device='floppy'><target dev='fda' bus='fdc'/></disk>
"""


def test_a_row_a_disk_as_domblklist_and_domstats_say(
    seed: Seed, vm: snapkit.VirtualMachine
) -> None:
    devices = vm.devices()
    assert devices["file"].to_dict() == seed.disks()
    said = seed.daemon.virsh("domstats", seed.name, "--block")
    stats = dict(line.strip().split("=") for line in said.splitlines() if "=" in line)
    for number, name in enumerate(devices.index):
        assert devices.loc[name, "virtual_size"] == int(stats[f"block.{number}.capacity"])
        assert devices.loc[name, "actual_size"] == int(stats[f"block.{number}.physical"])
        assert devices.loc[name, "rd_ops"] == int(stats[f"block.{number}.rd.reqs"])
    assert list(devices["qdev"]) == ["virtio-disk0", "virtio-disk1"]
    assert list(devices["format"]) == ["raw", "qcow2"]
    assert devices["snapshotable"].all()
    assert "flush_ops" in vm.stats()


def test_drives_without_a_medium_and_read_only_disks_say_why_not(seed: Seed) -> None:
    xml = domain_xml(seed.daemon.image("a.qcow2"), seed.daemon.image("b.qcow2"), name="drives")
    read_only = xml.replace("<target dev='vdb' bus='virtio'/>", "<target dev='vdb'/><readonly/>")
    seed.daemon.create(
        read_only.replace("<controller type='usb'", f"{DRIVES}<controller type='usb'")
    )
    with snapkit.connect(seed.uri, "drives") as vm:
        devices = vm.devices()
        plan = vm.plan({name: seed.file(f"{name}.snap") for name in devices.index})
    assert set(devices.index) == {"vda", "vdb", "hda", "fda"}
    why = devices["why_not"].to_dict()
    assert why["vda"] == ""
    assert "read-only" in why["vdb"]
    assert "no medium" in why["hda"]
    assert "no medium" in why["fda"]
    assert devices["removable"].to_dict() == {"vda": False, "vdb": False, "hda": True, "fda": True}
    assert {problem.device for problem in plan.problems} == {"vdb", "hda", "fda"}


def test_a_layer_a_row_with_the_header_of_the_image(seed: Seed, vm: snapkit.VirtualMachine) -> None:
    vm.snapshot(seed.targets)
    layers = vm.layers()
    assert list(layers.loc["vda"]["file"]) == [seed.targets["vda"], seed.raw]
    assert list(layers.loc["vda"]["format"]) == ["qcow2", "raw"]
    assert layers.loc[("vda", 0), "header_backing_file"] == seed.raw
    assert layers["virtual_size"].notna().all()
    nodes = seed.daemon.virsh("dumpxml", seed.name)
    for node in layers["node"]:
        assert f"index='{node.split('-')[1]}'" in nodes


def test_a_block_job_stands_in_the_way_and_is_named(seed: Seed, vm: snapkit.VirtualMachine) -> None:
    copy = ["blockcopy", seed.name, "vda", seed.file("copy.img"), "--transient-job"]
    seed.daemon.virsh(*copy)
    why = vm.devices()["why_not"]
    assert "the job vda (copy, " in why["vda"]
    assert why["vdb"] == ""
    assert "job" in {p.check for p in vm.plan({"vda": seed.targets["vda"]}).problems}
    seed.daemon.virsh("blockjob", seed.name, "vda", "--abort")
    wait_until(lambda: vm.devices()["why_not"]["vda"] == "", "the job ends")
    assert "BLOCK_JOB_2" in set(vm.events()["event"])


def test_what_happens_to_the_domain_is_in_the_events(
    seed: Seed, vm: snapkit.VirtualMachine
) -> None:
    seed.daemon.virsh("resume", seed.name)
    seed.daemon.virsh("suspend", seed.name)

    def told() -> list[str]:
        events = vm.events()
        lifecycle = events[events["event"] == "LIFECYCLE"]
        return [data["event"] for data in lifecycle["data"]]

    wait_until(lambda: told() == ["resumed", "suspended"], "both are told")


def test_metadata_that_no_longer_fits_is_told(seed: Seed, vm: snapkit.VirtualMachine) -> None:
    vm.snapshot(seed.targets)
    commit = ["blockcommit", seed.name, "vda", "--active", "--pivot", "--wait"]
    seed.daemon.virsh(*commit)
    (row,) = vm.snapshots().to_dict("records")
    assert not row["agrees"]
    assert row["why_not"] == f"{seed.targets['vda']} is in the chain of vda no more"
