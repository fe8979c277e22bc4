"""Whatever is at the other end: a clear short error in time, and a process that lives on."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import snapkit
from tests.conftest import StartQemu
from tests.hostile import (
    ANSWERS,
    COMMANDS,
    ESCAPES,
    GREETING,
    TIMEOUT,
    Behaviour,
    Monitor,
    Server,
    clear_error,
    line,
    says,
)

MEGABYTES_20 = 20 * 1000 * 1000


@pytest.fixture
def serve(directory: Path) -> Iterator[Callable[[Behaviour], Server]]:
    started: list[Server] = []

    def start(behaviour: Behaviour) -> Server:
        started.append(Server(directory, behaviour))
        return started[-1]

    yield start
    for server in started:
        server.close()


Serve = Callable[[Behaviour], Server]


def connect(uri: str, timeout: float = TIMEOUT) -> snapkit.VirtualMachine:
    return snapkit.connect(uri, timeout=timeout, local=True)


def test_a_well_behaved_monitor_of_these_tests_is_accepted(serve: Serve) -> None:
    with connect(serve(Monitor()).uri) as vm:
        assert (vm.version, vm.name) == ("7.2.22", "vm")
        assert len(vm.devices()) == 0


@pytest.mark.parametrize(
    ("banner", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "SSH-2.0"),
        (b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n<html>", "HTTP/1.1 400"),
        (b"QEMU 7.2.22 monitor - type 'help' for more information\r\n(qemu) ", "human monitor"),
        (b"\x00\x01\x02\xff\xfe\n", "does not speak QMP"),
        (b"\xff\xfe\xfd {}\n", "does not speak QMP"),
        (ESCAPES + b" welcome\n", "does not speak QMP"),
        (b"\n", "does not speak QMP"),
        (b"[]\n", "does not speak QMP"),
        (b"42\n", "does not speak QMP"),
        (b"{}\n", "does not speak QMP"),
        (b'{"QMP": {}}\n', "does not speak QMP"),
        (b'{"QMP": {"version": {}}}\n', "does not speak QMP"),
        (b'{"QMP": {"capabilities": []}}\n', "does not speak QMP"),
        (b'{"QMP": 5}\n', "does not speak QMP"),
        (b'{"QMP": {"version": 1, "capabilities": 2}}\n', "does not speak QMP"),
        (b'{"event": "STOP", "timestamp": {}}\n', "does not speak QMP"),
        (b"[" * 100_000 + b"\n", "does not speak QMP"),
        (b'{"a":' * 100_000 + b"\n", "does not speak QMP"),
        (b'{"QMP": ' + b"[" * 900 + b"]" * 900 + b"}\n", "does not speak QMP"),
    ],
)
@pytest.mark.parametrize("then_silent", [True, False])
def test_a_server_that_is_no_qmp_server_is_named_as_such(
    serve: Serve, banner: bytes, words: str, then_silent: bool
) -> None:
    server = serve(says(banner, then_silent=then_silent))

    with clear_error() as text:
        connect(server.uri)
    assert words in text()


def test_a_server_that_never_speaks_is_given_up_in_time(serve: Serve) -> None:
    server = serve(says(b"", then_silent=True))

    with clear_error() as text:
        connect(server.uri)
    assert "sent no QMP greeting within 0.5 s" in text()


def test_the_human_monitor_of_a_real_qemu_is_named(start_qemu: StartQemu, directory: Path) -> None:
    path = f"{directory}/hmp.sock"
    start_qemu("-monitor", f"unix:{path},server=on,wait=off")

    with clear_error() as text:
        connect(f"unix:{path}")
    assert "human monitor" in text()


def peak() -> int:
    """The most memory that this process ever had, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


