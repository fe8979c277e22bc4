"""The Studio on a real VM, driven as the page drives it, and looked at from outside."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

import snapkit
from snapkit import engine, undo, widgets
from snapkit.errors import ConnectError, PlanError, SnapshotError
from snapkit.widgets import Studio
from tests.conformance.conftest import Kind, made
from tests.conformance.domains import Domain
from tests.conformance.machines import Machine
from tests.conformance.monitors import Qemu
from tests.conftest import chain_of, wait_until
from tests.widgets.test_base import say

KINDS: tuple[Kind, ...] = (Qemu, Domain)
LABELS = {"qmp": ["QMP", "Shell", "Python"], "libvirt": ["XML", "virsh", "Python"]}


@pytest.fixture(params=KINDS, ids=lambda kind: kind.kind)
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """The seed's two disks."""
    with made(request.param, request) as machine:
        machine.boot(machine.image("win2003", "raw"), machine.image("data"))
        yield machine


@pytest.fixture
def vm(machine: Machine) -> Iterator[snapkit.VirtualMachine]:
    with machine.connect() as connected:
        yield connected


@pytest.fixture
def studio(vm: snapkit.VirtualMachine) -> Iterator[Studio]:
    studio = Studio(vm)
    studio.wait()
    yield studio
    studio.close()


def test_a_studio_shows_the_vm_that_it_is_given(studio: Studio, machine: Machine) -> None:
    assert studio.connect.connected
    assert studio.connect.allowed
    assert studio.connect.status.endswith("changes allowed.")
    assert [row["device"] for row in studio.devices.rows] == machine.names
    assert [row["file"] for row in studio.targets.rows] == [
        machine.file("win2003.snap1.qcow2"),
        machine.file("data.snap1.qcow2"),
    ]
    assert studio.targets.summary == "2 disks, all checks passed."
    assert studio.run.label == "Snapshot 2 disks"
    assert studio.run.reason == ""


def test_review_shows_exactly_the_preview_of_the_plan(studio: Studio, machine: Machine) -> None:
    assert studio.plan is not None
    shown = {form["form"]: form["text"] for form in studio.review.forms}
    assert shown == {form: studio.plan.preview(form) for form in studio.plan.forms}
    assert [form["label"] for form in studio.review.forms] == LABELS[machine.backend]


def test_the_button_switches_both_disks(studio: Studio, machine: Machine) -> None:
    planned = {row["device"]: row["file"] for row in studio.targets.rows}

    say(studio.run, "press", revision=studio.run.revision)
    studio.wait()

    assert studio.outcome is not None
    assert studio.outcome.ok
    assert studio.run.outcome["words"].startswith("ok: 2 disks switched at one instant.")
    assert [row["result"] for row in studio.run.outcome["rows"]] == ["ok", "ok"]
    assert machine.active() == planned
    assert [len(chain_of(file)) for file in planned.values()] == [2, 2]


def test_a_run_by_code_is_seen_in_the_panels(
    studio: Studio, vm: snapkit.VirtualMachine, machine: Machine
) -> None:
    vm.snapshot([machine.names[0]])

    wait_until(lambda: studio.devices.rows[0]["depth"] == "1", "the panels follow")
    studio.wait()
    assert studio.targets.rows[0]["file"].endswith("win2003.snap2.qcow2")
    assert studio.run.reason == ""


def test_an_edit_puts_away_what_the_last_run_came_to(
    studio: Studio, vm: snapkit.VirtualMachine, machine: Machine, lenient: None
) -> None:
    vm.readonly = True
    say(studio.run, "press", revision=studio.run.revision)
    assert studio.run.error
    vm.readonly = False
    studio.connect.allow_changes(allowed=True)
    studio.run.press()
    studio.wait()
    assert studio.run.outcome["words"].startswith("ok")

    studio.targets.set(machine.names[0], file=machine.file("other.qcow2"))
    studio.wait()

    assert studio.run.outcome == {}
    assert studio.run.error == ""


