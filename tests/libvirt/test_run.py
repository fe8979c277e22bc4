"""Snapshots of a domain: what runs is what was shown, and what libvirt remembers of it."""

from __future__ import annotations

import os
from xml.etree import ElementTree as ET

import pytest

import snapkit
from snapkit.errors import PlanError, SnapkitError, SnapshotError
from tests.conftest import create_image
from tests.libvirt.world import Seed
from tests.libvirtd import domain_xml


def remembered(seed: Seed) -> list[str]:
    return seed.daemon.virsh("snapshot-list", seed.name, "--name").split()


def test_the_shell_s_form_pasted_into_a_shell_does_the_same(
    seed: Seed, vm: snapkit.VirtualMachine
) -> None:
    shown = vm.plan(seed.targets, description="a <&> 'b'").preview("virsh")
    said = seed.shell(str(shown))
    assert said == "Domain snapshot snap1 created from '/dev/stdin'"
    assert seed.disks() == seed.targets
    assert list(vm.snapshots()["description"]) == ["a <&> 'b'"]


def test_the_xml_is_what_is_sent(seed: Seed, vm: snapkit.VirtualMachine) -> None:
    plan = vm.plan(seed.targets)
    sent = plan.script.switch.arguments
    assert plan.script.prepare == ()
    assert plan.preview() == plan.preview("xml") == sent["xml"]
    assert sent["flags"] == ["DISK_ONLY", "ATOMIC", "VALIDATE"]
    assert plan.forms == ("xml", "virsh", "python")
    with pytest.raises(SnapkitError, match="no preview 'qmp' here"):
        plan.preview("qmp")


def test_the_python_form_does_the_same(seed: Seed, vm: snapkit.VirtualMachine) -> None:
    shown = vm.plan(seed.targets, name="mine", description="d").preview("python")
    exec(compile(shown, "cell", "exec"), {})  # noqa: S102  that is what is shown
    assert seed.disks() == seed.targets
    assert remembered(seed) == ["mine"]


def test_libvirt_remembers_a_disk_by_its_target(seed: Seed, vm: snapkit.VirtualMachine) -> None:
    vm.snapshot({"vda": seed.targets["vda"]}, name="mine")
    text = seed.daemon.virsh("snapshot-dumpxml", seed.name, "mine")
    root = ET.fromstring(text)  # noqa: S314  virsh wrote it
    rows = {row.get("name"): row.get("snapshot") for row in root.iterfind("disks/disk")}
    assert rows == {"vda": "external", "vdb": "no"}
    (row,) = vm.snapshots().to_dict("records")
    assert row["disks"] == f"vda={seed.targets['vda']}"
    assert (row["state"], row["current"], row["agrees"]) == ("disk-snapshot", True, True)


def test_without_metadata_libvirt_remembers_nothing(seed: Seed, vm: snapkit.VirtualMachine) -> None:
    outcome = vm.snapshot(seed.targets, metadata="no")
    assert outcome.ok, outcome.findings
    assert remembered(seed) == []
    assert vm.snapshots().empty
    assert seed.disks() == seed.targets


def test_the_name_is_the_next_that_is_free(seed: Seed, vm: snapkit.VirtualMachine) -> None:
    seed.daemon.virsh("snapshot-create-as", seed.name, "snap1", "--disk-only")
    vm.snapshot(["vda", "vdb"])
    assert remembered(seed) == ["snap1", "snap2"]


def test_a_name_that_is_taken_is_refused_beforehand(seed: Seed, vm: snapkit.VirtualMachine) -> None:
    seed.daemon.virsh("snapshot-create-as", seed.name, "mine", "--disk-only")
    before = seed.images()
    plan = vm.plan(seed.targets, name="mine")
    assert [(p.device, p.check) for p in plan.problems] == [("", "snapshot name")]
    with pytest.raises(PlanError, match=r"remembers a snapshot 'mine' already"):
        plan.run()
    assert seed.images() == before
    assert vm.snapshot(seed.targets, name="mine", metadata="no").ok


