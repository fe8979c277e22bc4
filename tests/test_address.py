from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapkit.address import LibvirtAddress, TcpAddress, UnixAddress, parse
from snapkit.errors import ConnectError


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("unix:/run/vm.qmp", "/run/vm.qmp"),
        ("unix:///run/vm.qmp", "/run/vm.qmp"),
        ("/run/vm.qmp", "/run/vm.qmp"),
        ("  /run/vm.qmp\n", "/run/vm.qmp"),
        ("unix:/run/vm.qmp,server=on,wait=off", "/run/vm.qmp"),
        ("/run/vm.qmp,server,nowait", "/run/vm.qmp"),
        ("/run/my vm, really.qmp", "/run/my vm, really.qmp"),
        ("/run/a:1", "/run/a:1"),
        ("/run/a://b", "/run/a:/b"),
        ("/run/../run/vm.qmp", "/run/vm.qmp"),
        ("/run/m\u00fcnchen\u202e.qmp", "/run/m\u00fcnchen\u202e.qmp"),
    ],
)
def test_a_unix_socket_is_written_as_unix_colon_path_or_as_a_path(text: str, path: str) -> None:
    assert parse(text) == UnixAddress(path)
    assert str(parse(text)) == f"unix:{path}"


def test_a_relative_path_and_a_home_are_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))

    assert parse("vm.qmp") == UnixAddress(f"{tmp_path}/vm.qmp")
    assert parse("unix:vm.qmp") == UnixAddress(f"{tmp_path}/vm.qmp")
    assert parse("~/vm.qmp") == UnixAddress(f"{tmp_path}/vm.qmp")


def test_a_path_object_is_a_path_whatever_it_looks_like(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert parse(Path("localhost:4444")) == UnixAddress(f"{tmp_path}/localhost:4444")
    assert parse(Path("/run/vm.qmp ")) == UnixAddress("/run/vm.qmp ")


def test_a_file_whose_name_ends_like_an_option_is_that_file(tmp_path: Path) -> None:
    path = tmp_path / "vm,server=on"
    path.touch()

    assert parse(f"unix:{path}") == UnixAddress(str(path))


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("tcp:localhost:4444", "localhost", 4444),
        ("localhost:4444", "localhost", 4444),
        ("tcp://localhost:4444", "localhost", 4444),
        ("tcp:localhost:4444,server", "localhost", 4444),
        ("localhost:4444,server=on,wait=off", "localhost", 4444),
        ("tcp:localhost:4444,ipv4=on", "localhost", 4444),
        ("tcp::4444", "localhost", 4444),
        ("192.0.2.7:1", "192.0.2.7", 1),
        ("[::1]:65535", "::1", 65535),
        ("tcp:[fe80::1%eth0]:4444", "fe80::1%eth0", 4444),
        ("vm-host.example:4444", "vm-host.example", 4444),
    ],
)
def test_a_tcp_port_is_written_as_tcp_host_port_or_host_port(
    text: str, host: str, port: int
) -> None:
    assert parse(text) == TcpAddress(host, port)
    assert parse(str(parse(text))) == TcpAddress(host, port)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("192.0.2.7", False),
        ("vm-host.example", False),
    ],
)
def test_what_only_this_host_can_reach_is_known(host: str, loopback: bool) -> None:
    assert TcpAddress(host, 4444).loopback is loopback


@pytest.mark.parametrize(
    "uri", ["qemu:///system", "qemu+ssh://root@vm-host.example/system", "test:///default"]
)
def test_a_libvirt_uri_is_left_as_it_is(uri: str) -> None:
    assert parse(uri) == LibvirtAddress(uri)
    assert str(parse(uri)) == uri


@pytest.mark.parametrize(
    "text",
    [
        *("", "   ", "unix:", "tcp:", "tcp:localhost", "localhost:", "localhost:http"),
        *("localhost:0", "localhost:65536", "localhost:-1", "localhost:4444444444444444444444"),
        *("localhost:\u0664\u0664\u0664\u0664", "::1:4444", "a b:1", "tcp:/run/vm.qmp"),
        *("/run/vm\0.qmp", "unix:/run/vm\0"),
    ],
)
def test_what_is_no_endpoint_is_refused_with_how_one_is_written(text: str) -> None:
    with pytest.raises(ConnectError, match='Write "unix:/path/to/socket"') as caught:
        parse(text)

    assert str(caught.value).isprintable()


@pytest.mark.parametrize("thing", [None, 4444, b"/run/vm.qmp", ("localhost", 4444)])
def test_what_is_no_text_is_refused(thing: object) -> None:
    with pytest.raises(ConnectError, match="An endpoint is text, not"):
        parse(thing)  # type: ignore[arg-type]


@given(st.text())
def test_any_text_is_an_endpoint_or_a_short_clear_error(text: str) -> None:
    said = ""
    try:
        address = parse(text)
    except ConnectError as err:
        said = str(err)
    else:
        assert parse(str(address)) == address

    assert said == "" or said.isprintable()
    assert len(said) < 500


@given(st.text(alphabet=st.characters(exclude_characters="\0"), min_size=1))
def test_any_path_object_is_a_path(name: str) -> None:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return

    assert isinstance(parse(Path("/run", name)), UnixAddress)
