"""The checks of one target, by writing down facts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from snapkit import checks
from snapkit.facts import FileFacts, ImageFacts
from snapkit.model import Graph, Node, Problem, Target
from tests.checks.world import (
    DRIVE0,
    DRIVE1,
    EMPTY,
    GOOD,
    IMAGE,
    MIB,
    REUSED,
    check,
    device,
    facts,
    free,
    graph,
    one,
    there,
)


def test_a_good_set_has_no_problem_and_every_check_has_its_say() -> None:
    targets = (GOOD, Target("drive1", "/over/y"))
    room = {"file_system": 1, "free_bytes": 1 << 40}
    known = facts(*(free(t.file, **room) for t in targets), fd_limit=1024, fd_used=20)
    problems, cells = checks.run(checks.Survey(targets, known))
    assert problems == ()
    assert set(cells.values()) == {"ok"}
    said = {name for device, name in cells if device == "drive0"}
    # These two are about overlays that are there already.
    # One is about overlays that are there already, one about images, and one is libvirt's.
    assert {c.name for c in checks.CHECKS} - said == {"overlay", "locked", "snapshot name"}


def test_every_check_asks_a_question_and_says_how_bad_an_answer_can_be() -> None:
    assert all(c.asks.endswith("?") for c in checks.CHECKS)
    assert all(set(c.severities) <= {"error", "warning"} and c.severities for c in checks.CHECKS)
    assert len({c.name for c in checks.CHECKS}) == len(checks.CHECKS)


def test_a_device_that_there_is_not_is_told_what_there_is() -> None:
    assert one(check(Target("nope", "/over/x")), "known").remedy == "Choose one of: drive0, drive1"
    assert (
        one(check(Target("drive", "/over/x")), "known").remedy == "Did you mean drive0 or drive1?"
    )


def test_a_vm_without_devices_says_so() -> None:
    known = facts(free("/over/x"), graph=graph(EMPTY))
    problem = one(check(Target("x", "/over/x"), known=known), "known")
    assert problem.remedy == "This VM has no device that can be snapshotted"


def test_of_many_devices_only_some_are_named() -> None:
    many = graph(*(device(f"vd{n}", f"/imgs/{n}") for n in range(200)))
    problem = one(check(Target("?", "/x/y"), known=facts(free("/x/y"), graph=many)), "known")
    assert problem.remedy.endswith("vd7, and more")


@pytest.mark.parametrize("node", ["drive1-file", "drive1-1"])
def test_a_node_below_a_device_is_named_with_its_device(node: str) -> None:
    problem = one(check(Target(node, "/over/x")), "known")
    assert "inside the chain of drive1" in problem.message
    assert problem.remedy == "Name the device drive1"


def test_a_device_named_twice_is_an_error_of_both() -> None:
    found = check(GOOD, Target("drive0", "/over/y"))
    assert [(p.device, p.check) for p in found] == [("drive0", "once")] * 2


def test_a_device_that_cannot_be_snapshotted_says_why() -> None:
    found = check(Target("cd0", "/over/x"))
    assert "no medium" in one(found, "empty").message


@pytest.mark.parametrize("format_", ["raw", "vmdk", "qcow", "", "QCOW2"])
def test_only_formats_with_backing_files_are_taken(format_: str) -> None:
    assert "qcow2 or qed" in one(check(replace(GOOD, format=format_)), "format").remedy


def test_only_the_modes_of_qemu_are_taken() -> None:
    assert "existing" in one(check(replace(GOOD, mode="absolute")), "mode").remedy


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("", "no snapshot file is given"),
        ("x.snap", "is not absolute"),
        ("json:{}", "is not absolute"),
        ("nbd://host/x", "is not absolute"),
        ("/over/\0x", "NUL"),
        ("/over/\udcff", "not UTF-8"),
        ("/over/", "names a directory"),
        ("/over/" + "ä" * 600, "has 1206 bytes"),
        ("/over/" + "x" * 256, "more than 255 bytes"),
        ("/dev/fdset/1", "is no file for QEMU"),
        ("/dev/cdrom-x", "is read by QEMU as a drive"),
        ("/dev/./cdrom", "is read by QEMU as a drive"),
        ("/proc/self/cwd/x", "names another file in QEMU"),
        ("/proc/../proc/thread-self/cwd/x", "names another file in QEMU"),
        ("/dev/fd/3", "names another file in QEMU"),
        ("/dev/stdout", "names another file in QEMU"),
    ],
)
def test_a_name_that_qemu_cannot_be_told_is_refused(file: str, words: str) -> None:
    assert words in one(check(replace(GOOD, file=file)), "path").message


@pytest.mark.parametrize(
    "file", ["/" + "x" * 255, "/a:b", "/json:{}", "/ ", "/x" * 511, "/dev/fdx", "/proc/7/cwd/x"]
)
def test_other_names_are_taken_as_they_are(file: str) -> None:
    assert check(replace(GOOD, file=file)) == []


def test_a_relative_name_is_told_where_it_could_be() -> None:
    problem = one(check(replace(GOOD, file="x.snap")), "path")
    assert problem.remedy == "Give an absolute path, such as /imgs/x.snap"


def test_what_cannot_be_looked_at_is_a_warning() -> None:
    known = facts(FileFacts("/over/x"), local=False, locality="QEMU is elsewhere")
    problem = one(check(GOOD, known=known), "visible", "warning")
    assert "QEMU is elsewhere" in problem.message


def test_a_missing_directory_is_told_how_to_make_it() -> None:
    known = facts(FileFacts("/o'ver/x", known=True))
    problem = one(check(replace(GOOD, file="/o'ver/x"), known=known), "directory")
    assert problem.remedy == "Create it: mkdir -p '/o'\"'\"'ver'"


@pytest.mark.parametrize(
    ("target", "fact", "words"),
    [
        (GOOD, {"directory_writable": False}, "QEMU's user qemu may not create files in /over"),
        (GOOD, {"read_only_file_system": True}, "read-only file system"),
        (REUSED, {"writable": False}, "QEMU's user qemu may not write to /over/x"),
        (REUSED, {"read_only_file_system": True}, "read-only file system"),
    ],
)
def test_a_place_that_qemu_may_not_write_to_is_refused(
    target: Target, fact: dict[str, bool], words: str
) -> None:
    file = free("/over/x") if target is GOOD else there("/over/x", image=IMAGE)
    known = facts(replace(file, **fact), qemu_user="qemu")  # type: ignore[arg-type]
    assert words in one(check(target, known=known), "permission").message


@pytest.mark.parametrize("unknown", [None, True])
def test_rights_that_are_not_known_are_no_problem(unknown: bool | None) -> None:
    file = replace(free("/over/x"), directory_writable=unknown)
    assert check(GOOD, known=facts(file)) == []


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("file", "already exists, and QEMU would overwrite it"),
        ("directory", "is a directory"),
        ("device", "is a device"),
        ("other", "already exists"),
        ("", "already exists"),
    ],
)
def test_a_place_that_is_taken_is_refused(kind: str, words: str) -> None:
    found = check(GOOD, known=facts(there("/over/x", kind=kind)))
    assert words in one(found, "exists").message


def test_an_existing_overlay_has_to_be_there_and_a_file() -> None:
    assert "does not exist" in one(check(REUSED), "exists").message
    found = check(REUSED, known=facts(there("/over/x", kind="directory")))
    assert "is no file" in one(found, "exists").message


def test_two_devices_never_share_a_file() -> None:
    other = Target("drive1", "/link/x")
    known = facts(free("/over/x"), replace(free("/link/x"), real_path="/over/x"))
    found = check(GOOD, other, known=known)
    assert [(p.device, p.check) for p in found] == [("drive0", "distinct"), ("drive1", "distinct")]
    spelt = check(GOOD, Target("drive1", "/over/./x"), known=facts())
    assert [p.check for p in spelt if p.severity == "error"] == ["distinct", "distinct"]


@pytest.mark.parametrize("file", ["/imgs/b.snap", "/imgs/b.qcow2", "/imgs/../imgs/b.qcow2"])
def test_no_layer_of_any_device_becomes_an_overlay(file: str) -> None:
    found = check(replace(REUSED, file=file), known=facts(local=False))
    assert "in use" in [problem.check for problem in found]


def test_a_layer_is_recognized_through_a_hard_link() -> None:
    known = facts(there("/over/x", 7, image=IMAGE), there("/imgs/b.qcow2", 7))
    problem = one(check(REUSED, known=known), "in use")
    assert problem.message == "/over/x is layer 1 of drive1"


def test_a_file_that_this_qemu_has_open_otherwise_is_in_use() -> None:
    known = facts(there("/over/x", 7, image=IMAGE, held=True), there("/imgs/a.qcow2"))
    assert one(check(REUSED, known=known), "in use").message == "/over/x is open in this QEMU"
    nodes = {**known.graph.nodes, "data": Node("data", "file", "/over/x")}
    known = facts(there("/over/x", image=None), graph=replace(known.graph, nodes=nodes))
    found = check(REUSED, known=known)
    assert "/over/x is the file of the node data" in [problem.message for problem in found]


@pytest.mark.parametrize(
    ("lock", "held", "found"),
    [
        (True, False, ["locked"]),
        (True, None, ["locked"]),
        # QEMU's own lock is no news.
        (True, True, ["in use"]),
        (False, False, []),
        (None, False, []),
    ],
)
def test_an_overlay_that_another_process_has_locked_is_refused(
    lock: bool | None, held: bool | None, found: list[str]
) -> None:
    file = there("/over/x", 7, image=IMAGE, locked=lock, held=held)
    problems = check(REUSED, known=facts(file, there("/imgs/a.qcow2")))
    assert [problem.check for problem in problems] == found


def reuse(image: ImageFacts | None, target: Target = REUSED) -> list[Problem]:
    return check(target, known=facts(there("/over/x", 7, image=image), there("/imgs/a.qcow2", 1)))


def test_an_existing_overlay_that_fits_is_taken() -> None:
    assert reuse(IMAGE) == []
    assert reuse(replace(IMAGE, allocated_clusters=None)) == []
    qed = replace(IMAGE, format="qed", backing_format=None)
    assert reuse(qed, replace(REUSED, format="qed")) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"error": "broken"}, "cannot be read as an image: broken"),
        ({"format": "qed"}, "has the format qed, not qcow2"),
        ({"format": "raw"}, "has the format raw, not qcow2"),
        ({"virtual_size": MIB // 2}, "smaller than the disk: 524288 bytes, not 1048576"),
        ({"virtual_size": MIB * 2}, "larger than the disk"),
        ({"backing_file": None, "full_backing_file": None}, "names no backing file"),
        ({"full_backing_file": "/imgs/c"}, "names the backing file"),
        ({"backing_format": "raw"}, "says that its backing file is raw, not qcow2"),
    ],
)
def test_an_existing_overlay_that_does_not_fit_is_refused(
    change: dict[str, Any], words: str
) -> None:
    assert words in one(reuse(replace(IMAGE, **change)), "overlay").message


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (None, "was not read"),
        (replace(IMAGE, allocated_clusters=3), "already holds data"),
        (replace(IMAGE, backing_format=None), "does not record"),
    ],
)
def test_an_existing_overlay_that_is_doubtful_is_a_warning(
    image: ImageFacts | None, words: str
) -> None:
    assert words in one(reuse(image), "overlay", "warning").message


def with_drive0(**layer_facts: Any) -> Graph:
    changed = replace(DRIVE0, layers=(replace(DRIVE0.layers[0], **layer_facts),))
    return graph(changed, DRIVE1)


@pytest.mark.parametrize("format_", ["qcow2", "qed"])
def test_over_raw_the_header_has_to_say_raw(format_: str) -> None:
    image = replace(IMAGE, format=format_, backing_format=None)
    files = there("/over/x", 7, image=image), there("/imgs/a.qcow2", 1)
    known = facts(*files, graph=with_drive0(format="raw"))
    found = check(replace(REUSED, format=format_), known=known)
    assert "does not record" in one(found, "overlay").message


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("/imgs/\N{REPLACEMENT CHARACTER}", "not UTF-8"),
        ("disk.img", "relative name 'disk.img'"),
        ("/" + "x" * 1024, "too long"),
    ],
)
def test_a_disk_that_a_header_cannot_name_is_refused(file: str, words: str) -> None:
    known = facts(free("/over/x"), graph=with_drive0(file=file))
    assert words in one(check(GOOD, known=known), "base").message


def test_a_disk_whose_name_would_be_read_as_a_protocol_is_refused() -> None:
    def found(driver: str, name: str) -> list[Problem]:
        shape = graph(device("drive0", name))
        file = Node("drive0-file", driver)
        top = replace(shape.nodes["drive0-0"], children={"file": file.name})
        nodes = {**shape.nodes, file.name: file, top.name: top}
        return check(GOOD, known=facts(free(GOOD.file), graph=replace(shape, nodes=nodes)))

    assert "as the protocol 'a'" in one(found("file", "a:b.qcow2"), "base").message
    assert found("file", "/a:b.qcow2") == []
    assert found("nbd", "nbd://host/x") == []
    assert found("file", 'json:{"driver": "raw"}') == []


def test_a_disk_that_is_known_only_to_its_process_is_a_warning() -> None:
    known = facts(free(GOOD.file), graph=with_drive0(file="/dev/fdset/1"))
    assert "handed open" in one(check(GOOD, known=known), "base", "warning").message


def test_an_encrypted_disk_gets_a_warning() -> None:
    known = facts(free("/over/x"), graph=graph(DRIVE0, encrypted=True))
    assert "would not be" in one(check(GOOD, known=known), "encryption", "warning").message


@pytest.mark.parametrize(
    ("engine", "commands", "remedy"),
    [
        ("prepared", {"transaction", "blockdev-snapshot-sync"}, "Use engine='classic'"),
        ("classic", {"transaction"}, "Update it"),
    ],
)
def test_a_qemu_without_the_commands_is_told_what_else_to_use(
    engine: str, commands: set[str], remedy: str
) -> None:
    known = facts(free("/over/x"), commands=frozenset(commands))
    assert one(check(GOOD, known=known, engine=engine), "engine").remedy == remedy


def test_the_classic_engine_is_refused_where_it_would_write_a_header_that_is_lost() -> None:
    nodes = {"drive0-0": Node("drive0-0", "qcow2", "/imgs/a.qcow2", "a.qcow2")}
    relative = Graph({"drive0": DRIVE0}, nodes)
    known = facts(free("/over/x"), graph=relative, qemu_directory="/imgs")
    assert "'a.qcow2', lost from /over" in (
        one(check(GOOD, known=known, engine="classic"), "classic name").message
    )
    assert check(GOOD, known=known) == []
    beside = replace(GOOD, file="/imgs/x")
    known = facts(free("/imgs/x"), graph=relative, qemu_directory="/imgs")
    assert check(beside, known=known, engine="classic") == []


def test_quiescing_needs_a_guest_agent() -> None:
    assert one(check(GOOD, quiesce="require"), "quiesce").severity == "error"
    assert one(check(GOOD, quiesce="try"), "quiesce", "warning").severity == "warning"
    assert check(GOOD, quiesce="require", known=facts(free("/over/x"), agent=True)) == []


def test_a_problem_reads_as_two_sentences() -> None:
    problem = Problem("drive0", "path", "error", "it is bad", "Mend it")
    assert str(problem) == "drive0: it is bad. Mend it."
    assert str(replace(problem, remedy="Did you mean x?")) == "drive0: it is bad. Did you mean x?"
    assert "\x1b" not in str(replace(problem, message="\x1b[31m"))


def held(path: str, driver: str = "file", **more: Any) -> list[Problem]:
    """The problems of a disk whose image QEMU does not have open under its name."""
    shape = graph(device("drive0", path))
    nodes = dict(shape.nodes) | {"drive0-file": Node("drive0-file", driver)}
    nodes["drive0-0"] = replace(nodes["drive0-0"], children={"file": "drive0-file"})
    image = there(path, **{"held": False, **more})
    known = facts(free(GOOD.file), image, graph=replace(shape, nodes=nodes))
    return check(GOOD, known=known)


def test_an_image_that_is_another_file_than_qemu_s_is_refused() -> None:
    assert "another file" in one(held("/imgs/a"), "image").message
    assert "is gone" in one(held("/imgs/a", exists=False, kind="", identity=None), "image").message


def test_where_it_is_not_known_what_qemu_has_open_nothing_is_said_of_the_image() -> None:
    assert held("/imgs/a", held=None) == []
    assert held("/imgs/a", held=True) == []
    assert held("/imgs/a", shared=False) == []
    assert held("/dev/sda", driver="host_device") == []
    assert "image" not in {problem.check for problem in held("/dev/fdset/1", exists=False)}
    assert "image" not in {problem.check for problem in held("/imgs/\ufffd")}


def test_a_directory_that_qemu_sees_differently_is_refused_and_judged_no_further() -> None:
    known = facts(there(GOOD.file, shared=False))
    problem = one(check(GOOD, known=known), "visible")
    assert "sees another directory at /over" in problem.message
