"""Verbs, usage, exit statuses and signals."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import snapkit
from snapkit.cli.main import VERBS
from snapkit.errors import OutcomeUnknown
from tests.cli.conftest import ROOT, RunCommand, StartCommand
from tests.conftest import SECONDS, Process, wait_until


def test_without_a_verb_the_verbs_are_listed(run_snapkit: RunCommand) -> None:
    for words in ([], ["--help"], ["help"]):
        done = run_snapkit(*words)
        assert done.status == 0
        for verb in VERBS:
            assert f"  {verb} " in done.out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str, run_snapkit: RunCommand) -> None:
    for words in ([verb, "--help"], ["help", verb]):
        done = run_snapkit(*words)
        assert done.status == 0
        assert f"example:\n  snapkit {verb}" in done.out


def test_help_speaks_of_domains_where_there_can_be_one(run_snapkit: RunCommand) -> None:
    for verb in ("devices", "layers", "snapshot", "snapshots"):
        text = " ".join(run_snapkit(verb, "--help").out.split())
        assert "a libvirt URI, such as qemu:///system" in text
        assert "DOMAIN" in text
        assert f"snapkit {verb} qemu:///" in text
    assert "libvirt domains" in run_snapkit("discover", "--help").out


def test_the_version_is_shown(run_snapkit: RunCommand) -> None:
    assert run_snapkit("--version").out == f"snapkit {snapkit.__version__}\n"


def test_an_unknown_verb_gets_the_one_that_was_meant(run_snapkit: RunCommand) -> None:
    done = run_snapkit("snapshto")
    assert (done.status, done.out) == (2, "")
    assert "Did you mean 'snapshot'?" in done.err
    assert "lists the verbs" in run_snapkit("xyzzy").err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("devices", "ENDPOINT"),
        ("devices unix:/a --jsn", "--jsn"),
        ("devices unix:/a --json --csv", "not allowed"),
        ("devices unix:/a --timeout 0", "invalid"),
        ("devices unix:/a domain", "only a libvirt URI"),
        ("lab --csv", "--csv"),
        ("lab --monitor serial", "serial"),
        ("snapshot unix:/a", "DEVICE=FILE"),
        ("snapshot unix:/a drive0", "drive0=FILE"),
        ("snapshot unix:/a drive0=/b drive1", "drive1=FILE"),
        ("snapshot qemu:///system win2003 drive1", "drive1=FILE"),
        ("snapshot unix:/a drive0=/b --all", "DEVICE=FILE"),
        ("snapshot unix:/a --all --devices drive0", "not allowed"),
        ("snapshot unix:/a drive0=/b --tag x", "--template and --tag"),
        ("snapshot unix:/a drive0=/b --engine warp", "warp"),
        ("snapshot unix:/a drive0=/b --show html", "html"),
        ("snapshot unix:/a drive0=/b --metadata perhaps", "perhaps"),
        ("demo --backend xen", "xen"),
        ("journal unix:/a", "unrecognized"),
        ("journal --limit 0", "invalid"),
        ("journal --limit x", "invalid"),
        ("recover --timeout 0", "invalid"),
        ("recover unix:/a", "unrecognized"),
    ],
)
def test_what_cannot_be_understood_is_a_matter_of_usage(
    words: str, said: str, run_snapkit: RunCommand
) -> None:
    done = run_snapkit(*words.split())
    assert (done.status, done.out) == (2, "")
    assert said in done.err


def test_a_connection_that_fails_is_one_sentence_and_status_1(run_snapkit: RunCommand) -> None:
    done = run_snapkit("devices", "/nowhere/vm.qmp", "--json")
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith("snapkit: There is no socket /nowhere/vm.qmp")


def test_what_an_error_quotes_cannot_control_the_terminal(run_snapkit: RunCommand) -> None:
    done = run_snapkit("devices", "/nowhere/\x1b[2J")
    assert "\x1b" not in done.err
    assert r"\x1b[2J" in done.err


def test_an_unknown_outcome_is_status_3(
    run_snapkit: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(*_: object, **__: object) -> None:
        raise OutcomeUnknown("Nobody could look.")

    monkeypatch.setattr("snapkit.vm.connect", lose)
    done = run_snapkit("devices", "unix:/a")
    assert (done.status, done.err) == (3, "snapkit: Nobody could look.\n")


def test_an_unexpected_error_is_a_sentence_and_its_traceback_can_be_had(
    run_snapkit: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("snapkit.vm.connect", fail)
    done = run_snapkit("devices", "unix:/a")
    assert done.status == 1
    assert "Traceback" not in done.err
    assert "ZeroDivisionError: by zero" in done.err
    assert "SNAPKIT_DEBUG=1" in done.err
    monkeypatch.setenv("SNAPKIT_DEBUG", "1")
    assert "Traceback" in run_snapkit("devices", "unix:/a").err


def test_a_package_that_is_missing_is_named(
    run_snapkit: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.delitem(sys.modules, "snapkit.discovery", raising=False)
    done = run_snapkit("discover")
    assert done.status == 1
    assert "'pandas' is not installed" in done.err
    assert "snapkit doctor" in done.err


def test_help_and_usage_load_neither_pandas_nor_ipywidgets() -> None:
    code = (
        "import sys; from snapkit.cli import main; main(['--help']); main(['snapshot', '-h']);"
        "sys.exit(bool({'pandas', 'ipywidgets', 'qemu.qmp'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_the_tables_of_a_vm_are_shown_in_every_form(
    seed_qemu: Process, run_snapkit: RunCommand
) -> None:
    text = run_snapkit("devices", seed_qemu.uri)
    assert text.status == 0
    assert text.err == ""
    header, first, second = text.out.splitlines()
    assert header.split()[:4] == ["device", "node", "format", "file"]
    assert "rd_bytes" not in header
    assert "64 MiB" in first
    assert second.startswith("drive1")
    assert "rd_bytes" in run_snapkit("devices", seed_qemu.uri, "--wide").out
    rows = run_snapkit("devices", seed_qemu.uri, "--json").json
    assert [(row["device"], row["virtual_size"]) for row in rows] == [
        ("drive0", 67108864),
        ("drive1", 67108864),
    ]
    assert run_snapkit("layers", seed_qemu.uri, "--csv").out.startswith("device,layer,node,")
    layers = run_snapkit("layers", seed_qemu.uri, "--json").json
    assert [(row["device"], row["layer"]) for row in layers] == [("drive0", 0), ("drive1", 0)]


def test_a_discovered_monitor_is_listed(seed_qemu: Process, run_snapkit: RunCommand) -> None:
    done = run_snapkit("discover", "--json")
    found = {row["uri"]: row for row in done.json}
    assert found[seed_qemu.uri]["state"] == "free"
    assert found[seed_qemu.uri]["pid"] == seed_qemu.pid
    assert seed_qemu.uri in run_snapkit("discover").out


def test_without_any_monitor_or_domain_people_are_told_how_to_get_one(
    run_snapkit: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snapkit.backends.host.monitors", list)
    monkeypatch.setattr("snapkit.backends.libvirt_hosts.listening", list)
    done = run_snapkit("discover")
    assert (done.status, done.out) == (0, "")
    assert "-qmp unix:" in done.err
    assert "virsh start" in done.err
    assert run_snapkit("discover", "--json").json == []


def test_a_reader_that_goes_away_is_no_error(
    seed_qemu: Process, start_snapkit: StartCommand
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = start_snapkit("devices", seed_qemu.uri, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    _, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, err) == (0, "")


def test_output_that_cannot_be_written_is_said_and_what_was_done_stays_done(
    seed_qemu: Process, start_snapkit: StartCommand
) -> None:
    with open("/dev/full", "wb") as full:
        process = start_snapkit(
            *("devices", seed_qemu.uri), stdout=full.fileno(), stderr=subprocess.PIPE
        )
    _, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, err.count("could not be written")) == (0, 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_connecting_ends_it_with_the_signals_status(
    number: signal.Signals, directory: Path, start_snapkit: StartCommand
) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(directory / "vm.qmp"))
        silent.listen()
        silent.settimeout(SECONDS)
        process = start_snapkit(
            *("devices", directory / "vm.qmp", "--timeout", 60), stderr=subprocess.PIPE
        )
        connection, _ = silent.accept()
        with connection:
            process.send_signal(number)
            _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 128 + number
    assert "Traceback" not in err
    assert err.startswith("snapkit: ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_lab_tells_its_address_and_leaves_nothing_when_it_is_ended(
    number: signal.Signals, start_snapkit: StartCommand
) -> None:
    process = start_snapkit("lab", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    lab = json.loads(process.stdout.readline())
    handle = os.pidfd_open(lab["pid"])
    with snapkit.connect(lab["uri"]) as vm, snapkit.connect(lab["spare_uri"]) as spare:
        assert list(vm.devices().query("snapshotable").index) == ["drive0", "drive1"]
        assert spare.connected
    process.send_signal(number)
    _, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, "Traceback" in err) == (0, False)
    wait_until(lambda: not os.path.exists(lab["directory"]), "the lab's directory is gone")
    os.close(handle)
    assert not os.path.exists(f"/proc/{lab['pid']}")


def test_a_lab_can_be_a_libvirt_domain(start_snapkit: StartCommand) -> None:
    process = start_snapkit(
        *("lab", "--backend", "libvirt"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    known: dict[str, str] = {}
    while "virsh:" not in known:
        name, _, value = process.stdout.readline().partition(" ")
        known[name] = value.strip()
    assert known["domain"] == "win2003"
    assert "spare_uri" not in known
    assert known["Shell:"] == f"snapkit devices '{known['uri']}' win2003"
    assert known["Python:"].endswith(f"snapkit.connect('{known['uri']}', 'win2003')")
    virsh = shlex.split(known["virsh:"])
    listed = subprocess.run(virsh, capture_output=True, text=True, check=True)
    assert known["vda"] in listed.stdout
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, "Traceback" in err) == (0, False)
    wait_until(lambda: not os.path.exists(known["directory"]), "the lab's directory is gone")
    assert not os.path.exists(f"/proc/{known['pid']}")


def test_a_lab_whose_qemu_ends_is_removed_and_says_so(start_snapkit: StartCommand) -> None:
    process = start_snapkit(
        *("lab", "--disks", 1, "--monitor", "tcp"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    known: dict[str, str] = {}
    while "Shell:" not in known:
        name, _, value = process.stdout.readline().partition(" ")
        known[name] = value.strip()
    assert known["uri"].startswith("tcp:localhost:")
    assert known["Shell:"] == f"snapkit devices {known['uri']}"
    assert f"snapkit.connect('{known['uri']}')" in known["Python:"]
    os.kill(int(known["pid"]), signal.SIGKILL)
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert "ended by itself" in err
    wait_until(lambda: not os.path.exists(known["directory"]), "the lab's directory is gone")
