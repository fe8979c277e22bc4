"""How connections end: closed, killed, thrown away, forked; and what they leave behind."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import snapkit
from snapkit.loop import call
from tests.conftest import Process, Qmp, wait_until

ROOT = Path(__file__).parents[1]


def no_connection(uri: str) -> None:
    with pytest.raises(snapkit.ConnectError):
        snapkit.connect(uri)


def descriptors() -> set[str]:
    """What this process has open, but for what comes and goes by itself."""
    names = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            names.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except FileNotFoundError:
            continue
    return names


async def tasks() -> int:
    return len(asyncio.all_tasks())


def test_connecting_again_and_again_leaves_nothing_behind(seed_qemu: Process) -> None:
    with snapkit.connect(seed_qemu.uri) as vm:
        vm.devices()
    # The pool of the loop has its threads from here on.
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: no_connection("/none"), range(64)))
    before = descriptors(), call(tasks())
    threads = threading.active_count()

    for _ in range(20):
        vm = snapkit.connect(seed_qemu.uri)
        assert len(vm.devices()) == 2
        vm.close()
        no_connection("/none")

    wait_until(lambda: call(tasks()) == before[1], "all tasks have ended")
    assert descriptors() == before[0]
    assert threading.active_count() <= threads + 1
    gc.collect()


def test_closing_twice_is_fine_and_from_many_threads_too(seed_qemu: Process) -> None:
    vm = snapkit.connect(seed_qemu.uri)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: vm.close(), range(8)))
    vm.close()

    assert not vm.connected
    assert "closed" in repr(vm)


def test_a_closed_connection_says_so_and_the_vm_is_free_for_others(seed_qemu: Process) -> None:
    vm = snapkit.connect(seed_qemu.uri)
    vm.close()

    for use in (vm.devices, vm.layers, vm.stats, lambda: vm.plan({"drive0": "/x"})):
        with pytest.raises(snapkit.ConnectError, match=r"is closed\. Connect again"):
            use()
    assert len(vm.events()) == 0
    Qmp(seed_qemu.uri.removeprefix("unix:")).close()


def test_leaving_the_with_block_closes_also_after_an_error(seed_qemu: Process) -> None:
    with pytest.raises(ValueError, match="mine"), snapkit.connect(seed_qemu.uri) as vm:
        raise ValueError("mine")
    assert not vm.connected


def test_a_vm_that_is_killed_is_no_longer_connected(seed_qemu: Process) -> None:
    vm = snapkit.connect(seed_qemu.uri)
    seed_qemu.stop()

    wait_until(lambda: not vm.connected, "the end of the connection is noticed")
    for use in (vm.devices, vm.layers, vm.stats):
        with pytest.raises(snapkit.ConnectError, match="onnect again"):
            use()
    vm.close()


def test_a_vm_that_quits_leaves_its_last_events(seed_qemu: Process) -> None:
    with snapkit.connect(seed_qemu.uri) as vm:
        seed_qemu.ask("quit")
        wait_until(lambda: not vm.connected, "the end of the connection is noticed")
        assert "SHUTDOWN" in set(vm.events()["event"])


def test_calls_from_many_threads_at_once_all_get_their_answers(seed_qemu: Process) -> None:
    with snapkit.connect(seed_qemu.uri) as vm, ThreadPoolExecutor(8) as pool:
        uses: list[Callable[[], int]] = [
            lambda: len(vm.devices()),
            lambda: len(vm.layers()),
            lambda: len(vm.stats()),
            lambda: 2 + len(vm.events()) * 0,
        ]
        found = list(pool.map(lambda number: uses[number % 4](), range(80)))
    assert found == [2] * 80


def test_a_vm_is_used_where_an_event_loop_is_running(seed_qemu: Process) -> None:
    async def cell() -> int:
        with snapkit.connect(seed_qemu.uri) as vm:
            return len(vm.devices())

    assert asyncio.run(cell()) == 2


def in_another_process(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script), *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )


BEGINNING = """
import os, signal, sys, time
import snapkit, snapkit.loop

uri, pid = sys.argv[1], int(sys.argv[2])

def wait(condition):
    while not condition():
        time.sleep(0.01)

def kill():
    os.kill(pid, signal.SIGKILL)

vm = snapkit.connect(uri)
"""

ENDINGS = {
    "closed": "vm.close()",
    "not closed": "",
    "killed and noticed": "kill(); wait(lambda: not vm.connected)",
    "killed and not noticed": "kill()",
    "killed and used": """
kill()
try:
    vm.devices()
except snapkit.ConnectError:
    pass
""",
    "stopped": "os.kill(pid, signal.SIGSTOP)",
    "an error": "sys.stderr.close(); raise SystemExit(0)",
    "thrown away": "del vm; import gc; gc.collect()",
    "in the middle of a call": "snapkit.loop.submit(vm.observe())",
    "after a failed connect": """
try:
    snapkit.connect(uri, timeout=0.1)
except snapkit.ConnectError:
    pass
""",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_process_ends_quietly_however_its_connection_does(
    seed_qemu: Process, ending: str
) -> None:
    done = in_another_process(BEGINNING + ENDINGS[ending], seed_qemu.uri, str(seed_qemu.pid))
    if ending == "stopped":
        seed_qemu.process.send_signal(signal.SIGCONT)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_forked_child_is_told_to_connect_again_and_leaves_the_parent_alone(
    seed_qemu: Process,
) -> None:
    done = in_another_process(
        """
        import gc, os, sys
        import snapkit

        vm = snapkit.connect(sys.argv[1])
        child = os.fork()
        if not child:
            assert not vm.connected
            try:
                vm.devices()
            except snapkit.ConnectError as err:
                assert "another process" in str(err), err
            else:
                raise SystemExit("the child used the parent's connection")
            vm.close()
            with snapkit.connect(sys.argv[2]) as other:
                assert len(other.devices()) == 2
            del vm
            gc.collect()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert vm.connected
        assert len(vm.devices()) == 2
        vm.close()
        """,
        seed_qemu.uri,
        f"unix:{seed_qemu.outside}",
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    snapkit.connect(seed_qemu.uri).close()


def test_a_forked_child_that_ends_like_a_program_leaves_the_parent_alone(
    seed_qemu: Process,
) -> None:
    done = in_another_process(
        """
        import os, sys
        import snapkit

        vm = snapkit.connect(sys.argv[1])
        child = os.fork()
        if not child:
            sys.stderr = None
            sys.exit(0)
        os.waitpid(child, 0)
        assert len(vm.devices()) == 2
        """,
        seed_qemu.uri,
    )

    assert done.returncode == 0, done.stderr


def test_a_vm_that_is_thrown_away_leaves_its_monitor_to_others(seed_qemu: Process) -> None:
    snapkit.connect(seed_qemu.uri).devices()
    gc.collect()

    with snapkit.connect(seed_qemu.uri, timeout=20) as vm:
        assert len(vm.devices()) == 2


def test_a_call_that_is_interrupted_leaves_the_connection_in_use(seed_qemu: Process) -> None:
    done = in_another_process(
        """
        import _thread, os, signal, sys, threading
        import snapkit, snapkit.tables

        vm = snapkit.connect(sys.argv[1])
        os.kill(int(sys.argv[2]), signal.SIGSTOP)
        threading.Timer(0.2, _thread.interrupt_main).start()
        try:
            vm.devices()
        except KeyboardInterrupt:
            pass
        os.kill(int(sys.argv[2]), signal.SIGCONT)
        assert len(vm.devices()) == 2
        """,
        seed_qemu.uri,
        str(seed_qemu.pid),
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