@pytest.mark.parametrize("then_silent", [True, False])
@pytest.mark.parametrize("when", ["greeting", "answer"])
def test_twenty_megabytes_without_a_newline_end_in_a_short_error(
    serve: Serve, when: str, then_silent: bool
) -> None:
    data = (ESCAPES + b"x" * 100) * (MEGABYTES_20 // (len(ESCAPES) + 100))
    if when == "greeting":
        server = serve(says(data, then_silent=then_silent))
    else:
        hang_up = "" if then_silent else "query-commands"
        server = serve(Monitor(raw={"query-commands": data}, hang_up_after=hang_up))
    before = peak()

    with clear_error(seconds=2):
        connect(server.uri, timeout=2)
    assert peak() - before < 300_000_000


def test_a_line_without_end_is_cut_off(serve: Serve) -> None:
    def flood(connection: socket.socket) -> None:
        while True:
            connection.sendall(b"x" * 1_000_000)

    server = serve(flood)
    before = peak()

    with clear_error(seconds=20):
        connect(server.uri, timeout=20)
    assert peak() - before < 600_000_000


def test_half_a_greeting_at_any_byte_is_an_error(serve: Serve) -> None:
    whole = line(GREETING)
    for length in range(0, len(whole) - 2, 5):
        server = serve(says(whole[:length]))
        with clear_error():
            connect(server.uri)


def test_half_a_greeting_and_then_silence_is_given_up_in_time(serve: Serve) -> None:
    server = serve(says(line(GREETING)[:40], then_silent=True))

    with clear_error():
        connect(server.uri)


@pytest.mark.parametrize("garbage", [b"what?\n", b"\xff\n", b"[]\n", b"[" * 10_000 + b"\n"])
def test_a_greeting_and_then_garbage_is_an_error(serve: Serve, garbage: bytes) -> None:
    for then_silent in (True, False):
        server = serve(says(line(GREETING) + garbage, then_silent=then_silent))
        with clear_error():
            connect(server.uri)


@pytest.mark.parametrize(
    "command", ["qmp_capabilities", "query-commands", "query-version", *COMMANDS]
)
def test_a_server_that_hangs_up_at_any_command_is_an_error(serve: Serve, command: str) -> None:
    server = serve(Monitor(hang_up_at=command))

    with clear_error():
        connect(server.uri)


@pytest.mark.parametrize(
    "command", ["qmp_capabilities", "query-commands", "query-version", *COMMANDS]
)
def test_a_server_that_falls_silent_at_any_command_is_given_up_in_time(
    serve: Serve, command: str
) -> None:
    server = serve(Monitor(raw={command: None}))

    with clear_error():
        connect(server.uri, timeout=0.2)


ODD_REPLIES = [
    b"\xff\xff\n",
    b"garbage\n",
    b"[]\n",
    b'{"return": {}}\n',
    b'{"return": {}, "id": "another"}\n',
    b'{"id": 5}\n',
    b'{"error": "no object"}\n',
    b'{"error": {"class": "GenericError", "desc": "\\u001b[31mno\\n"}}\n',
    b'{"event": 5}\n',
    b'{"event": "X", "data": 7, "timestamp": "never"}\n',
    b'{"return": ' + b"[" * 5000 + b"]" * 5000 + b"}\n",
]


@pytest.mark.parametrize("reply", ODD_REPLIES)
@pytest.mark.parametrize("command", ["qmp_capabilities", "query-commands", "query-block"])
def test_a_reply_that_is_none_is_an_error(serve: Serve, command: str, reply: bytes) -> None:
    if command == "qmp_capabilities" and reply.startswith(b'{"return": {}'):
        # There the reply has no id: this is the one that is right.
        reply = b'{"return": {}, "error": {}}\n'
    server = serve(Monitor(raw={command: reply}))

    with clear_error():
        connect(server.uri, timeout=0.2)


ODD_ANSWERS: list[Any] = ["text", 5, None, True, 1e400, {}, [5], [None], [{}], ["x"] * 3]


@pytest.mark.parametrize("command", [c for c in ANSWERS if c != "qmp_capabilities"])
def test_an_answer_of_another_type_is_an_error_or_an_empty_table(
    serve: Serve, command: str
) -> None:
    for answer in ODD_ANSWERS:
        server = serve(Monitor({command: answer}))
        if command == "query-name" and answer == {}:
            # A VM without a name says just that.
            connect(server.uri).close()
            continue
        with clear_error() as text:
            connect(server.uri)
        assert server.uri in text()


def test_an_answer_that_changes_its_type_later_is_an_error_too(serve: Serve) -> None:
    monitor = Monitor()
    with connect(serve(monitor).uri) as vm:
        odd: tuple[Any, ...] = ("text", {"nodes": 1}, {"nodes": [{}], "edges": []})
        for answer in odd:
            monitor.answers["x-debug-query-block-graph"] = answer
            for look in (vm.devices, vm.layers, vm.stats):
                with clear_error() as text:
                    look()
                assert "no QMP" in text()
        monitor.answers["x-debug-query-block-graph"] = ANSWERS["x-debug-query-block-graph"]
        assert len(vm.devices()) == 0


def test_an_error_of_any_length_is_passed_on_in_short_and_printable(serve: Serve) -> None:
    desc = ESCAPES.decode() + "x" * 1_000_000 + "\n"
    error = {"error": {"class": "GenericError", "desc": desc}}

    class Complains(Monitor):
        def _answer(self, connection: socket.socket, message: dict[str, Any]) -> None:
            if message["execute"] != "query-block":
                super()._answer(connection, message)
                return
            connection.sendall(line(error | {"id": message["id"]}))

    server = serve(Complains())
    with pytest.raises(snapkit.ConnectError) as caught:
        connect(server.uri)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1500


def test_names_with_terminal_escapes_are_no_danger_in_messages(directory: Path) -> None:
    with clear_error() as text:
        snapkit.connect(f"unix:{directory}/\x1b[31mred\n.sock")
    assert r"\x1b[31mred\n" in text()


def test_a_hail_of_events_is_kept_within_bounds(serve: Serve) -> None:
    event = {"event": "HAIL", "timestamp": {"seconds": 1, "microseconds": 0}, "data": {}}
    hail = line(event) * 30_000 + line(event | {"data": {"x": "x" * 30_000_000}})
    server = serve(Monitor(raw={"query-name": hail + line(event) * 3}))

    before = peak()
    # The reply to query-name never comes.
    with clear_error(seconds=2):
        connect(server.uri, timeout=2)
    assert peak() - before < 300_000_000


def test_events_of_odd_shapes_are_kept_and_harm_nothing(serve: Serve) -> None:
    odd = b"".join(
        line({"event": "ODD"} | rest)
        for rest in (
            {},
            {"timestamp": None},
            {"timestamp": {"seconds": "x"}},
            {"timestamp": {"seconds": 1e300, "microseconds": 1}},
            {"timestamp": {"seconds": -1, "microseconds": -1}},
            {"timestamp": {"seconds": 2**62, "microseconds": 2**62}, "data": [1]},
            {"data": {"device": {"no": "text"}}},
        )
    )
    with connect(serve(Monitor(pads=odd)).uri) as vm:
        events = vm.events()
    assert len(events) >= 7
    assert set(events["event"]) == {"ODD"}
    assert events["time"].notna().all()


def test_other_threads_go_on_while_a_server_keeps_one_waiting(serve: Serve) -> None:
    silent, good = serve(says(b"", then_silent=True)), serve(Monitor())
    failed: list[str] = []

    def wait() -> None:
        try:
            connect(silent.uri, timeout=1)
        except snapkit.ConnectError as err:
            failed.append(str(err))

    thread = threading.Thread(target=wait)
    thread.start()
    for _ in range(5):
        connect(good.uri).close()
    assert failed == []
    thread.join()
    assert len(failed) == 1
