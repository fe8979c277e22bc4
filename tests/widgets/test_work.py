"""Work that was begun: it can be waited for, and its failures reach somebody."""

from __future__ import annotations

import asyncio

import pytest

from snapkit.widgets.work import Work


def unexpected(error: BaseException) -> None:
    raise error


async def _fail() -> None:
    raise ValueError("broken")


def test_wait_returns_when_everything_has_ended() -> None:
    work, done = Work(), []

    async def inner() -> None:
        done.append("inner")

    async def outer() -> None:
        work.start(inner(), unexpected)
        done.append("outer")

    work.start(outer(), unexpected)
    work.wait(10)

    assert sorted(done) == ["inner", "outer"]


def test_wait_gives_up_after_its_time() -> None:
    work, release = Work(), asyncio.Event()

    async def hang() -> None:
        await release.wait()

    work.start(hang(), unexpected)
    with pytest.raises(TimeoutError, match="still at work"):
        work.wait(0.01)

    async def let_go() -> None:
        release.set()

    work.start(let_go(), unexpected)
    work.wait(10)


def test_a_failure_is_reported_before_wait_returns() -> None:
    work, reported = Work(), list[BaseException]()

    work.start(_fail(), reported.append)
    work.wait(10)

    assert [str(error) for error in reported] == ["broken"]


def test_what_a_report_raises_is_raised_by_wait() -> None:
    work = Work()

    def report(error: BaseException) -> None:
        raise error

    work.start(_fail(), report)

    with pytest.raises(ValueError, match="broken"):
        work.wait(10)
    work.wait(10)
