"""The article's third part: the same snapshot through libvirt, by virsh and by snapkit."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

import snapkit
from tests.conftest import chain_of, digest
from tests.libvirt.world import Seed

DESCRIPTION = "Test Libvirt Snapshot-Create"


def article_xml(seed: Seed) -> str:
    disks = "".join(
        f"<disk name='{base}'><source file='{overlay}'/></disk>"
        for base, overlay in zip((seed.raw, seed.data), seed.targets.values(), strict=True)
    )
    return (
        f"<domainsnapshot><description>{DESCRIPTION}</description>"
        f"<disks>{disks}</disks></domainsnapshot>"
    )


def live_disks(seed: Seed) -> dict[str, tuple[str, str]]:
    """The driver's type and the source of every disk in the live XML."""
    text = seed.daemon.virsh("dumpxml", seed.name)
    root = ET.fromstring(text)  # noqa: S314  virsh wrote it
    found = {}
    for row in root.iterfind("devices/disk"):
        target, driver, source = row.find("target"), row.find("driver"), row.find("source")
        assert target is not None
        assert driver is not None
        assert source is not None
        found[target.attrib["dev"]] = (driver.attrib["type"], source.attrib["file"])
    return found


def test_the_article_s_own_steps_work_with_virsh(seed: Seed) -> None:
    assert live_disks(seed) == {"vda": ("raw", seed.raw), "vdb": ("qcow2", seed.data)}
    xml = seed.directory / "snap.xml"
    xml.write_text(article_xml(seed))
    number = seed.daemon.virsh("domid", seed.name)
    said = seed.shell(
        f"virsh -c '{seed.uri}' snapshot-create {number} --xmlfile {xml} --disk-only --atomic"
    )
    assert re.fullmatch(rf"Domain snapshot \d+ created from '{re.escape(str(xml))}'", said)
    after = live_disks(seed)
    assert after == {name: ("qcow2", file) for name, file in seed.targets.items()}


def test_snapkit_sees_what_virsh_has_done(seed: Seed, vm: snapkit.VirtualMachine) -> None:
    xml = seed.directory / "snap.xml"
    xml.write_text(article_xml(seed))
    seed.daemon.virsh(
        "snapshot-create", seed.name, "--xmlfile", str(xml), "--disk-only", "--atomic"
    )
    devices = vm.devices()
    assert devices["file"].to_dict() == seed.targets
    assert list(devices["depth"]) == [1, 1]
    assert list(devices["backing_file"]) == [seed.raw, seed.data]
    (row,) = vm.snapshots().to_dict("records")
    assert row["description"] == DESCRIPTION
    assert row["agrees"]


def test_snapkit_takes_the_same_snapshot(seed: Seed, vm: snapkit.VirtualMachine) -> None:
    bases = {file: digest(file) for file in (seed.raw, seed.data)}
    outcome = vm.snapshot(seed.targets, description=DESCRIPTION)
    assert outcome.ok, outcome.findings
    assert live_disks(seed) == {name: ("qcow2", file) for name, file in seed.targets.items()}
    assert seed.disks() == seed.targets
    assert seed.daemon.virsh("snapshot-list", seed.name, "--tree").split() == ["snap1"]
    said = seed.daemon.virsh("snapshot-dumpxml", seed.name, "snap1")
    assert f"<description>{DESCRIPTION}</description>" in said
    for base, format_, overlay in (
        (seed.raw, "raw", seed.targets["vda"]),
        (seed.data, "qcow2", seed.targets["vdb"]),
    ):
        top, below = chain_of(overlay)
        assert (top["backing-filename"], top["backing-filename-format"]) == (base, format_)
        assert (below["filename"], below["format"]) == (base, format_)
        assert digest(base) == bases[base]


@pytest.mark.parametrize("by", ["target", "source path"])
def test_a_disk_may_be_named_by_its_target_or_by_its_image(
    seed: Seed, vm: snapkit.VirtualMachine, by: str
) -> None:
    names = ["vda", "vdb"] if by == "target" else [seed.raw, seed.data]
    plan = vm.plan(dict(zip(names, seed.targets.values(), strict=True)))
    assert [target.device for target in plan.targets] == ["vda", "vdb"]
    assert plan.run().ok
    assert seed.disks() == seed.targets


def test_ten_snapshots_make_a_chain_and_a_tree_of_ten(
    seed: Seed, vm: snapkit.VirtualMachine
) -> None:
    for number in range(1, 11):
        outcome = vm.snapshot(["vda", "vdb"])
        assert outcome.ok, outcome.findings
        assert set(outcome.to_frame()["depth_after"]) == {number}
    remembered = vm.snapshots()
    assert list(remembered.index) == [f"snap{number}" for number in range(1, 11)]
    assert list(remembered["parent"])[1:] == [f"snap{number}" for number in range(1, 10)]
    assert remembered["agrees"].all()
    tree = seed.daemon.virsh("snapshot-list", seed.name, "--tree").split()
    assert [word for word in tree if word.startswith("snap")] == list(remembered.index)
    assert len(chain_of(seed.disks()["vda"])) == 11
