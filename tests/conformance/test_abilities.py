"""What only some backends can do: it works there, and the others refuse it clearly."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

import snapkit
from snapkit.backends import abilities
from snapkit.backends.abilities import Ability
from tests.conformance.machines import ROOT, Machine

STRANGER = 65533


def refused(machine: Machine, check: str, words: str, plan: snapkit.Plan) -> None:
    """The plan is refused by that check only, in those words, and nothing has changed."""
    before = machine.state()
    errors = [problem for problem in plan.problems if problem.severity == "error"]
    assert {problem.check for problem in errors} == {check}
    assert words in plan.refusal()
    with pytest.raises(snapkit.PlanError):
        plan.run()
    assert machine.state() == before


def classic(machine: Machine, *, able: bool) -> None:
    with machine.connect() as vm:
        plan = vm.plan(machine.targets(), engine="classic")
        if not able:
            refused(machine, "engine", "Use engine='prepared'", plan)
            return
        assert plan.script.prepare == ()
        assert plan.run().ok
    assert machine.active() == machine.targets()


def mixed_modes(machine: Machine, *, able: bool) -> None:
    first = machine.names[0]
    made = {"file": machine.overlay("made", first), "mode": "existing"}
    targets = {**machine.targets(), first: made}
    with machine.connect() as vm:
        plan = vm.plan(targets)
        if not able:
            refused(machine, "mode", "Give every disk the same mode", plan)
            return
        assert plan.run().ok
    assert machine.active() == {**machine.targets(), first: machine.file("made")}


def exports(machine: Machine, *, able: bool) -> None:
    with machine.connect() as vm:
        if not machine.ask("query-block"):
            # Nothing but exports.
            assert set(machine.names) == {row["id"] for row in machine.ask("query-block-exports")}
            assert vm.snapshot(machine.names).ok
            return
        node = str(vm.devices().loc[machine.names[0], "node"])
        address = {"type": "unix", "data": {"path": machine.file("nbd.sock")}}
        machine.ask("nbd-server-start", addr=address)
        machine.ask("block-export-add", type="nbd", id="out", node_name=node)
        assert ("out" in vm.devices().index) == able
        if not able:
            refused(machine, "known", "out: ", vm.plan({"out": machine.file("x")}))


def looking_through_qemu(machine: Machine, *, able: bool) -> None:
    first, second, _ = machine.names
    good = {first: machine.overlay("good", first)}
    with machine.connect(local=False) as vm:
        plan = vm.plan(good, mode="existing")
        assert "visible" in {problem.check for problem in plan.problems}
        if not able:
            before = machine.state()
            with pytest.raises(snapkit.SnapshotError, match=r"libvirt does not look.*undone"):
                plan.run()
            assert machine.state() == before
            return
        before = machine.state()
        with pytest.raises(snapkit.PlanError, match="good"):
            vm.snapshot({second: machine.file("good")}, mode="existing")
        assert machine.state() == before
        assert plan.run().ok
    assert machine.active()[first] == machine.file("good")


def domains(machine: Machine, *, able: bool) -> None:
    if not able:
        with pytest.raises(snapkit.ConnectError, match="one VM's own monitor"):
            snapkit.connect(machine.uri, "win2003")
        return
    uuid = machine.ask("query-uuid")["UUID"]
    for wanted in (machine.domain, uuid):
        with snapkit.connect(machine.uri, wanted) as vm:
            assert vm.domain == machine.domain
    with pytest.raises(snapkit.ConnectError, match=f"There is no domain 'x'.*{machine.domain}"):
        snapkit.connect(machine.uri, "x")


def several_clients(machine: Machine, *, able: bool) -> None:
    with machine.connect() as first:
        if not able:
            with pytest.raises(snapkit.ConnectError, match="serves one client at a time"):
                machine.connect(timeout=0.3)
            assert first.snapshot(machine.names).ok
            return
        with machine.connect() as second:
            assert first.snapshot(machine.names).ok
            assert second.devices()["file"].to_dict() == machine.active()
            assert second.snapshot(machine.names).ok
            assert first.devices()["file"].to_dict() == machine.active()


def metadata(machine: Machine, *, able: bool) -> None:
    wishes: dict[str, Any] = {"name": "mine", "description": "<&> words", "metadata": "yes"}
    with machine.connect() as vm:
        if not able:
            with pytest.raises(snapkit.PlanError, match=r"vm\.snapshots\(\) needs libvirt"):
                vm.snapshots()
            for option in ({"name": "n"}, {"description": "d"}, {"metadata": "no"}):
                with pytest.raises(snapkit.PlanError, match="needs libvirt"):
                    vm.plan(machine.names, **option)
            return
        assert vm.snapshots().empty
        assert vm.snapshot(machine.targets(), **wishes).ok
        remembered = vm.snapshots()
        assert list(remembered.index) == ["mine"]
        assert list(remembered["description"]) == ["<&> words"]
        assert remembered["agrees"].all()


# Everything is loaded first: what root installed, an ordinary user may not be able to read.
AS_STRANGER = """
import os, sys, tempfile
import pandas, snapkit, snapkit.plan, snapkit.tables, snapkit.vm, snapkit.backends.qmp
user, uri, device, file = sys.argv[1:]
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(int(user))
    os.setuid(int(user))
with tempfile.TemporaryDirectory() as place:
    os.environ["SNAPKIT_JOURNAL"] = f"{place}/journal.sqlite"
    with snapkit.connect(uri) as vm:
        outcome = vm.snapshot({device: file})
        print(outcome.ok, *outcome.findings)
"""


def ownership(machine: Machine, *, able: bool) -> None:
    first = machine.names[0]
    file = machine.targets()[first]
    if able:
        # Then snapkit makes no file itself.
        with machine.connect(local=False) as vm:
            assert vm.snapshot({first: file}).ok
    else:
        # Somebody takes the snapshot who may not give files away.
        machine.directory.chmod(0o777)
        for socket in machine.directory.glob("*.sock"):
            socket.chmod(0o666)
        command = [sys.executable, "-c", AS_STRANGER, str(STRANGER), machine.uri, first, file]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("True")
    assert machine.active()[first] == file
    user = os.stat(f"/proc/{machine.pid}").st_uid
    assert os.stat(file).st_uid == user
    assert (user in {os.geteuid(), STRANGER}) == (os.geteuid() != 0)


SHOWN: dict[str, Callable[..., None]] = {
    "classic": classic,
    "mixed modes": mixed_modes,
    "exports": exports,
    "looking through QEMU": looking_through_qemu,
    "domains": domains,
    "several clients": several_clients,
    "metadata": metadata,
    "ownership": ownership,
}
"""Each ability: that it works where the table says so, and how it is refused elsewhere."""


@pytest.fixture
def blank(blank: Machine) -> Machine:
    """As root it runs as somebody else than the test."""
    blank.lower()
    return blank


@pytest.mark.parametrize("ability", abilities.ABILITIES, ids=lambda ability: ability.name)
def test_what_a_backend_can_do_works_and_what_it_cannot_is_refused(
    machine: Machine, ability: Ability
) -> None:
    able = machine.backend in ability.backends
    assert able == machine.can(ability.name)
    SHOWN[ability.name](machine, able=able)


def test_nothing_is_shown_that_is_not_in_the_table() -> None:
    assert SHOWN.keys() == {ability.name for ability in abilities.ABILITIES}
