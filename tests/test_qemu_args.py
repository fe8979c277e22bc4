"""Command lines of QEMU programs, read without running them."""

from __future__ import annotations

import pytest

from snapkit.backends.qemu_args import Endpoint, endpoints, guest_name, options, split_program


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("-qmp unix:/run/a.sock,server,nowait", Endpoint(path="/run/a.sock")),
        ("--qmp unix:/run/a.sock,server=on,wait=off", Endpoint(path="/run/a.sock")),
        ("-qmp-pretty unix:a.sock,server=on", Endpoint(path="a.sock")),
        ("-qmp unix:/run/a,,b.sock,server=on", Endpoint(path="/run/a,b.sock")),
        ("-qmp tcp:localhost:4444,server", Endpoint(host="localhost", port="4444")),
        ("-qmp tcp::4444,server=on,wait=off", Endpoint(port="4444")),
        (
            "-mon chardev=c,mode=control -chardev socket,id=c,path=/a.sock,server=on",
            Endpoint(path="/a.sock", chardev="c"),
        ),
        (
            "-chardev socket,id=c,host=::1,port=4444,to=4450,server=on -mon c,mode=control",
            Endpoint(host="::1", port="4444", last_port=4450, chardev="c"),
        ),
        (
            "-chardev socket,id=c,path=/a.sock,server -qmp chardev:c",
            Endpoint(path="/a.sock", chardev="c"),
        ),
        (
            "-chardev socket,id=c,fd=22,server=on,wait=off -mon chardev=c,id=m,mode=control",
            Endpoint(fd=22, chardev="c"),
        ),
    ],
)
def test_every_way_to_ask_qemu_for_a_qmp_monitor_is_understood(
    arguments: str, expected: Endpoint
) -> None:
    assert endpoints("qemu-system-x86_64", arguments.split()) == [expected]


@pytest.mark.parametrize(
    "arguments",
    [
        "-monitor unix:/a.sock,server,nowait",
        "-chardev socket,id=c,path=/a.sock,server=on -mon chardev=c,mode=readline",
        "-chardev socket,id=c,path=/a.sock,server=on -mon chardev=c",
        "-chardev socket,id=c,path=/a.sock,server=on -serial chardev:c",
        "-chardev socket,id=c,path=/a.sock -mon chardev=c,mode=control",
        "-qmp unix:/a.sock",
        "-qmp unix:/a.sock,server=off",
        "-qmp stdio",
        "-qmp telnet:localhost:4444,server",
        "-chardev socket,id=c,host=a,port=1,server=on,tls-creds=t -mon c,mode=control",
        "-chardev socket,id=c,path=a,abstract=on,server=on -mon c,mode=control",
        "-mon chardev=missing,mode=control",
        "-qmp",
    ],
)
def test_what_plain_qmp_cannot_reach_is_no_monitor(arguments: str) -> None:
    assert endpoints("qemu-system-x86_64", arguments.split()) == []


@pytest.mark.parametrize(
    "monitor", ["--monitor chardev=c", "--monitor=c", "--mon c", '--monitor {"chardev":"c"}']
)
def test_a_monitor_of_the_storage_daemon_is_always_qmp(monitor: str) -> None:
    words = ["--chardev", "socket,id=c,path=/a.sock,server=on", *monitor.split()]
    found = endpoints("qemu-storage-daemon", words)
    assert found == [Endpoint(path="/a.sock", chardev="c")]


def test_a_broken_monitor_argument_of_the_storage_daemon_is_passed_over() -> None:
    assert endpoints("qemu-storage-daemon", ["--monitor", "{"]) == []
    assert endpoints("qemu-storage-daemon", ["--monitor", "[1]"]) == []


@pytest.mark.parametrize(
    ("words", "program"),
    [
        ("/usr/bin/qemu-system-x86_64 -S", "qemu-system-x86_64"),
        ("qemu-system-aarch64", "qemu-system-aarch64"),
        ("/usr/libexec/qemu-kvm", "qemu-kvm"),
        ("kvm", "kvm"),
        ("qemu-storage-daemon", "qemu-storage-daemon"),
        (
            "/lib64/ld-linux-x86-64.so.2 --library-path /l /q/qemu-system-x86_64 -S",
            "qemu-system-x86_64",
        ),
        ("sudo qemu-system-x86_64", ""),
        ("vi qemu-system-x86_64", ""),
        ("qemu-img info", ""),
        ("", ""),
    ],
)
def test_a_qemu_program_is_known_by_its_name(words: str, program: str) -> None:
    assert split_program(words.split())[0] == program


def test_the_guests_name_is_read_in_both_its_forms() -> None:
    assert guest_name(["-name", "guest=win2003,debug-threads=on"]) == "win2003"
    assert guest_name(["-name", "a,,b,process=x"]) == "a,b"
    assert guest_name([]) == ""


def test_flags_and_their_negation_are_options_too() -> None:
    assert options("socket,server,nowait,path=/a=b", "backend") == {
        "backend": "socket",
        "server": "on",
        "wait": "off",
        "path": "/a=b",
    }
