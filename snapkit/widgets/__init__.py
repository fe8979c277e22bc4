"""Panels for notebooks: connect, see the disks, fill in targets, review, run.

Each panel stands alone, or all together in a ``Studio``. Panels of the same VM show the same
state: what is done in one is seen in the others.
"""

from __future__ import annotations

from snapkit.widgets.connect import Connect
from snapkit.widgets.devices import Devices
from snapkit.widgets.review import Review
from snapkit.widgets.run import Run
from snapkit.widgets.studio import Studio
from snapkit.widgets.targets import Targets

__all__ = ["Connect", "Devices", "Review", "Run", "Studio", "Targets"]
