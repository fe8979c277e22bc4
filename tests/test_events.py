from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pandas as pd
import pytest

import snapkit
from snapkit.backends.event_log import EventLog
from tests.conftest import Process, wait_until

STAMP = {"seconds": 1709251199, "microseconds": 999999}


@contextmanager
def reported(vm: snapkit.VirtualMachine, *names: str) -> Iterator[None]:
    """Waits until events of these names are there."""
    yield
    wait_until(lambda: set(names) <= set(vm.events()["event"]), f"the events {names}")


def test_what_the_vm_reports_has_its_row_with_time_name_and_data(
    seed_qemu: Process, seed_vm: snapkit.VirtualMachine
) -> None:
    assert len(seed_vm.events()) == 0
    before = datetime.now(UTC)
    with reported(seed_vm, "RESUME", "STOP"):
        seed_qemu.ask("cont")
        seed_qemu.ask("stop")
    with reported(seed_vm, "RESET"):
        seed_qemu.ask("system_reset")

    events = seed_vm.events()

    assert list(events["event"])[:2] == ["RESUME", "STOP"]
    assert events["time"].is_monotonic_increasing
    assert (events["time"] >= before - timedelta(seconds=1)).all()
    assert (events["time"] <= datetime.now(UTC) + timedelta(seconds=1)).all()
    reset = events[events["event"] == "RESET"].iloc[0]
    assert reset["data"]["guest"] is False


def test_the_device_of_an_event_is_named(
    seed_qemu: Process, seed_vm: snapkit.VirtualMachine
) -> None:
    with seed_qemu.qmp() as other, reported(seed_vm, "BLOCK_JOB_COMPLETED"):
        other.execute("block-stream", job_id="job0", device="drive1")

    events = seed_vm.events()

    assert set(events["device"].dropna()) == {"job0"}
    assert (events.loc[events["event"] == "BLOCK_JOB_COMPLETED", "device"] == "job0").all()


def test_events_of_a_run_are_seen(seed_qemu: Process, seed_vm: snapkit.VirtualMachine) -> None:
    with reported(seed_vm, "JOB_STATUS_CHANGE"):
        seed_vm.snapshot({"drive1": f"{seed_qemu.directory}/a.snap"})
    jobs = seed_vm.events().query("event == 'JOB_STATUS_CHANGE'")

    assert jobs["device"].str.startswith("create-").all()


def fill(log: EventLog, numbers: range, size: int = 1) -> None:
    for number in numbers:
        log.add({"event": "E", "data": {"number": number}, "timestamp": STAMP}, size)


def kept(log: EventLog) -> list[Any]:
    return [event.data["number"] for event in log.read()]


def test_the_newest_events_are_kept_by_number() -> None:
    log = EventLog(count=10)
    fill(log, range(100))

    assert kept(log) == list(range(90, 100))


def test_the_newest_events_are_kept_by_size() -> None:
    log = EventLog(size=100)
    fill(log, range(50), size=30)
    assert kept(log) == [47, 48, 49]

    fill(log, range(50, 51), size=1000)
    assert kept(log) == []

    fill(log, range(51, 53), size=50)
    assert kept(log) == [51, 52]


def test_the_time_of_an_event_is_exact() -> None:
    log = EventLog()
    fill(log, range(1))

    assert log.read()[0].time == datetime(2024, 2, 29, 23, 59, 59, 999999, tzinfo=UTC)


@pytest.mark.parametrize(
    "stamp",
    [None, {}, 5, "x", {"seconds": -1, "microseconds": -1}, {"seconds": 1e300, "microseconds": 0}],
)
def test_an_event_without_a_time_has_the_time_of_its_arrival(stamp: object) -> None:
    log = EventLog()
    before = datetime.now(UTC)
    log.add({"event": "E", "timestamp": stamp}, 1)

    assert before <= log.read()[0].time <= datetime.now(UTC)


def test_reading_events_while_they_arrive_is_safe(
    seed_qemu: Process, seed_vm: snapkit.VirtualMachine
) -> None:
    frames: list[pd.DataFrame] = []
    deadline = time.monotonic() + 0.3
    with seed_qemu.qmp() as other:
        while time.monotonic() < deadline:
            other.execute("cont")
            frames.append(seed_vm.events())
            other.execute("stop")
            frames.append(seed_vm.events())

    assert all(len(a) <= len(b) for a, b in pairwise(frames))
