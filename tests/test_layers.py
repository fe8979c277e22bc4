"""The rules of the house, read from the imports of every module."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import snapkit

PACKAGE = Path(snapkit.__file__).parent
LONGEST = 400

PURE = {
    *(
        "model",
        "naming",
        *("checks", "checks.registry", "checks.asked", "checks.chain", "checks.devices"),
        *("checks.place", "checks.rest", "checks.reused", "checks.room"),
        *("eligible", "node_names", "order", "paths", "space"),
        "reuse",
        "plan",
        "facts",
        "script",
        "request",
        "compare",
        "disk_image",
        *("masking", "telling"),
        "printable",
    ),
    "printable",
}
# "re" and "json" work on text in memory: they are no I/O.
IO = {
    *("asyncio", "ctypes", "fcntl", "glob", "io", "logging", "multiprocessing", "pathlib"),
    *("select", "selectors", "shutil", "signal", "socket", "subprocess", "tempfile", "threading"),
}
# What of os is about values: a path's text, and the type of what has one.
OS_VALUES = {"fspath", "fsdecode", "fsencode", "PathLike"}
OUTSIDE_THE_LAYERS = {"snapkit.backends", "snapkit.lab", "snapkit.widgets", "snapkit.cli"}
WIDGET_LIBRARIES = {"ipywidgets", "anywidget", "traitlets", "IPython"}


@dataclass(frozen=True)
class Import:
    """One imported name. ``when``: "load", "use" (in a function) or "types"."""

    module: str
    name: str
    when: str

    def of(self, packages: Iterable[str]) -> bool:
        """Whether it is one of these packages, or in one."""
        return any(f"{self.name}.".startswith(f"{package}.") for package in packages)


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the package by its name within it: ``backends.qmp``."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__") or "__init__", path


def imports_in(module: str, node: ast.AST, when: str = "load") -> Iterator[Import]:
    """Every import below a node."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(module, alias.name, when) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{module} imports by relative path: name the package"
            yield from (
                Import(module, f"{child.module}.{alias.name}", when) for alias in child.names
            )
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imports_in(module, child, "use")
        elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            yield from imports_in(module, ast.Module(child.body, []), "types")
            yield from imports_in(module, ast.Module(child.orelse, []), when)
        else:
            yield from imports_in(module, child, when)


def all_imports() -> list[Import]:
    return [
        found
        for module, path in modules()
        for found in imports_in(module, ast.parse(path.read_text(encoding="utf-8")))
    ]


def test_the_inner_modules_import_no_io_no_backend_and_no_surface() -> None:
    inner = [found for found in all_imports() if found.module in PURE]

    assert [found for found in inner if found.of(IO | OUTSIDE_THE_LAYERS)] == []
    assert {found.module for found in inner} == PURE


def test_the_inner_modules_do_not_reach_the_system() -> None:
    reached = []
    for module, path in modules():
        if module not in PURE:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"open", "print", "input"}:
                reached.append((module, ast.unparse(node.func)))
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "os":
                reached += [(module, ast.unparse(node))] if node.attr not in OS_VALUES else []

    assert reached == []


def test_the_inner_modules_load_only_each_other() -> None:
    allowed = {f"snapkit.{module}" for module in PURE | {"errors"}}
    loaded = [
        found
        for found in all_imports()
        if found.module in PURE and found.when == "load" and found.of({"snapkit"})
    ]

    assert [found for found in loaded if not found.of(allowed)] == []


def test_only_the_qmp_backend_and_the_agent_import_qemu_qmp() -> None:
    allowed = {"backends.qmp", "backends.agent"}

    assert {found.module for found in all_imports() if found.of({"qemu"})} <= allowed


def test_only_the_libvirt_backend_imports_libvirt_and_only_when_used() -> None:
    found = [found for found in all_imports() if found.of({"libvirt", "libvirt_qemu"})]

    assert [each for each in found if not each.module.startswith("backends.libvirt")] == []
    assert [each for each in found if each.when == "load"] == []


def test_only_widgets_import_widget_libraries() -> None:
    outside = [
        found
        for found in all_imports()
        if found.of(WIDGET_LIBRARIES) and not found.module.startswith("widgets")
    ]

    assert outside == []


def test_pandas_loads_when_a_table_is_asked_for() -> None:
    at_once = {
        found.module
        for found in all_imports()
        if found.of({"pandas", "numpy", "snapkit.tables"}) and found.when == "load"
    }

    assert at_once <= {"tables"}


def test_a_file_has_one_subject_and_so_a_bounded_length() -> None:
    lengths = {module: len(path.read_bytes().splitlines()) for module, path in modules()}

    assert {module: length for module, length in lengths.items() if length > LONGEST} == {}


def test_the_public_names_are_complete_for_checkers_and_for_users() -> None:
    for_checkers = {
        found.name.rpartition(".")[2]
        for found in all_imports()
        if found.module == "__init__" and found.when == "types"
    }

    assert set(snapkit.__all__) - {"__version__"} == for_checkers
    assert [name for name in snapkit.__all__ if not hasattr(snapkit, name)] == []
    assert set(snapkit.__all__) <= set(dir(snapkit))
