from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from snapkit import loop

ROOT = Path(__file__).parents[1]


async def thread_name() -> str:
    await asyncio.sleep(0)
    return threading.current_thread().name


def test_work_runs_on_one_thread_of_its_own() -> None:
    with ThreadPoolExecutor(8) as pool:
        names = set(pool.map(lambda _: loop.call(thread_name()), range(32)))

    assert names == {"snapkit-loop"}
    assert sum(thread.name == "snapkit-loop" for thread in threading.enumerate()) == 1


def test_a_call_returns_the_result_or_raises_the_error() -> None:
    async def fail() -> None:
        raise ValueError("as it was")

    with pytest.raises(ValueError, match="as it was"):
        loop.call(fail())
    assert loop.call(thread_name()) == "snapkit-loop"


def test_a_call_works_where_another_loop_is_running() -> None:
    async def cell() -> str:
        return loop.call(thread_name())

    assert asyncio.run(cell()) == "snapkit-loop"


def test_work_that_was_submitted_goes_on_beside_the_caller() -> None:
    may_end = asyncio.Event()

    async def work() -> str:
        await may_end.wait()
        return "done"

    async def end() -> None:
        may_end.set()

    future = loop.submit(work())
    assert not future.done()
    loop.call(end())
    assert future.result(5) == "done"


def test_a_call_that_takes_too_long_is_cancelled() -> None:
    cancelled = threading.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    with pytest.raises(TimeoutError):
        loop.call(work(), timeout=0.05)
    assert cancelled.wait(5)


def test_a_call_on_the_loops_own_thread_is_refused_and_not_waited_for_for_ever() -> None:
    async def work() -> None:
        loop.call(thread_name())

    with pytest.raises(RuntimeError, match="await the work instead"):
        loop.call(work())
    # Nothing complains of work that was never awaited.
    gc.collect()


def in_another_process(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )


def test_a_forked_child_has_a_loop_of_its_own_also_when_forked_in_mid_call() -> None:
    done = in_another_process(
        """
        import asyncio, os, threading
        from snapkit import loop

        async def pid():
            return os.getpid()

        assert loop.call(pid()) == os.getpid()
        with loop._lock:
            child = os.fork()
            if not child:
                assert loop.call(pid(), timeout=10) == os.getpid()
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert loop.call(pid()) == os.getpid()
        """
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_process_ends_with_work_still_going_on_and_says_nothing() -> None:
    done = in_another_process(
        """
        import asyncio
        from snapkit import loop

        loop.submit(asyncio.sleep(3600))
        """
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_no_thread_is_started_before_there_is_work() -> None:
    done = in_another_process(
        """
        import threading
        import snapkit, snapkit.loop

        assert threading.active_count() == 1
        """
    )

    assert (done.returncode, done.stderr) == (0, "")