def test_a_name_that_is_taken_at_the_last_moment_is_refused_and_all_is_undone(
    seed: Seed, vm: snapkit.VirtualMachine
) -> None:
    others: list[str] = []

    def take(phase: str) -> None:
        if phase == "switch":
            made = seed.daemon.virsh("snapshot-create-as", seed.name, "mine", "--disk-only")
            others.append(made)

    with pytest.raises(SnapshotError, match=r"already exists|no disk named"):
        vm.plan(seed.targets, name="mine").run(take)
    assert remembered(seed) == ["mine"]
    assert len(others) == 1
    assert not {"w.snap", "d.snap"} & set(os.listdir(seed.directory))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "a/b"}, "cannot be called 'a/b'"),
        ({"name": ".hidden"}, "cannot be called '.hidden'"),
        ({"name": " "}, "cannot be called ' '"),
        ({"name": "a\nb"}, "the snapshot's name holds"),
        ({"description": "a\x01b"}, "the snapshot's description holds"),
    ],
)
def test_what_libvirt_cannot_remember_is_a_problem_of_the_plan(
    vm: snapkit.VirtualMachine, seed: Seed, options: dict[str, str], words: str
) -> None:
    plan = vm.plan(seed.targets, **options)
    assert not plan.ok
    with pytest.raises(PlanError, match=words):
        plan.run()


def test_a_description_that_will_not_be_kept_is_said(
    vm: snapkit.VirtualMachine, seed: Seed
) -> None:
    plan = vm.plan(seed.targets, description="kept?\nno", metadata="no")
    assert plan.ok
    assert [(p.severity, p.check) for p in plan.problems] == [("warning", "snapshot name")]


def test_file_names_that_xml_and_the_shell_would_misread_are_files(
    seed: Seed, vm: snapkit.VirtualMachine
) -> None:
    odd = {
        "vda": seed.file('a\'b "c" <&>; $(touch no)  ü.snap'),
        "vdb": seed.file("XML"),
    }
    seed.shell(str(vm.plan(odd).preview("virsh")))
    assert vm.devices()["file"].to_dict() == odd
    assert not os.path.exists(seed.file("no"))
    again = {name: f"{file}2" for name, file in odd.items()}
    outcome = vm.snapshot(again)
    assert outcome.ok, outcome.findings
    assert vm.devices()["file"].to_dict() == again


def test_words_that_no_xml_can_hold_are_refused_before_anything_is_sent(
    seed: Seed, vm: snapkit.VirtualMachine
) -> None:
    before = seed.images()
    with pytest.raises(PlanError, match="libvirt cannot be told that"):
        vm.snapshot(seed.targets, description="a\x01b")
    assert seed.images() == before
    assert snapkit.journal().empty


def test_a_domain_with_an_odd_name_is_reached_by_the_shell_s_form_too(seed: Seed) -> None:
    name = "a b$(x)"
    xml = domain_xml(seed.daemon.image("odd.qcow2"), name="ODD").replace("ODD", name)
    seed.daemon.create(xml, "--paused")
    with snapkit.connect(seed.uri, name) as vm:
        seed.shell(str(vm.plan({"vda": seed.file("odd.snap")}).preview("virsh")))
        assert vm.devices()["file"].to_dict() == {"vda": seed.file("odd.snap")}


def test_a_remote_looking_connection_runs_and_says_what_it_could_not_see(seed: Seed) -> None:
    with snapkit.connect(seed.uri, seed.name, local=False) as vm:
        plan = vm.plan(seed.targets)
        assert plan.ok
        assert {problem.check for problem in plan.problems} == {"visible"}
        outcome = plan.run()
    assert outcome.ok
    assert any("was not opened offline" in finding for finding in outcome.findings)
    assert seed.disks() == seed.targets


def test_an_overlay_with_the_wrong_header_is_refused_where_libvirt_would_take_it(
    seed: Seed, vm: snapkit.VirtualMachine
) -> None:
    create_image(seed.targets["vda"], "4M")
    seed.daemon.give(seed.targets["vda"])
    before = seed.images()
    with pytest.raises(PlanError, match="names no backing file"):
        vm.snapshot({"vda": seed.targets["vda"]}, mode="existing")
    assert seed.images() == before
    taken = (
        f"virsh -c '{seed.uri}' snapshot-create-as {seed.name} x --disk-only --reuse-external "
        f"--diskspec vda,file={seed.targets['vda']} --diskspec vdb,snapshot=no"
    )
    assert "created" in seed.shell(taken)
