"""Real monitors that stop or are cut off, and the errors of the layers below."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import qemu.qmp

import snapkit
from snapkit.backends.base import Refused
from snapkit.loop import call
from tests.conftest import Process
from tests.hostile import ESCAPES, SPARE, TIMEOUT, clear_error
from tests.recorder import Recorder


def connect(uri: str, timeout: float = TIMEOUT) -> snapkit.VirtualMachine:
    return snapkit.connect(uri, timeout=timeout, local=True)


def test_a_qemu_that_is_stopped_is_given_up_in_time_and_used_again_later(
    seed_qemu: Process,
) -> None:
    with snapkit.connect(seed_qemu.uri) as vm:
        backend: Any = vm._backend
        backend.read_seconds = 0.3
        seed_qemu.process.send_signal(signal.SIGSTOP)
        try:
            with clear_error(seconds=0.3) as text:
                vm.devices()
            assert "did not answer" in text()
        finally:
            seed_qemu.process.send_signal(signal.SIGCONT)
        backend.read_seconds = 20
        assert list(vm.devices().index) == ["drive0", "drive1"]


def test_connecting_to_a_qemu_that_is_stopped_fails_in_time(seed_qemu: Process) -> None:
    seed_qemu.process.send_signal(signal.SIGSTOP)
    try:
        with clear_error() as text:
            connect(seed_qemu.uri)
        assert "sent no QMP greeting" in text()
        assert "stopped" in text()
    finally:
        seed_qemu.process.send_signal(signal.SIGCONT)
    snapkit.connect(seed_qemu.uri).close()


def test_closing_does_not_wait_for_a_qemu_that_is_stopped(seed_qemu: Process) -> None:
    vm = snapkit.connect(seed_qemu.uri)
    seed_qemu.process.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        vm.close()
        assert time.monotonic() - began < SPARE
    finally:
        seed_qemu.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("where", ["cut_before", "cut_after"])
@pytest.mark.parametrize("command", ["query-commands", "query-jobs", "query-block-exports"])
def test_a_link_that_is_cut_at_a_command_is_an_error(
    seed_qemu: Process, recorder: Callable[..., Recorder], where: str, command: str
) -> None:
    proxy = recorder(seed_qemu.uri)
    setattr(proxy, where, command)

    with clear_error():
        connect(proxy.uri, timeout=5)


def test_a_link_that_is_cut_between_two_looks_is_noticed(
    seed_qemu: Process, recorder: Callable[..., Recorder]
) -> None:
    proxy = recorder(seed_qemu.uri)
    with snapkit.connect(proxy.uri) as vm:
        proxy.cut_before = "query-block"
        with clear_error() as text:
            vm.devices()
        assert "was lost" in text()
        assert not vm.connected


def test_what_qmp_cannot_carry_is_refused_and_the_link_lives_on(seed_vm: Any) -> None:
    backend = seed_vm._backend
    for value in ("\udce9", float("nan"), object(), {1, 2}):
        with pytest.raises(Refused, match="was not sent"):
            call(backend.execute("query-name", {"x": value}))
    assert seed_vm.connected
    assert len(seed_vm.devices()) == 2


def every(kind: type[BaseException]) -> Iterator[type[BaseException]]:
    yield kind
    for below in kind.__subclasses__():
        yield from every(below)


def made(kind: type[BaseException]) -> BaseException:
    """An exception of that class, whatever its own constructor wants to be told."""
    error = kind.__new__(kind)
    for name in ("error_message", "raw", "value", "exc", "error", "error_class"):
        with suppress(AttributeError):
            setattr(error, name, ESCAPES.decode() * 1000)
    return error


LOWER = [
    # What the server itself calls an error is passed on: see above.
    *(kind for kind in every(qemu.qmp.QMPError) if kind is not qemu.qmp.ExecuteError),
    *(kind for kind in every(OSError) if kind.__module__ in {"builtins", "socket"}),
    EOFError,
]


@pytest.mark.parametrize("kind", LOWER, ids=lambda kind: kind.__name__)
def test_every_error_of_the_layers_below_is_one_of_snapkits(
    seed_vm: Any, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    async def fail(*_: object) -> None:
        raise made(kind)

    with monkeypatch.context() as patch:
        patch.setattr(seed_vm._backend._client, "execute", fail)
        with clear_error():
            call(seed_vm._backend.execute("query-status"))
        with clear_error():
            seed_vm.devices()
    assert len(seed_vm.devices()) == 2
