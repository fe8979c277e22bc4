"""The checks of a disk's chain, by writing down facts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from snapkit.model import Layer, Problem, Target
from tests.checks.world import DRIVE0, GOOD, IMAGE, REUSED, check, facts, free, graph, one, there


def deep(layers: int, node: str = "n{}") -> list[Problem]:
    chain = tuple(
        replace(DRIVE0.layers[0], node=node.format(n), file=f"/imgs/{n}") for n in range(layers)
    )
    disk = replace(DRIVE0, root=chain[0].node, node=chain[0].node, layers=chain)
    return check(GOOD, known=facts(free(GOOD.file), graph=graph(disk)))


def test_a_long_chain_is_a_warning_and_one_that_cannot_start_is_refused() -> None:
    assert deep(15) == []
    assert "would have 16 backing images" in one(deep(16), "chain depth", "warning").message
    one(deep(1000), "chain depth", "warning")
    assert "QEMU can crash" in one(deep(1001), "chain depth").message


def test_for_a_vm_of_libvirt_its_limits_count() -> None:
    node = "libvirt-{}-format"
    assert deep(15, node) == []
    assert "10.8 to 11 starts" in one(deep(16, node), "chain depth", "warning").message
    one(deep(199, node), "chain depth", "warning")
    assert "libvirt starts no VM with more than 200" in one(deep(200, node), "chain depth").message


def above(*formats: str, **header: Any) -> list[Problem]:
    """A disk with these formats, top first, whose headers name a backing file."""
    layers = tuple(
        Layer(f"n{n}", format_, f"/imgs/{n}", 1, 1, None, None) for n, format_ in enumerate(formats)
    )
    disk = replace(DRIVE0, root="n0", node="n0", layers=layers)
    shape = graph(disk, **{"header_backing_file": "below it", **header})
    return check(GOOD, known=facts(free(GOOD.file), graph=shape))


def test_a_header_that_does_not_say_its_backing_file_s_format_is_a_warning() -> None:
    problem = one(above("qcow2", "raw"), "backing format", "warning")
    assert "/imgs/0 does not record that its backing file is raw; QEMU guesses" in problem.message
    cure = "qemu-img rebase -u -f qcow2 -F raw -b 'below it' /imgs/0"
    assert problem.remedy == f"Run {cure} when the VM is off"
    assert "guesses" not in one(above("qcow2", "qcow2"), "backing format", "warning").message


def test_of_many_such_headers_the_first_is_named_and_the_rest_are_counted() -> None:
    problem = one(above("qcow2", "qcow2", "qcow2", "qcow2"), "backing format", "warning")
    assert "/imgs/0 does not" in problem.message
    assert problem.message.endswith("nor do 2 more headers of the chain")


def test_a_header_that_says_it_or_cannot_say_it_is_fine() -> None:
    assert above("qcow2", "raw", header_backing_format="raw") == []
    assert above("qcow2", "raw", header_backing_file=None) == []
    assert above("qed", "qcow2") == []
    assert above("vmdk", "vmdk") == []
    one(above("qed", "raw"), "backing format", "warning")


def clusters(
    base: int | None, target: Target = GOOD, engine: str = "prepared", size: int | None = None
) -> list[Problem]:
    image = replace(IMAGE, format=target.format, cluster_size=size)
    file = there(target.file, 7, image=image) if target.mode == "existing" else free(target.file)
    known = facts(file, there("/imgs/a.qcow2"), graph=graph(DRIVE0, cluster_size=base))
    return check(target, known=known, engine=engine)


def test_another_cluster_size_than_the_base_s_is_a_warning_that_says_the_cost() -> None:
    smaller = one(clusters(4096, engine="classic"), "cluster size", "warning")
    assert "clusters of 64.0 KiB, not 4.0 KiB: the first write" in smaller.message
    assert smaller.remedy == "Use engine='prepared', which takes the base's size"
    larger = one(clusters(2 << 20, REUSED, size=65536), "cluster size", "warning")
    assert "64.0 KiB, not 2.0 MiB: it needs more tables" in larger.message
    assert larger.remedy.endswith("cluster_size=2097152")


def test_the_same_cluster_size_or_one_that_is_not_known_is_fine() -> None:
    assert clusters(4096) == []
    assert clusters(65536, engine="classic") == []
    assert clusters(None, engine="classic") == []
    assert clusters(4096, REUSED, size=4096) == []
    assert clusters(4096, REUSED) == []
    assert clusters(4096, replace(GOOD, format="qed"), engine="classic") == []
