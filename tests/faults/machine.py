"""A storage daemon that a user, a second client and bad luck work on, and what stays true."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path

import snapkit
from snapkit.plan import Plan
from tests.conftest import MIB, Process, blockdev, create_image, digest, wait_until
from tests.faults.shears import NEVER, Shears, Way
from tests.faults.view import Offline, View, files_of, look

__all__ = ["DEVICES", "World"]

DEVICES = ("e0", "e1", "e2")
BLOCK = 4096
STATES = {True: "switched", False: "not switched"}


class World:
    """Three exported disks behind a wire, and what they have to be.

    ``chains`` are the files of each device from the top down, ``files`` the digests of all
    that exist, ``pending`` the targets of runs that only recover can finish.
    """

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="snapkit-test-"))
        self.journal = self.directory / "journal" / "journal.sqlite"
        self.number = 0
        self.chains: dict[str, list[str]] = {}
        self.written: dict[str, dict[int, int]] = {device: {} for device in DEVICES}
        self.pending: list[dict[str, str]] = []
        self.daemon = self._start()
        self.wire = Shears(self.daemon.uri, self.directory)
        self.known = set(self.look().files)
        self.files = self.now()
        self._vm = self._connect()

    def _start(self) -> Process:
        base = self.directory
        arguments = ["qemu-storage-daemon"]
        for name, monitor in (("qmp", "m0"), ("outside", "m1")):
            where = f"socket,path={base}/{name}.sock,server=on,wait=off,id={monitor}"
            arguments += ["--chardev", where, "--monitor", f"chardev={monitor}"]
        arguments += ["--nbd-server", f"addr.type=unix,addr.path={base}/nbd.sock"]
        for number, device in enumerate(DEVICES):
            image = create_image(base / f"disk{number}.qcow2", MIB)
            self.chains[device] = [image]
            arguments += blockdev(f"node{number}", image)
            node = f"node-name=node{number},name={device}"
            arguments += ["--export", f"type=nbd,id={device},{node},writable=on"]
        return Process(arguments, base, f"unix:{base}/qmp.sock")

    def close(self) -> None:
        self._vm.close()
        self.wire.close()
        self.daemon.stop()
        shutil.rmtree(self.directory)

    def _connect(self) -> snapkit.VirtualMachine:
        return snapkit.connect(self.wire.uri, local=True)

    @property
    def vm(self) -> snapkit.VirtualMachine:
        """A connection that stands. One that was cut may not have noticed yet."""
        with suppress(snapkit.ConnectError):
            self._vm.stats()
        if not self._vm.connected:
            self._vm.close()
            self._vm = self._connect()
        return self._vm

    def look(self) -> View:
        return look(self.daemon)

    def now(self) -> dict[str, str]:
        own = str(self.journal.parent)
        found = files_of(self.directory)
        return {path: what for path, what in found.items() if not path.startswith(own)}

    def targets(self, devices: Collection[str]) -> dict[str, str]:
        """A new name for each of the devices."""
        self.number += 1
        return {d: str(self.directory / f"{d}-{self.number}.snap") for d in sorted(devices)}

    def switched(self, targets: Mapping[str, str]) -> None:
        """The devices stand on these files now."""
        for device, file in targets.items():
            self.chains[device].insert(0, file)
            self.files[file] = digest(file)

    def run(self, plan: Plan, progress: Callable[[str], None] | None = None) -> str:
        """Run a plan. What was told, in the journal's words."""
        try:
            outcome = plan.run(progress)
        except (snapkit.SnapshotError, snapkit.PlanError, snapkit.ConnectError):
            return "not switched"
        except snapkit.OutcomeUnknown:
            return "unknown"
        assert outcome.ok
        return "switched"

    def run_and_cut(
        self, devices: Collection[str], way: Way, after: int, *, for_good: bool, switch: bool
    ) -> None:
        """A run whose connection is cut somewhere; with ``for_good``, only recover can look."""
        targets = self.targets(devices)
        plan = self.vm.plan(targets)
        assert plan.ok, plan.problems
        self.wire.arm(way, after, at_transaction=switch, for_good=for_good)
        told = self.run(plan)
        self.wire.arm("up", NEVER)
        moved = self.has_moved(targets)
        assert told in {STATES[moved], "unknown"}, (told, moved)
        assert told != "unknown" or for_good
        assert self.last_state() == told
        if moved:
            self.switched(targets)
        if self.wire.gone:
            self.pending.append(targets)
            self.wire.mend()

    def left_overs(self) -> list[str]:
        """The files of pending runs that no device is on."""
        used = {file for chain in self.chains.values() for file in chain}
        files = (file for targets in self.pending for file in targets.values())
        return [file for file in files if file not in used and os.path.exists(file)]

    def put_a_file(self, path: str) -> None:
        """Somebody else's, in the place of whatever is there."""
        theirs = self.directory / "theirs"
        theirs.write_text("precious")
        os.replace(theirs, path)
        self.files[path] = digest(path)

    def has_moved(self, targets: Mapping[str, str]) -> bool:
        """All of them, or none."""
        view = self.look()
        tops = {device: view.files[node] for device, node in view.devices.items()}
        moved = {tops[device] == file for device, file in targets.items()}
        assert len(moved) == 1, tops
        return moved.pop()

    def last_state(self) -> str:
        return str(snapkit.journal()["state"].iloc[-1])

    def commit(self, device: str, layer: int, *, remove: bool) -> None:
        """A second client merges a layer into the one below, and closes it."""
        view = self.look()
        nodes = view.chain(device)
        top, base = nodes[layer], nodes[layer + 1]
        file = view.files[top]
        with self.daemon.qmp() as other:
            arguments = {"device": nodes[0], "top_node": top, "base_node": base}
            other.execute("block-commit", job_id="by-hand", **arguments)
            wait_until(lambda: not self._running(other.execute("query-jobs")), "the commit ends")
        others = (node for node, name in view.files.items() if name == file and node != top)
        for node in (top, *others):
            # What QEMU has opened by itself it has closed again.
            if node in self.look().files:
                self.daemon.ask("blockdev-del", node_name=node)
        self.chains[device].remove(file)
        if remove:
            os.unlink(file)
        self.rebase()

    def _running(self, jobs: list[dict[str, str]]) -> bool:
        return any(job["id"] == "by-hand" for job in jobs)

    def write(self, device: str, block: int, value: int) -> None:
        """A guest writes."""
        self._io(device, f"write -P {value} {block * BLOCK} {BLOCK}")
        self.written[device][block] = value
        top = self.chains[device][0]
        self.files[top] = digest(top)

    def _io(self, device: str, *commands: str) -> None:
        uri = f"nbd+unix:///{device}?socket={self.directory}/nbd.sock"
        words = [word for command in commands for word in ("-c", command)]
        done = subprocess.run(
            ["qemu-io", "-f", "raw", *words, uri], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout
        assert "verification failed" not in done.stdout, done.stdout

    def rebase(self) -> None:
        """What somebody else has done to the files is how they are now."""
        pending = {file for targets in self.pending for file in targets.values()}
        self.files = {
            path: what
            for path, what in self.now().items()
            if path in self.files or path not in pending
        }

    def recover(self) -> None:
        """Everything pending is finished, and nothing but left-overs removed."""
        snapkit.recover()
        self.pending.clear()
        assert snapkit.recover().empty
        states = set(snapkit.journal()["state"]) if self.journal.exists() else set()
        assert states <= {"switched", "not switched"}

    # What has to be so after every step.

    def wrong(self) -> list[str]:
        """What is not as it has to be: chains, files, left-overs."""
        view, now = self.look(), self.now()
        found = [
            f"{device} is on {chain}, not on {self.chains[device]}"
            for device in DEVICES
            if (chain := [view.files[node] for node in view.chain(device)]) != self.chains[device]
        ]
        found += [f"{path} has changed" for path, was in self.files.items() if now.get(path) != was]
        return found + [f"{name} is left" for name in self.left(view, now)]

    def left(self, view: View, now: Collection[str]) -> list[str]:
        """What nobody uses and no pending run explains."""
        pending = {file for targets in self.pending for file in targets.values()}
        used = {file for chain in self.chains.values() for file in chain} | pending
        left = [path for path in now if path not in self.files and path not in pending]
        left += [
            node for node, file in view.files.items() if node not in self.known and file not in used
        ]
        return left + ([] if self.pending else [f"job {job}" for job in view.jobs])

    def unsound(self) -> list[str]:
        """What qemu-img, and a guest that reads what it has written, have to say."""
        offline = Offline()
        found = [
            said for path in self.files if path.endswith(".qcow2") and (said := offline.check(path))
        ]
        for device, chain in self.chains.items():
            found += [said for path in chain if (said := offline.check(path))]
            if (seen := offline.chain(chain[0])) != chain:
                found.append(f"{device} opens offline as {seen}, not as {chain}")
            blocks = self.written[device].items()
            self._io(device, *(f"read -P {v} {n * BLOCK} {BLOCK}" for n, v in blocks))
        return found
