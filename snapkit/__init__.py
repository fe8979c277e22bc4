"""Snapshot all of a running VM's disks at one instant, from a notebook.

::

    import snapkit

    vm = snapkit.connect("unix:/run/vm.qmp")
    vm.devices()
    plan = vm.plan({"drive0": "/imgs/win2003.snap", "drive1": "/imgs/data.snap"})
    plan.preview("qmp")
    plan.run().to_frame()

The names are loaded when they are first used: ``import snapkit`` itself loads neither
pandas nor ipywidgets.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snapkit.discovery import discover
    from snapkit.errors import (
        ConnectError,
        OutcomeUnknown,
        PlanError,
        SnapkitError,
        SnapshotError,
    )
    from snapkit.journaling import journal
    from snapkit.lab import Lab
    from snapkit.model import Device, Graph, Layer, Outcome, Problem, Target
    from snapkit.plan import Plan
    from snapkit.recovery import recover
    from snapkit.vm import VirtualMachine, connect
    from snapkit.widgets import Studio

__version__ = "0.1.0"

__all__ = [
    "ConnectError",
    "Device",
    "Graph",
    "Lab",
    "Layer",
    "Outcome",
    "OutcomeUnknown",
    "Plan",
    "PlanError",
    "Problem",
    "SnapkitError",
    "SnapshotError",
    "Studio",
    "Target",
    "VirtualMachine",
    "connect",
    "discover",
    "journal",
    "recover",
]

_HOMES = {
    "discovery": ("discover",),
    "errors": ("ConnectError", "OutcomeUnknown", "PlanError", "SnapkitError", "SnapshotError"),
    "journaling": ("journal",),
    "lab": ("Lab",),
    "model": ("Device", "Graph", "Layer", "Outcome", "Problem", "Target"),
    "plan": ("Plan",),
    "recovery": ("recover",),
    "vm": ("VirtualMachine", "connect"),
    "widgets": ("Studio",),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Load a public name from its module when it is first used (PEP 562)."""
    if name in _MODULE_OF:
        value = getattr(importlib.import_module(f"snapkit.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value
    if name == "widgets":
        return importlib.import_module("snapkit.widgets")
    msg = f"module 'snapkit' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
