"""A notebook's kernel as the client, and what a user's "Restart Kernel" does to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from jupyter_client.manager import AsyncKernelManager

from tests.conftest import SECONDS
from tests.faults.causes import Fault
from tests.faults.cell import ROOT, Cell, Client

__all__ = ["Kernel", "KernelAskedToRestart", "KernelRestarted"]

CELL = """
import json, os
os.environ["SNAPKIT_JOURNAL"] = {journal!r}
from tests.faults import client
client.main(json.loads({job!r}))
"""


class Kernel:
    """An ipykernel. Each job is a cell that runs in it."""

    def __init__(self, directory: Path) -> None:
        names = {"connection_file": str(directory / "kernel.json"), "ip": str(directory / "ipc")}
        # The blocking manager leaves event loops behind.
        self._runner = asyncio.Runner()
        self._manager = AsyncKernelManager(kernel_name="python3", transport="ipc", **names)
        self._runner.run(self._start())
        self._message = ""

    async def _start(self) -> None:
        await self._manager.start_kernel(cwd=str(ROOT))
        self._client: Any = self._manager.client()
        self._client.start_channels()
        await self._client.wait_for_ready(timeout=SECONDS)

    def start(self, job: Mapping[str, object], journal: Path) -> None:
        code = CELL.format(journal=str(journal), job=json.dumps(job))
        self._message = self._client.execute(code)

    def restart(self, *, now: bool, meanwhile: Callable[[], object] = bool) -> None:
        """Restart as the user's button does, or with ``now`` without asking the kernel."""
        self._runner.run(self._restart(now, meanwhile))
        self._message = ""

    async def _restart(self, now: bool, meanwhile: Callable[[], object]) -> None:
        restart = asyncio.ensure_future(self._manager.restart_kernel(now=now))
        await asyncio.to_thread(meanwhile)
        await restart
        await self._client.wait_for_ready(timeout=SECONDS)

    def kill(self) -> None:
        """Only what still runs: others use the kernel after this cell."""
        if self._message:
            self.restart(now=True)

    def wait(self) -> None:
        reply = self._runner.run(self._reply())
        assert reply["content"]["status"] == "ok", reply["content"]

    async def _reply(self) -> dict[str, Any]:
        while True:
            reply: dict[str, Any] = await self._client.get_shell_msg(timeout=SECONDS)
            if reply["parent_header"].get("msg_id") == self._message:
                self._message = ""
                return reply

    def close(self) -> None:
        self._client.stop_channels()
        self._runner.run(self._stop())
        self._runner.close()

    async def _stop(self) -> None:
        await self._manager.shutdown_kernel(now=True)


class KernelRestarted(Fault):
    """The kernel's process is killed and another one takes its place."""

    name = "kernel restarted"
    word: ClassVar[str] = ""

    def strike(self, cell: Cell, client: Client) -> None:
        assert isinstance(client, Kernel)
        client.restart(now=True)


class KernelAskedToRestart(Fault):
    """The kernel is interrupted and asked to end, while the run goes on to its end."""

    name = "kernel asked to restart"
    word: ClassVar[str] = ""

    def strike(self, cell: Cell, client: Client) -> None:
        assert isinstance(client, Kernel)

        def go_on() -> None:
            cell.hear_at("cancelled")
            cell.say("go")

        client.restart(now=False, meanwhile=go_on)
