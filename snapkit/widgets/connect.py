"""The Connect panel: which VM, and whether it may be changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import traitlets as t

from snapkit.widgets.base import Handler, Panel, esm, style
from snapkit.widgets.hub import Topic
from snapkit.widgets.static import Static
from snapkit.widgets.words import exposed, visible

__all__ = ["Connect"]


class Connect(Panel):
    """Endpoint and domain, the state of the connection, and "Allow changes".

    A connection that is opened here starts read-only.
    """

    title = "Connect"
    topics: ClassVar[frozenset[Topic]] = frozenset({"connection", "endpoints"})
    _esm = esm("connect.js")
    _css = style()

    endpoint = t.Unicode("").tag(sync=True)
    domain = t.Unicode("").tag(sync=True)
    connected = t.Bool(default_value=False).tag(sync=True)
    busy = t.Bool(default_value=False).tag(sync=True)
    status = t.Unicode("").tag(sync=True)
    allowed = t.Bool(default_value=False).tag(sync=True)
    endpoints: t.List[Any] = t.List().tag(sync=True)
    exposed = t.Unicode("").tag(sync=True)

    def begin(self) -> None:
        """Also look which endpoints there are."""
        super().begin()
        self.session.discover(self.fail)

    def state(self) -> Mapping[str, Any]:
        """What is connected, and how."""
        session = self.session
        return {
            "endpoint": session.endpoint,
            "domain": session.domain,
            "connected": session.connected,
            "busy": session.connecting,
            "status": self._status(),
            "allowed": not session.readonly,
            "endpoints": [
                {"endpoint": found.endpoint, "domain": found.domain, "label": found.label}
                for found in session.endpoints
            ],
            "exposed": exposed(session.endpoint),
        }

    def _status(self) -> str:
        session = self.session
        if session.connecting:
            domain = f"{visible(session.domain)} at " if session.domain else ""
            return f"Connecting to {domain}{visible(session.endpoint)} …"
        if session.vm is None:
            return "Not connected."
        name = f"{visible(session.vm.name)} at " if session.vm.name else ""
        where = name + visible(session.vm.uri)
        if not session.connected:
            return f"The connection to {where} is gone."
        return f"Connected to {where}, {'read-only' if session.readonly else 'changes allowed'}."

    def handlers(self) -> Mapping[str, Handler]:
        """The fields, the button, the checkbox, and a look around."""
        return {
            "edit": lambda said: self.session.type_endpoint(said["endpoint"], said["domain"]),
            "press": self._press,
            "allow": lambda said: self.allow_changes(allowed=said["value"]),
            "discover": lambda _: self.session.discover(self.fail),
        }

    def _press(self, said: Mapping[str, Any]) -> None:
        """Connect or disconnect, as the button was labelled when it was pressed."""
        if said["connected"]:
            self.session.disconnect(self.fail)
        else:
            self.session.type_endpoint(said["endpoint"], said["domain"])
            self.session.connect(self.fail)

    def press(self, endpoint: str | None = None, domain: str | None = None) -> None:
        """Connect to what is filled in, as the button does; or fill it in first.

        Raises ConnectError if there is a connection already.
        """
        session = self.session
        given = session.endpoint if endpoint is None else endpoint
        session.type_endpoint(given, session.domain if domain is None else domain)
        session.connect(self.fail)

    def disconnect(self) -> None:
        """Close the connection. Raises SnapkitError while a run is in progress."""
        self.session.disconnect(self.fail)

    def allow_changes(self, *, allowed: bool = True) -> None:
        """Set "Allow changes". Raises ConnectError without a connection."""
        self.session.allow_changes(allowed)

    def static(self) -> Static:
        """The state of the connection."""
        return Static(self.title, (self._status(),))
