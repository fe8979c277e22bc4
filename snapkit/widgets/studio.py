"""The Studio: the panels in the order of the work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ipywidgets

from snapkit.model import Outcome
from snapkit.widgets.base import Panel
from snapkit.widgets.connect import Connect
from snapkit.widgets.devices import Devices
from snapkit.widgets.review import Review
from snapkit.widgets.run import Run
from snapkit.widgets.session import Session
from snapkit.widgets.targets import Targets

if TYPE_CHECKING:
    from snapkit.plan import Plan
    from snapkit.vm import VirtualMachine

__all__ = ["Studio"]


class Studio(ipywidgets.VBox):
    """Connect, Devices, Targets, Review and Run for one VM.

    Parameters
    ----------
    vm
        What ``snapkit.connect()`` returned. None: the user connects in the panel.
    endpoint, domain
        What is filled in there to begin with.

    The panels are attributes too, and can be driven by code as by hand::

        studio.targets.set("drive0", file="/imgs/a.snap")
        studio.run.press()
        studio.wait()

    """

    def __init__(
        self, vm: VirtualMachine | None = None, *, endpoint: str = "", domain: str = ""
    ) -> None:
        self.session = Session.of(vm)
        if vm is None:
            self.session.type_endpoint(endpoint, domain)
        self.connect = Connect(self.session)
        self.devices = Devices(self.session)
        self.targets = Targets(self.session)
        self.review = Review(self.session)
        self.run = Run(self.session)
        super().__init__(children=self.panels)

    @property
    def panels(self) -> tuple[Panel, ...]:
        """The panels in the order of the work."""
        return self.connect, self.devices, self.targets, self.review, self.run

    @property
    def vm(self) -> VirtualMachine | None:
        """The connected VM."""
        return self.session.vm

    @property
    def plan(self) -> Plan | None:
        """The plan of what is filled in, once it has been checked."""
        return self.session.draft.plan

    @property
    def outcome(self) -> Outcome | None:
        """What the VM showed after the last run."""
        return self.session.progress.outcome

    def wait(self, timeout: float = 60) -> None:
        """Return when all pending work is done. Raises TimeoutError."""
        self.session.wait(timeout)

    def close(self) -> None:
        """Close the panels too. The connection stays."""
        for panel in getattr(self, "children", ()):
            panel.close()
        super().close()

    def __repr__(self) -> str:
        return f"<Studio: {self.connect.static().sentences[0]}>"

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any] | None:
        data: dict[str, Any] | None = super()._repr_mimebundle_(**kwargs)
        if data is None:
            return None
        self.connect.settle()
        forms = [panel.static() for panel in self.panels]
        return {
            **data,
            "text/plain": "\n".join(form.to_text() for form in forms),
            "text/html": "".join(form.to_html() for form in forms),
        }
