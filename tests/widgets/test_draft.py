"""What is filled in, and that a late answer never overwrites a newer one."""

from __future__ import annotations

from typing import Any, cast

import pytest

from snapkit import loop
from snapkit.errors import PlanError
from snapkit.vm import VirtualMachine
from snapkit.widgets.draft import Draft
from snapkit.widgets.session import Session
from tests.conftest import wait_until
from tests.widgets.fakes import FakeMachine


def fail(error: BaseException) -> None:
    raise error


class Scene:
    """A session on a fake VM, its devices read."""

    def __init__(self) -> None:
        self.vm = FakeMachine()
        self.session = Session(cast("VirtualMachine", self.vm))
        self.draft: Draft = self.session.draft
        self.load()

    def load(self) -> None:
        self.session.load(fail)
        self.session.wait(10)

    def edit(self, device: str, **changes: Any) -> None:
        self.draft.edit(device, fail, **changes)

    @property
    def files(self) -> list[str]:
        return [row.file for row in self.draft.rows.values()]

    @property
    def planned(self) -> list[str]:
        assert self.draft.plan is not None
        return [target.file for target in self.draft.plan.targets]


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_every_device_is_included_and_named_by_the_template(scene: Scene) -> None:
    assert scene.files == ["/imgs/drive0.qcow2.qcow2", "/imgs/drive1.qcow2.qcow2"]
    assert scene.planned == scene.files


def test_an_edit_disarms_the_plan_until_it_is_checked(scene: Scene) -> None:
    before = scene.draft.revision

    scene.edit("drive0", file="/imgs/a")
    assert scene.draft.checking
    assert scene.session.not_ready == "The plan is being checked."
    assert scene.draft.revision > before

    scene.session.wait(10)
    assert scene.session.not_ready == ""
    assert scene.planned[0] == "/imgs/a"


def test_the_late_answer_to_an_older_edit_is_thrown_away(scene: Scene) -> None:
    scene.vm.hold("/imgs/slow")
    scene.edit("drive0", file="/imgs/slow")
    wait_until(lambda: ["/imgs/slow", scene.files[1]] in scene.vm.asked, "the slow check begins")
    scene.edit("drive0", file="/imgs/quick")
    wait_until(lambda: not scene.draft.checking, "the quick check ends")

    scene.vm.let_go("/imgs/slow")
    scene.session.wait(10)

    assert scene.planned[0] == "/imgs/quick"


def test_a_burst_of_edits_is_checked_once(scene: Scene) -> None:
    scene.vm.asked.clear()

    for letter in "abcdef":
        scene.edit("drive0", file=f"/imgs/{letter}")
    scene.session.wait(10)

    assert [files[0] for files in scene.vm.asked] == ["/imgs/f"]


def test_what_is_left_out_is_not_in_the_plan(scene: Scene) -> None:
    scene.edit("drive0", include=False)
    scene.session.wait(10)
    assert scene.planned == [scene.files[1]]

    scene.draft.include_all(False, fail)
    scene.session.wait(10)
    assert scene.draft.plan is None
    assert scene.session.not_ready == "No disk is included."

    scene.draft.include_all(True, fail)
    scene.session.wait(10)
    assert scene.planned == scene.files


def test_a_name_from_the_template_follows_the_format_and_a_typed_one_does_not(
    scene: Scene,
) -> None:
    scene.edit("drive1", file="/imgs/typed")
    scene.edit("drive0", format="qed")
    scene.edit("drive1", format="qed")
    scene.session.wait(10)

    assert scene.files == ["/imgs/drive0.qcow2.qed", "/imgs/typed"]


def test_fill_names_all_again_also_what_was_typed(scene: Scene) -> None:
    scene.edit("drive1", file="/imgs/typed")
    scene.draft.fill("new.", fail)
    scene.session.wait(10)

    assert scene.files == ["/imgs/drive0.qcow2.new.qcow2", "/imgs/drive1.qcow2.new.qcow2"]
    assert scene.planned == scene.files


def test_a_problem_keeps_the_button_disarmed(scene: Scene) -> None:
    scene.edit("drive0", file="/imgs/bad")
    scene.session.wait(10)

    assert scene.session.not_ready == "In the way: 1 problem. See Targets."
    with pytest.raises(PlanError, match="1 problem"):
        scene.session.start_run(fail)


def test_an_unknown_device_is_refused_and_the_known_ones_are_named(scene: Scene) -> None:
    with pytest.raises(PlanError, match=r"no device 'drive7'\. The devices are: drive0, drive1"):
        scene.edit("drive7", file="/imgs/a")


def test_disks_that_have_moved_are_named_anew_but_not_where_a_name_was_typed(
    scene: Scene,
) -> None:
    scene.edit("drive1", file="/imgs/typed")
    scene.session.wait(10)
    scene.vm.shows("drive0", "drive1", tag=".moved")

    scene.load()

    assert scene.files == ["/imgs/drive0.moved.qcow2.qcow2", "/imgs/typed"]
    assert scene.planned == scene.files


def test_a_check_that_sees_other_disks_shows_them(scene: Scene) -> None:
    scene.vm.shows("drive0", "drive1", tag=".moved")

    scene.edit("drive1", file="/imgs/typed")
    scene.session.wait(10)

    assert scene.session.graph == scene.vm.graph
    assert scene.files == ["/imgs/drive0.moved.qcow2.qcow2", "/imgs/typed"]


def test_a_device_that_is_gone_has_no_row(scene: Scene) -> None:
    scene.vm.shows("drive1")

    scene.load()

    assert list(scene.draft.rows) == ["drive1"]
    assert len(scene.planned) == 1


def test_a_check_that_fails_leaves_no_plan_and_can_be_repeated(scene: Scene) -> None:
    scene.vm.fails = RuntimeError("no answer")
    scene.edit("drive0", file="/imgs/a")
    with pytest.raises(RuntimeError, match="no answer"):
        scene.session.wait(10)
    assert scene.draft.plan is None
    assert scene.session.not_ready == "There is no plan: the targets could not be checked."

    scene.vm.fails = None
    scene.edit("drive0", file="/imgs/b")
    scene.session.wait(10)
    assert scene.session.not_ready == ""


def test_a_run_of_a_plan_that_is_no_more_the_newest_is_refused(scene: Scene) -> None:
    seen = scene.draft.revision
    scene.edit("drive0", file="/imgs/a")
    scene.session.wait(10)

    with pytest.raises(PlanError, match="has changed since"):
        scene.session.start_run(fail, seen)


def test_an_answer_for_a_vm_that_was_left_is_thrown_away(scene: Scene) -> None:
    scene.vm.hold("/imgs/slow")
    scene.edit("drive0", file="/imgs/slow")
    wait_until(lambda: ["/imgs/slow", scene.files[1]] in scene.vm.asked, "the check begins")

    scene.session.disconnect(fail)
    scene.vm.let_go("/imgs/slow")
    scene.session.wait(10)

    assert (scene.draft.plan, scene.draft.rows, scene.draft.checking) == (None, {}, False)
    assert not scene.vm.connected


def test_listeners_are_told_under_the_lock_and_never_on_a_waiting_thread(scene: Scene) -> None:
    told: list[frozenset[str]] = []
    scene.session.subscribe(told.append)

    scene.edit("drive0", file="/imgs/a")
    assert frozenset({"targets"}) in told

    with pytest.raises(RuntimeError, match="wait for itself"):
        loop.call(_call_inside())


async def _call_inside() -> None:
    loop.call(_nothing())


async def _nothing() -> None:
    pass