def test_what_will_be_sent_is_not_claimed_without_a_connection(
    studio: Studio, vm: snapkit.VirtualMachine
) -> None:
    vm.close()
    wait_until(lambda: studio.run.reason == "Not connected.", "the panels notice")
    assert studio.review.status == "Not connected. This would have been sent for 2 disks."
    assert "not connected any more" in studio.targets.summary


def test_after_a_run_all_panels_show_the_new_state(studio: Studio, machine: Machine) -> None:
    studio.targets.set(machine.names[1], file=machine.file("typed.qcow2"))
    studio.wait()
    studio.run.press()
    studio.wait()

    assert [row["depth"] for row in studio.devices.rows] == ["1", "1"]
    assert [row["file"] for row in studio.targets.rows] == [
        machine.file("win2003.snap2.qcow2"),
        machine.file("typed.snap2.qcow2"),
    ]
    assert studio.run.reason == ""


def test_a_second_press_during_the_run_is_refused(studio: Studio) -> None:
    studio.run.press()
    with pytest.raises(PlanError, match="in progress"):
        studio.run.press()
    studio.wait()

    assert [row["depth"] for row in studio.devices.rows] == ["1", "1"]


def test_a_mistake_is_shown_beside_its_row_with_a_remedy(studio: Studio, machine: Machine) -> None:
    before = machine.active()
    say(studio.targets, "edit", device=machine.names[0], name="file", value="/nowhere/a.qcow2")
    studio.wait()

    (problem,) = studio.targets.problems[machine.names[0]]
    assert "/nowhere" in problem["message"]
    assert problem["remedy"]
    assert problem["severity"] == "error"
    assert studio.targets.summary == "2 disks, 1 problem."
    assert studio.run.reason == "In the way: 1 problem. See Targets."
    assert {form["text"] for form in studio.review.forms} == {""}
    with pytest.raises(PlanError):
        studio.run.press()

    studio.targets.set(machine.names[0], file=machine.file("a.qcow2"))
    studio.wait()
    assert studio.targets.problems == {}
    assert studio.run.reason == ""
    assert machine.active() == before


def test_a_template_that_cannot_be_used_is_an_error(studio: Studio, lenient: None) -> None:
    say(studio.targets, "fill", template="{directory}/{nothing}")
    studio.wait()

    assert "{nothing}" in studio.targets.error
    assert studio.run.reason == ""


def test_the_phases_are_told_as_they_begin(studio: Studio) -> None:
    phases: list[str] = []
    studio.run.observe(lambda change: phases.append(change["new"]), names="phase")

    studio.run.press()
    studio.wait()

    assert [text for text in phases if text] == [
        f"{text} …" for name, text in engine.PHASES.items() if name != "undo"
    ]
    assert not studio.run.running


def test_a_plan_whose_vm_has_changed_is_refused_and_made_anew(
    studio: Studio, vm: snapkit.VirtualMachine, lenient: None, machine: Machine
) -> None:
    vm.snapshot([machine.names[0]])

    studio.run.press()
    studio.wait()

    assert "changed" in studio.run.error
    assert studio.run.outcome["words"].startswith("Refused: nothing was sent")
    assert studio.devices.rows[0]["depth"] == "1"
    studio.run.press()
    studio.wait()
    assert [row["depth"] for row in studio.devices.rows] == ["2", "1"]


def test_a_cancelled_run_leaves_nothing_behind(studio: Studio, machine: Machine) -> None:
    before, there = machine.active(), machine.state()["files"]
    say(studio.run, "press", revision=studio.run.revision)
    say(studio.run, "cancel")
    studio.wait()

    assert studio.run.outcome["words"].startswith("Cancelled: no device was switched")
    assert studio.run.error == ""
    assert machine.active() == before
    assert machine.state()["files"] == there


def test_changes_are_allowed_or_not_by_the_vm_itself(
    studio: Studio, vm: snapkit.VirtualMachine
) -> None:
    say(studio.connect, "allow", value=False)
    assert vm.readonly
    assert studio.run.reason.startswith("The connection is read-only")

    vm.readonly = False
    wait_until(lambda: studio.connect.allowed, "the panel sees what code has set")
    assert studio.run.reason == ""


