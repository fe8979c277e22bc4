"""A VM by facts: two disks and an empty drive, and what the checks find in it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from snapkit import plan
from snapkit.checks import CHECKS
from snapkit.facts import Facts, FileFacts, ImageFacts
from snapkit.model import Device, Graph, Layer, Node, Problem, Target
from snapkit.request import Request

MIB = 1024 * 1024
IMAGE = ImageFacts("qcow2", MIB, "/imgs/a.qcow2", "qcow2", "/imgs/a.qcow2", 0)
DECLARED = {(check.name, severity) for check in CHECKS for severity in check.severities}
"""How bad what a check finds can be, by its own word."""
GOOD = Target("drive0", "/over/x")
REUSED = Target("drive0", "/over/x", mode="existing")


def layer(node: str, file: str, format_: str = "qcow2") -> Layer:
    return Layer(node, format_, file, MIB, MIB, None, None)


def device(name: str, *files: str, **options: Any) -> Device:
    layers = tuple(layer(f"{name}-{n}", file) for n, file in enumerate(files))
    node = layers[0].node if layers else ""
    found = Device(
        name,
        root=node,
        node=node,
        layers=layers,
        inner=(f"{name}-file",),
        aliases=(node,),
    )
    return replace(found, **options)


DRIVE0 = device("drive0", "/imgs/a.qcow2")
DRIVE1 = device("drive1", "/imgs/b.snap", "/imgs/b.qcow2")
EMPTY = device("cd0", why_not="it is empty: no medium is inserted")


def graph(*devices: Device, **node_facts: Any) -> Graph:
    """A graph of these devices. ``node_facts`` are the same for every image."""
    nodes = {
        x.node: Node(x.node, x.format, x.file, x.file, **node_facts)
        for d in devices
        for x in d.layers
    }
    files = {name: Node(name, "file") for d in devices for name in d.inner}
    return Graph({d.name: d for d in devices}, nodes | files)


def free(path: str, **facts: Any) -> FileFacts:
    return FileFacts(
        path, known=True, real_path=path, directory_exists=True, directory_writable=True, **facts
    )


def there(path: str, inode: int = 1, **facts: Any) -> FileFacts:
    return free(path, **{"exists": True, "kind": "file", "identity": (1, inode), **facts})


def facts(*files: FileFacts, **more: Any) -> Facts:
    found = {file.path: file for file in files}
    return replace(Facts(graph(DRIVE0, DRIVE1, EMPTY), found, local=True), **more)


def check_set(
    *targets: Target, known: Facts | None = None, engine: str = "prepared", quiesce: str = "no"
) -> list[Problem]:
    """All problems, those of the whole set among them."""
    known = known or facts(*(free(target.file) for target in targets))
    bound: Any = None
    found = list(plan.make(Request(targets, engine, quiesce), known, bound).problems)
    assert {(p.check, p.severity) for p in found} <= DECLARED
    return found


def check(*targets: Target, **options: Any) -> list[Problem]:
    """The problems, but for those of the disks that are no targets here."""
    return [problem for problem in check_set(*targets, **options) if problem.check != "left out"]


def one(found: list[Problem], name: str, severity: str = "error") -> Problem:
    (problem,) = found
    assert (problem.check, problem.severity) == (name, severity)
    assert problem.remedy
    return problem
