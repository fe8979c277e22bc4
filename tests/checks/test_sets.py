"""The checks of the whole set, by writing down facts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from snapkit import checks, plan
from snapkit.facts import FileFacts
from snapkit.model import Problem, Target
from snapkit.request import Request
from tests.checks.world import (
    DRIVE0,
    DRIVE1,
    GOOD,
    IMAGE,
    MIB,
    REUSED,
    check,
    check_set,
    device,
    facts,
    free,
    graph,
    one,
    there,
)

BOTH = (GOOD, Target("drive1", "/over/y"))


def room(free_bytes: int, *targets: Target, **more: Any) -> list[Problem]:
    on = {"file_system": 1, "free_bytes": free_bytes, **more}
    return check(*targets, known=facts(*(free(target.file, **on) for target in targets)))


def test_overlays_that_fit_at_worst_are_no_problem() -> None:
    assert room(1 << 40, *BOTH) == []
    assert room(0, GOOD, file_system=None) == []
    assert check(GOOD, known=facts(free(GOOD.file, file_system=1))) == []


def test_what_may_fill_the_file_system_is_one_warning_for_all_that_share_it() -> None:
    problem = one(room(2 * MIB, *BOTH), "space", "warning")
    assert problem.device == ""
    assert problem.message.startswith(
        "2.0 MiB are free on the file system of /over, and the overlays of drive0, drive1 "
        "together may grow to 2.6 MiB"
    )
    assert one(room(MIB, GOOD), "space", "warning").device == "drive0"


def test_each_of_the_two_would_fit_but_not_both() -> None:
    assert room(2 * MIB, GOOD) == []
    other = facts(
        free("/over/x", file_system=1, free_bytes=2 * MIB),
        free("/over/y", file_system=2, free_bytes=2 * MIB),
    )
    assert check(*BOTH, known=other) == []


def test_where_the_empty_overlays_do_not_fit_the_plan_is_refused() -> None:
    found = room(MIB // 4, *BOTH)
    assert [(p.device, p.check, p.severity) for p in found] == [
        ("drive0", "space", "error"),
        ("drive1", "space", "error"),
    ]
    assert "only 256.0 KiB are free" in found[0].message
    assert "to create the overlays of drive0, drive1 together takes 384.0 KiB" in found[0].message


def test_of_many_overlays_only_some_are_named() -> None:
    many = [device(f"vd{n}", f"/imgs/{n}") for n in range(20)]
    targets = [Target(d.name, f"/over/{d.name}") for d in many]
    on = {"file_system": 1, "free_bytes": 8 * MIB}
    files = [free(target.file, **on) for target in targets]
    problem = one(check(*targets, known=facts(*files, graph=graph(*many))), "space", "warning")
    assert "vd7 and 12 more together" in problem.message


def test_an_existing_overlay_needs_only_what_it_does_not_have_yet() -> None:
    def reuse(allocated: int, **more: Any) -> list[Problem]:
        on = {"file_system": 1, "free_bytes": 0, "allocated_bytes": allocated, **more}
        file = there("/over/x", 7, image=IMAGE, **on)
        return check(REUSED, known=facts(file, there("/imgs/a.qcow2")))

    one(reuse(MIB), "space", "warning")
    assert reuse(2 * MIB) == []
    assert reuse(0, kind="device") == []


def test_the_matrix_tells_it_beside_every_device_concerned() -> None:
    known = facts(
        free("/over/x", file_system=1, free_bytes=MIB), free("/over/y", file_system=2, free_bytes=1)
    )
    _, cells = checks.run(checks.Survey(BOTH, known))
    assert cells["drive0", "space"].startswith("warning: 1.0 MiB are free")
    assert cells["drive1", "space"].startswith("error: only 1 bytes are free")


@pytest.mark.parametrize(
    ("limit", "used", "refused"),
    [(23, 20, False), (22, 20, True), (None, 20, False), (22, None, False)],
)
def test_qemu_has_to_be_allowed_one_more_file_than_there_are_overlays(
    limit: int | None, used: int | None, refused: bool
) -> None:
    known = facts(*(free(t.file) for t in BOTH), fd_limit=limit, fd_used=used)
    found = check(*BOTH, known=known)
    assert [(p.device, p.check) for p in found] == [("", "file descriptors")] * refused


def test_what_qemu_needs_is_told_in_numbers() -> None:
    known = facts(free(GOOD.file), fd_limit=20, fd_used=20)
    problem = one(check(GOOD, known=known), "file descriptors")
    assert problem.message == "QEMU has 20 files open of 20 that it may, and needs 2 more"


def test_a_disk_that_is_left_out_gets_a_warning_of_its_own() -> None:
    problem = one(check_set(GOOD), "left out", "warning")
    assert problem.device == "drive1"
    assert "disks of two instants would mix" in problem.message
    assert check_set(*BOTH) == []
    known = facts(*(free(t.file) for t in BOTH))
    _, cells = checks.run(checks.Survey((GOOD,), known))
    assert cells["drive0", "left out"].startswith("warning: drive1: it is not in the set")


def left_out(*others: Any, unread: str = "") -> list[Problem]:
    known = facts(free(GOOD.file), graph=graph(DRIVE0, *others))
    also = (Problem(unread, "targets", "error", "m", "r"),) if unread else ()
    bound: Any = None
    made = plan.make(Request((GOOD,), problems=also), known, bound)
    return [problem for problem in made.problems if problem.check == "left out"]


def test_what_cannot_be_in_a_set_or_is_written_by_nobody_is_not_left_out() -> None:
    assert left_out(replace(DRIVE1, why_not="read-only")) == []
    assert left_out(replace(DRIVE1, attached=False)) == []
    assert left_out(replace(DRIVE1, drive="drive1")) == []
    assert left_out(replace(DRIVE1, drive="drive1", qdev="vd1")) != []


def test_a_disk_whose_target_could_not_be_read_is_not_left_out() -> None:
    assert left_out(DRIVE1, unread="drive1") == []
    assert left_out(DRIVE1, unread=DRIVE1.node) == []


def test_where_a_name_means_no_device_nobody_is_called_left_out() -> None:
    found = check_set(Target("drive", "/over/x"))
    assert [problem.check for problem in found] == ["known"]


def test_many_disks_that_are_left_out_are_one_warning() -> None:
    (problem,) = left_out(*(device(f"vd{n}", f"/imgs/{n}") for n in range(20)))
    assert problem.device == ""
    assert problem.message.startswith("20 disks are not in the set")
    assert problem.message.endswith("vd7, and more")


FLASH = device("pflash1", "/imgs/vars", qdev="/machine/system.flash1", drive="pflash1")


def test_writable_firmware_that_is_not_in_the_set_is_a_warning() -> None:
    known = facts(free(GOOD.file), graph=graph(DRIVE0, FLASH))
    problem = one(check_set(GOOD, known=known), "firmware", "warning")
    assert problem.device == "pflash1"
    assert problem.remedy == "Add pflash1, or copy /imgs/vars when the VM is off"


def test_firmware_that_cannot_be_in_the_set_is_to_be_copied() -> None:
    chip = device("pflash1", "/imgs/vars", qdev="pflash1", why_not="libvirt takes no snapshot")
    known = facts(free(GOOD.file), graph=graph(DRIVE0, chip))
    problem = one(check_set(GOOD, known=known), "firmware", "warning")
    assert problem.remedy == "Copy /imgs/vars when the VM is off"


def test_firmware_in_the_set_or_without_variables_is_fine() -> None:
    known = facts(free("/over/x"), free("/over/y"), graph=graph(DRIVE0, FLASH))
    assert check_set(GOOD, Target("pflash1", "/over/y"), known=known) == []
    code = replace(FLASH, read_only=True, why_not="it is read-only")
    assert check_set(GOOD, known=facts(free(GOOD.file), graph=graph(DRIVE0, code))) == []


def test_a_tpm_is_a_warning() -> None:
    known = facts(*(free(t.file) for t in BOTH), tpm=("tpm0",))
    problem = one(check_set(*BOTH, known=known), "tpm", "warning")
    assert "the state of the TPM (tpm0) is not in" in problem.message


def test_a_warning_never_stands_in_the_way() -> None:
    bound: Any = None
    known = facts(free(GOOD.file, file_system=1, free_bytes=MIB), tpm=("tpm0",))
    made = plan.make(Request((GOOD,)), known, bound)
    assert {p.check for p in made.problems} == {"space", "tpm", "left out"}
    assert made.ok
    assert repr(made) == "<Plan: drive0; ok; 3 warnings>"
    bad = plan.make(Request((replace(GOOD, file=""),)), known, bound)
    assert repr(bad) == "<Plan: drive0; refused; 1 problem, 2 warnings>"


def test_problems_come_device_by_device_and_the_rest_last() -> None:
    found = check_set(Target("drive1", ""), replace(GOOD, mode="none"))
    assert [(p.device, p.check) for p in found] == [("drive1", "path"), ("drive0", "mode")]
    found = check_set(replace(GOOD, mode="none"))
    assert [p.device for p in found] == ["drive0", "drive1"]


def test_checking_grows_with_the_number_of_devices_and_not_with_its_square() -> None:
    def steps(count: int) -> int:
        """How often facts about a file are asked for."""
        many = [device(f"vd{n}", f"/imgs/{n}") for n in range(count)]
        targets = tuple(Target(d.name, f"/over/{d.name}") for d in many)
        known = facts(*(free(t.file) for t in targets), graph=graph(*many))
        files = Counted(known.files)
        problems, _ = checks.run(checks.Survey(targets, replace(known, files=files)))
        assert problems == ()
        return files.asked

    assert steps(128) <= 4.2 * steps(32)


class Counted(dict[str, FileFacts]):
    """Facts about files that count how often they are asked for."""

    asked = 0

    def get(self, key: str, default: Any = None) -> Any:
        self.asked += 1
        return super().get(key, default)
