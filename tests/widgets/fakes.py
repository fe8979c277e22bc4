"""A VM whose answers come when a test lets them come."""

from __future__ import annotations

import asyncio
from typing import Any

from snapkit import loop
from snapkit.model import Graph, Problem, Target
from tests.widgets.scenes import device


class FakePlan:
    """A plan with what panels look at."""

    def __init__(self, targets: list[Target], graph: Graph) -> None:
        self.targets = tuple(targets)
        self.graph = graph
        self.forms = ("qmp", "python")
        self.problems = tuple(
            Problem(target.device, "directory", "error", f"{target.file} is bad", "Choose another")
            for target in targets
            if "bad" in target.file
        )
        self.ok = not self.problems

    def preview(self, form: str) -> str:
        return f"{form} of {', '.join(target.file for target in self.targets)}"


class FakeMachine:
    """Two drives. ``hold`` keeps the plan for a file back until ``let_go``."""

    def __init__(self) -> None:
        self.uri, self.domain, self.name = "unix:/run/fake.sock", None, "fake"
        self.connected, self.readonly, self.runs = True, False, 0
        self.graph = self.shows("drive0", "drive1")
        self.asked: list[list[str]] = []
        self.fails: Exception | None = None
        self._held: dict[str, asyncio.Event] = {}

    def shows(self, *names: str, tag: str = "") -> Graph:
        self.graph = Graph({n: device(n, file=f"/imgs/{n}{tag}.qcow2") for n in names}, {})
        return self.graph

    def hold(self, file: str) -> None:
        self._held[file] = asyncio.Event()

    def let_go(self, file: str) -> None:
        async def release() -> None:
            self._held[file].set()

        loop.call(release())

    async def observe(self) -> Graph:
        return self.graph

    async def make_plan(self, targets: list[Any], **options: Any) -> FakePlan:
        if self.fails is not None:
            raise self.fails
        graph = self.graph
        made = [t if isinstance(t, Target) else self._fill(t, options) for t in targets]
        self.asked.append([target.file for target in made])
        for target in made:
            if target.file in self._held:
                await self._held[target.file].wait()
        return FakePlan(made, graph)

    def _fill(self, name: str, options: dict[str, Any]) -> Target:
        file = self.graph.devices[name].file
        template = "" if "{tag}" in options["template"] else options["template"]
        return Target(name, f"{file}.{template}{options['format']}", options["format"])

    async def aclose(self) -> None:
        self.connected = False
