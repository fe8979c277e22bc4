"""Whatever a user, a second client and bad luck do, and in whatever order: nothing is lost."""

from __future__ import annotations

from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import snapkit
from snapkit import undo
from snapkit.plan import Plan
from tests.faults.machine import DEVICES, World
from tests.faults.shears import Way

STEPS = 500
"""How many steps have to be made at least."""
SETTINGS = settings(
    max_examples=30,
    stateful_step_count=30,
    derandomize=True,
    database=None,
    deadline=None,
    # A step takes as long as real disks do: what failed is told as it was found.
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)

some = st.sets(st.sampled_from(DEVICES), min_size=1)
engines = st.sampled_from(["prepared", "classic"])
# A transaction has some hundred bytes, its reply some forty.
switches: st.SearchStrategy[tuple[Way, int]] = st.one_of(
    st.tuples(st.just("up"), st.integers(0, 400)), st.tuples(st.just("down"), st.integers(0, 60))
)
devices = st.sampled_from(DEVICES)


class Machine(RuleBasedStateMachine):
    """Each rule is one step; what has to be so is looked at after each."""

    steps: ClassVar[dict[str, int]] = {}

    @initialize()
    def start(self) -> None:
        self.world = World()
        self.environment = pytest.MonkeyPatch()
        self.environment.setenv("SNAPKIT_JOURNAL", str(self.world.journal))
        self.environment.setattr(undo, "RECONNECT_SECONDS", 0.2)
        self.environment.setattr(undo, "STUCK_SECONDS", 0.2)
        self.plan: Plan | None = None
        self.planned: tuple[dict[str, str], object] = ({}, None)

    def count(self, name: str) -> None:
        self.steps[name] = self.steps.get(name, 0) + 1

    @rule(which=some, engine=engines)
    def snapshot(self, which: set[str], engine: str) -> None:
        self.count("snapshot")
        targets = self.world.targets(which)
        assert self.world.vm.snapshot(targets, engine=engine).ok
        self.world.switched(targets)

    @rule(which=some, engine=engines)
    def make_a_plan(self, which: set[str], engine: str) -> None:
        self.count("plan")
        targets = self.world.targets(which)
        self.plan = self.world.vm.plan(targets, engine=engine)
        assert self.plan.ok, self.plan.problems
        self.planned = targets, self.shape()

    def shape(self) -> object:
        """What a plan is for."""
        return {device: tuple(chain) for device, chain in self.world.chains.items()}

    @precondition(lambda self: self.plan is not None)
    @rule()
    def run_the_old_plan(self) -> None:
        """It is refused exactly when the disks are others now."""
        self.count("old plan")
        assert self.plan is not None
        self.world.vm  # noqa: B018  a plan runs over the connection that it was made with
        targets, shape = self.planned
        plan, self.plan = self.plan, None
        if shape != self.shape():
            with pytest.raises((snapkit.PlanError, snapkit.ConnectError)):
                plan.run()
            return
        told = self.world.run(plan)
        assert told == self.world.last_state()
        if told == "switched":
            self.world.switched(targets)

    @rule(which=some, engine=engines)
    def refuse_what_exists(self, which: set[str], engine: str) -> None:
        self.count("refused")
        device = min(which)
        targets = {**self.world.targets(which), device: self.world.chains[device][-1]}
        with pytest.raises(snapkit.PlanError):
            self.world.vm.snapshot(targets, engine=engine)

    @rule(which=some, engine=engines, when=st.sampled_from(["prepare", "switch"]))
    def a_file_appears(self, which: set[str], engine: str, when: str) -> None:
        """Where an overlay is to be made, or in its place when it has been."""
        self.count("file appears")
        targets = self.world.targets(which)

        def appear(phase: str) -> None:
            if phase == when:
                self.world.put_a_file(targets[max(targets)])

        plan = self.world.vm.plan(targets, engine=engine)
        assert self.world.run(plan, appear) == "not switched"
        self.world.rebase()

    @rule(which=some)
    def a_prepared_node_is_closed(self, which: set[str]) -> None:
        """By a second client, so that the switch fails."""
        self.count("node closed")
        targets = self.world.targets(which)
        plan = self.world.vm.plan(targets)
        name = str(plan.to_frame().loc[max(targets), "overlay_node"])

        def close(phase: str) -> None:
            if phase == "switch":
                self.world.daemon.ask("blockdev-del", node_name=name)

        assert self.world.run(plan, close) == "not switched"

    @rule(which=some, cut=switches, for_good=st.booleans())
    def cut_at_the_switch(self, which: set[str], cut: tuple[Way, int], for_good: bool) -> None:
        """With ``for_good`` nobody can look until the run has ended."""
        self.count("cut at the switch")
        self.world.run_and_cut(which, *cut, for_good=for_good, switch=True)

    @rule(which=some, after=st.integers(1, 8000), for_good=st.booleans())
    def cut_anywhere(self, which: set[str], after: int, for_good: bool) -> None:
        self.count("cut anywhere")
        self.world.run_and_cut(which, "up", after, for_good=for_good, switch=False)

    @rule()
    def cut_between_two_runs(self) -> None:
        self.count("cut")
        self.world.wire.cut()

    @precondition(lambda self: self.world.left_overs())
    @rule(which=st.integers(0, 99))
    def a_left_over_is_replaced(self, which: int) -> None:
        """By a file of somebody else, which is not the run's to remove."""
        self.count("left-over replaced")
        files = self.world.left_overs()
        self.world.put_a_file(files[which % len(files)])

    @rule()
    def recover(self) -> None:
        self.count("recover")
        self.world.recover()

    @rule()
    def look_without_changing(self) -> None:
        """A dry run of recover, the tables and the journal change nothing."""
        self.count("look")
        snapkit.recover(dry_run=True)
        files = self.world.vm.devices()["file"]
        for device, chain in self.world.chains.items():
            assert files[device] == chain[0]

    @precondition(lambda self: any(len(chain) > 2 for chain in self.world.chains.values()))
    @rule(which=st.integers(0, 99), remove=st.booleans())
    def commit_by_hand(self, which: int, remove: bool) -> None:
        """A second client merges an intermediate layer into the one below."""
        self.count("commit")
        places = [
            (device, layer)
            for device, chain in self.world.chains.items()
            for layer in range(1, len(chain) - 1)
        ]
        self.world.commit(*places[which % len(places)], remove=remove)

    @rule(device=devices, block=st.integers(0, 255), value=st.integers(1, 255))
    def a_guest_writes(self, device: str, block: int, value: int) -> None:
        self.count("write")
        self.world.write(device, block, value)

    @invariant()
    def nothing_is_lost_and_nothing_is_left(self) -> None:
        assert self.world.wrong() == []

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self.world.recover()
            assert self.world.wrong() == []
            assert self.world.unsound() == []
        finally:
            self.environment.undo()
            self.world.close()


def test_no_order_of_events_loses_anything() -> None:
    Machine.steps.clear()
    run_state_machine_as_test(Machine, settings=SETTINGS)
    print(Machine.steps)
    assert sum(Machine.steps.values()) >= STEPS
