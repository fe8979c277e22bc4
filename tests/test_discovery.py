"""``snapkit.discover()``: the table of what there is to connect to."""

from __future__ import annotations

import pandas as pd
import pytest

import snapkit
from snapkit.backends import host, libvirt_hosts
from tests.conftest import Process, StartQemu

COLUMNS = ["uri", "domain", "name", "state", "backend", "pid", "program", "user"]


def test_a_monitor_is_a_row_that_connect_understands(seed_qemu: Process) -> None:
    found = snapkit.discover()
    assert list(found.columns) == COLUMNS
    row = found[found["uri"] == seed_qemu.uri].iloc[0]
    assert row["domain"] is None
    assert (row["state"], row["backend"], row["pid"]) == ("free", "qmp", seed_qemu.pid)
    assert row["program"] == "qemu-system-x86_64"
    with snapkit.connect(row["uri"], row["domain"]) as vm:
        assert list(vm.devices().index) == ["drive0", "drive1"]
        after = snapkit.discover().set_index("uri")
        assert after.loc[seed_qemu.uri, "state"] == "in use"


def test_a_storage_daemon_is_a_row_too(start_daemon: StartQemu) -> None:
    daemon = start_daemon()
    found = snapkit.discover().set_index("uri")
    assert found.loc[daemon.uri, "program"] == "qemu-storage-daemon"


def test_a_table_without_rows_has_the_same_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "monitors", list)
    monkeypatch.setattr(libvirt_hosts, "sockets", list)
    found = snapkit.discover()
    assert found.empty
    assert list(found.columns) == COLUMNS
    assert isinstance(found.index, pd.RangeIndex)
