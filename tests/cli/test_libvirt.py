"""Every verb on a domain of libvirt."""

from __future__ import annotations

import csv
import io
import os
import re
import subprocess
from pathlib import Path

import pytest

from snapkit.backends import libvirt_hosts
from tests.cli.conftest import RunCommand, StartCommand
from tests.conftest import SECONDS, Process, chain_of
from tests.journals import snapshot_that_dies
from tests.libvirt.world import Seed
from tests.libvirtd import domain_xml


def pairs(seed: Seed) -> list[str]:
    return [f"{device}={file}" for device, file in seed.targets.items()]


@pytest.fixture
def only_this(seed: Seed, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other libvirt of this host is found."""
    path = seed.uri.partition("socket=")[2]
    monkeypatch.setattr(libvirt_hosts, "listening", lambda: [path])


def test_a_process_of_its_own_shows_the_disks_and_switches_them(
    seed: Seed, start_snapkit: StartCommand
) -> None:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    out, err = start_snapkit("devices", seed.uri, seed.name, **pipes).communicate(timeout=SECONDS)
    assert err == ""
    header, first, second = out.splitlines()
    assert header.split()[:4] == ["device", "node", "format", "file"]
    assert (first.split()[0], second.split()[0]) == ("vda", "vdb")
    process = start_snapkit("snapshot", seed.uri, seed.name, *pairs(seed), **pipes)
    out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, "Traceback" in err) == (0, False)
    assert "2 disks switched at one instant" in out
    assert seed.disks() == seed.targets


def test_the_tables_have_the_forms_that_they_have_over_qmp(
    seed: Seed, run_snapkit: RunCommand
) -> None:
    where = (seed.uri, seed.name)
    assert run_snapkit("snapshot", *where, "--all", "--tag", "one").status == 0
    rows = run_snapkit("devices", *where, "--json").json
    assert [(row["device"], row["depth"]) for row in rows] == [("vda", 1), ("vdb", 1)]
    assert "rd_bytes" in run_snapkit("devices", *where, "--wide").out
    layers = list(csv.DictReader(io.StringIO(run_snapkit("layers", *where, "--csv").out)))
    assert [row["file"] for row in layers if row["device"] == "vdb"] == [
        seed.file("data.one.qcow2"),
        seed.data,
    ]
    # The only domain that runs there need not be named.
    assert (
        run_snapkit("layers", seed.uri, "--json").json
        == run_snapkit(*("layers", *where, "--json")).json
    )


def test_a_dry_run_shows_the_shell_command_that_does_the_same(
    seed: Seed, run_snapkit: RunCommand
) -> None:
    before = seed.images()
    done = run_snapkit("snapshot", seed.uri, seed.name, *pairs(seed), "--dry-run")
    assert done.status == 0
    assert (seed.images(), seed.disks()) == (before, {"vda": seed.raw, "vdb": seed.data})
    for heading in ("Plan", "Checks", "The switch: one call for all disks, as virsh makes it"):
        assert f"\n{heading}\n" in done.out
    assert '{"execute"' not in done.out
    command = done.out.partition("as virsh makes it\n")[2]
    assert seed.shell(command).startswith("Domain snapshot snap1 created")
    assert seed.disks() == seed.targets


def test_the_form_can_be_chosen(seed: Seed, run_snapkit: RunCommand) -> None:
    words = ("snapshot", seed.uri, *pairs(seed), "--dry-run", "--show")
    shown = run_snapkit(*words, "xml").out.partition("The switch: the XML of one call")[2]
    assert shown.splitlines()[1] == "<domainsnapshot>"
    assert "virsh" not in shown
    assert "\nwith snapkit.connect(" in run_snapkit(*words, "python").out
    found = run_snapkit(*words, "virsh", "--json").json
    assert found["preview"].startswith("virsh -c ")
    assert found["commands"][0]["arguments"]["xml"] in found["preview"]
    done = run_snapkit(*words, "qmp")
    assert (done.status, done.out) == (2, "")
    assert "no form 'qmp'. Choose one of: xml, virsh, python" in done.err


def test_what_is_asked_to_be_shown_is_shown_before_a_run_too(
    seed: Seed, run_snapkit: RunCommand
) -> None:
    done = run_snapkit("snapshot", seed.uri, *pairs(seed), "--show", "xml")
    assert done.status == 0
    assert done.out.index("<domainsnapshot>") < done.out.index("\nOutcome")
    assert seed.disks() == seed.targets


def test_json_is_one_object_with_all_of_the_run(seed: Seed, run_snapkit: RunCommand) -> None:
    found = run_snapkit("snapshot", seed.uri, seed.name, *pairs(seed), "--json").json
    assert (found["ok"], found["switched"], found["error"]) == (True, True, None)
    (command,) = found["commands"]
    assert command["execute"] == "virDomainSnapshotCreateXML"
    assert command["arguments"]["flags"] == ["DISK_ONLY", "ATOMIC", "VALIDATE"]
    assert [row["file_after"] for row in found["outcome"]] == list(seed.targets.values())
    assert "preview" not in found


def test_name_and_description_are_remembered_and_shown(seed: Seed, run_snapkit: RunCommand) -> None:
    assert "remembers no snapshot" in run_snapkit("snapshots", seed.uri).err
    words = ["--name", "before SP2", "--description", "the week's first"]
    assert run_snapkit("snapshot", seed.uri, *pairs(seed), *words).status == 0
    assert seed.daemon.virsh("snapshot-list", seed.name, "--name") == "before SP2"
    (row,) = run_snapkit("snapshots", seed.uri, seed.name, "--json").json
    assert (row["snapshot"], row["description"], row["agrees"]) == (
        *("before SP2", "the week's first", True),
    )
    text = run_snapkit("snapshots", seed.uri).out
    assert (
        text.splitlines()[0].split() == "snapshot created current disks description agrees".split()
    )
    assert re.search(r"  \d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ  yes ", text)
    assert run_snapkit("snapshot", seed.uri, "--all", "--metadata", "no").status == 0
    assert seed.daemon.virsh("snapshot-list", seed.name, "--name") == "before SP2"


def test_what_libvirt_remembers_is_refused_over_qmp(
    seed_qemu: Process, directory: Path, run_snapkit: RunCommand
) -> None:
    for option in (("--name", "n"), ("--description", "d"), ("--metadata", "no")):
        done = run_snapkit("snapshot", seed_qemu.uri, f"drive0={directory}/a", *option)
        assert done.status == 1
        assert f"The option {option[0].removeprefix('--')} needs libvirt" in done.err
    done = run_snapkit("snapshots", seed_qemu.uri)
    assert (done.status, done.out) == (1, "")
    assert "QEMU itself remembers no snapshots" in done.err


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_refused_plan_names_every_problem_and_changes_nothing(
    dry: list[str], seed: Seed, run_snapkit: RunCommand
) -> None:
    before = seed.images()
    words = ["vda=/nowhere/a.snap", f"vdq={seed.file('b.snap')}", "--engine", "classic", *dry]
    done = run_snapkit("snapshot", seed.uri, seed.name, *words)
    assert done.status == 1
    for said in ("error: vda: there is no engine 'classic' over libvirt", "error: vdq: "):
        assert said in done.out
    assert "The plan is refused" in done.err
    found = run_snapkit("snapshot", seed.uri, *words, "--json", "--show", "xml").json
    assert (found["ok"], found["commands"], found["preview"]) == (False, [], None)
    assert seed.images() == before


@pytest.mark.parametrize(
    ("domain", "said"),
    [
        (["nobody"], "There is no domain 'nobody', neither by name, uuid nor id. These run: other"),
        ([], "Say which domain, after the address. These run: other, win2003."),
        (["asleep"], "The domain 'asleep' does not run: start it (virsh start)"),
    ],
)
@pytest.mark.parametrize("verb", ["devices", "layers", "snapshots", "snapshot"])
def test_a_domain_that_is_not_clear_is_said_with_those_that_there_are(
    verb: str, domain: list[str], said: str, seed: Seed, run_snapkit: RunCommand
) -> None:
    seed.daemon.paused(name="other")
    seed.daemon.define(domain_xml(name="asleep"))
    rest = ["vda=/i/x"] if verb == "snapshot" else []
    done = run_snapkit(verb, seed.uri, *domain, *rest)
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(f"snapkit: {seed.uri}: {said}")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("verb", ["devices", "layers", "snapshots"])
def test_a_domain_after_a_monitor_is_a_matter_of_usage(verb: str, run_snapkit: RunCommand) -> None:
    done = run_snapkit(verb, "unix:/run/vm.qmp", "win2003")
    assert (done.status, done.out) == (2, "")
    assert "only a libvirt URI" in done.err


@pytest.mark.usefixtures("only_this")
def test_what_discover_lists_is_what_the_other_verbs_take(
    seed: Seed, run_snapkit: RunCommand
) -> None:
    found = run_snapkit("discover", "--json").json
    (row,) = (row for row in found if row["pid"] == seed.pid())
    assert (row["backend"], row["domain"], row["state"]) == ("libvirt", seed.name, "paused")
    line = next(x for x in run_snapkit("discover").out.splitlines() if str(seed.pid()) in x)
    uri, domain = line.split()[:2]
    assert len(run_snapkit("devices", uri, domain, "--json").json) == 2


def test_the_journal_names_the_domain_and_recover_finishes_its_run(
    seed: Seed, run_snapkit: RunCommand
) -> None:
    snapshot_that_dies(seed.uri, seed.targets, "flush")
    (row,) = run_snapkit("journal", "--json").json
    assert (row["uri"], row["domain"], row["state"]) == (seed.uri, seed.name, "interrupted")
    assert (
        run_snapkit("journal")
        .out.splitlines()[1]
        .endswith("win2003  vda, vdb  prepared  interrupted")
    )
    dry = run_snapkit("recover", "--dry-run")
    assert f"would remove the file {seed.targets['vda']}" in dry.out
    assert os.path.exists(seed.targets["vda"])
    assert run_snapkit("recover").status == 0
    assert not os.path.exists(seed.targets["vda"])
    assert seed.disks() == {"vda": seed.raw, "vdb": seed.data}


def test_the_demo_proves_one_instant_over_libvirt_too(run_snapkit: RunCommand) -> None:
    done = run_snapkit("demo", "--backend", "libvirt")
    assert done.status == 0
    assert "\n<domainsnapshot>\n" in done.out
    assert "Both images are of one instant." in done.out
    found = run_snapkit("demo", "--backend", "libvirt", "--engine", "classic")
    assert found.status == 1
    assert "there is no engine 'classic' over libvirt" in found.err


def test_an_overlay_of_the_terminal_opens_offline(seed: Seed, run_snapkit: RunCommand) -> None:
    done = run_snapkit(
        "snapshot", seed.uri, "--devices", "vdb", "--template", "{directory}/n.{tag}"
    )
    assert done.status == 0
    assert [layer["filename"] for layer in chain_of(seed.file("n.snap1"))] == [
        seed.file("n.snap1"),
        seed.data,
    ]