def test_a_connection_that_a_panel_opens_starts_read_only(machine: Machine) -> None:
    studio = Studio(endpoint=machine.uri, domain=machine.domain or "")
    assert studio.connect.endpoint == machine.uri
    assert studio.run.reason == "Not connected."

    studio.connect.press()
    studio.wait()

    assert studio.vm is not None
    assert studio.vm.readonly
    assert studio.targets.summary == "2 disks, all checks passed."
    assert studio.run.reason.startswith("The connection is read-only")
    studio.connect.allow_changes()
    assert studio.run.reason == ""
    studio.connect.disconnect()
    studio.wait()
    assert studio.devices.rows == []
    assert not studio.connect.connected
    with pytest.raises(ConnectError):
        studio.connect.allow_changes()


def test_a_vm_is_offered_with_what_connects_to_it(machine: Machine) -> None:
    studio = Studio()
    studio.wait()
    known = (machine.uri, machine.domain or "")
    offered = [x for x in studio.connect.endpoints if (x["endpoint"], x["domain"]) == known]
    assert len(offered) == 1
    assert machine.uri in offered[0]["label"]
    assert known[1] in offered[0]["label"]

    studio.connect.press(offered[0]["endpoint"], offered[0]["domain"])
    studio.wait()

    assert [row["device"] for row in studio.devices.rows] == machine.names
    assert (studio.connect.endpoint, studio.connect.domain) == known
    studio.connect.disconnect()
    studio.wait()


def test_a_connection_that_goes_is_seen(studio: Studio, machine: Machine) -> None:
    machine.end()

    wait_until(lambda: not studio.connect.connected, "the panel sees that QEMU has gone")

    assert "is gone" in studio.connect.status
    assert studio.run.reason == "Not connected."


def test_panels_of_the_same_vm_show_the_same(studio: Studio, machine: Machine) -> None:
    targets, run = widgets.Targets(studio.vm), widgets.Run(studio.vm)

    targets.set(machine.names[0], include=False)
    studio.wait()

    assert run.label == studio.run.label == "Snapshot 1 disk"


def test_a_panel_that_is_shown_at_once_is_complete(vm: snapkit.VirtualMachine) -> None:
    bundle = widgets.Targets(vm)._repr_mimebundle_()

    assert bundle is not None
    assert "Targets: 2 disks, all checks passed." in bundle[0]["text/plain"]
    assert "data.snap1.qcow2</td>" in bundle[0]["text/html"]


def test_the_stored_form_of_a_studio_is_the_same_twice(studio: Studio) -> None:
    first, second = studio._repr_mimebundle_(), studio._repr_mimebundle_()

    assert first == second
    assert first is not None
    assert "0x" not in first["text/plain"]


def test_a_silent_server_is_named_and_the_panel_can_try_again(lenient: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        studio = Studio(endpoint=f"127.0.0.1:{server.getsockname()[1]}")
        studio.connect.press()
        studio.wait(30)

    assert studio.connect.error
    assert not studio.connect.busy
    assert studio.connect.status == "Not connected."


def test_a_vm_that_ends_during_the_run_is_told_with_what_to_do(
    studio: Studio, machine: Machine, lenient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(undo, "RECONNECT_SECONDS", 0.2)

    def end_at_prepare(change: dict[str, str]) -> None:
        if change["new"].startswith(engine.PHASES["prepare"]):
            machine.end()

    studio.run.observe(end_at_prepare, names="phase")
    studio.run.press()
    studio.wait(120)

    assert studio.run.error
    assert studio.run.outcome["words"].split(":")[0] in {"Unknown", "Failed"}
    assert not studio.run.running
    assert studio.run.reason == "Not connected."


def test_an_error_of_the_engine_is_the_one_that_wait_raises(
    studio: Studio, vm: snapkit.VirtualMachine, machine: Machine
) -> None:
    vm.snapshot([machine.names[0]])
    studio.run.press()
    with pytest.raises((PlanError, SnapshotError), match="changed"):
        studio.wait()
