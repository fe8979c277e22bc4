"""What a machine reports, as a table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import snapkit
from tests.conformance.machines import Machine
from tests.conftest import wait_until


def test_what_the_machine_reports_has_its_row_with_time_name_and_data(
    machine: Machine, vm: snapkit.VirtualMachine
) -> None:
    assert vm.events().empty
    before = datetime.now(UTC)
    machine.report()
    wait_until(lambda: machine.events <= set(vm.events()["event"]), "the events are told")
    events = vm.events()
    assert list(events.columns) == ["time", "event", "device", "data"]
    assert events["time"].is_monotonic_increasing
    assert (events["time"] >= before - timedelta(seconds=1)).all()
    assert (events["time"] <= datetime.now(UTC) + timedelta(seconds=1)).all()
    assert {type(data) for data in events["data"]} == {dict}


def test_a_job_of_somebody_else_is_told_with_its_device(
    machine: Machine, vm: snapkit.VirtualMachine
) -> None:
    name = machine.names[0]
    machine.begin_job(name)
    machine.end_job(name)

    def devices() -> set[str]:
        events = vm.events()
        jobs = events[events["event"].str.startswith("BLOCK_JOB")]
        return set(jobs["device"].dropna())

    wait_until(lambda: any(name in device for device in devices()), "the job is told")


def test_events_are_of_one_connection_and_stay_when_it_is_closed(machine: Machine) -> None:
    with machine.connect() as vm:
        machine.report()
        wait_until(lambda: machine.events <= set(vm.events()["event"]), "the events are told")
    told = len(vm.events())
    assert told >= len(machine.events)
    with machine.connect() as again:
        assert again.events().empty
    assert len(vm.events()) == told
