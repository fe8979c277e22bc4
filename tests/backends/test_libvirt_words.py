"""What libvirt says, told as snapkit tells it: errors, snapshots, and the shell's form."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from snapkit.backends import libvirt_agreement, libvirt_errors, libvirt_script, libvirt_truth
from snapkit.backends.libvirt_xml import Moment
from snapkit.errors import SnapkitError
from snapkit.facts import Facts
from snapkit.model import Device, Graph, Layer, Node, Target
from snapkit.script import Overlay, Wishes

SUBJECT = libvirt_script.Subject("qemu+unix:///session?socket=/r/s", "win 2003", "1-2-3")


def device(name: str, *files: str, node: str = "libvirt-1-format") -> Device:
    layers = tuple(Layer(node, "qcow2", file, 1, 1, None, None) for file in files)
    return Device(name, qdev=f"alias-{name}", root=node, node=node, layers=layers)


def graph(*devices: Device) -> Graph:
    return Graph({device.name: device for device in devices}, {})


def script(*files: str, wishes: Wishes | None = None, **facts: Any) -> Any:
    disks = graph(device("vda", "/i/a"), device("vdb", "/i/b"))
    targets = [Target(name, file) for name, file in zip(("vda", "vdb"), files, strict=False)]
    known = Facts(disks, {}, **facts)
    return libvirt_script.write(targets, known, wishes or Wishes(), SUBJECT)


OVERLAY = Overlay("vda", "/i/o", "qcow2", True, 1, "n", "/i/a", "raw")


@pytest.mark.parametrize(
    ("said", "cure"),
    [
        ("Could not open '/d/x': Permission denied", "AppArmor"),
        ("Failed to connect socket to '/run/libvirt/virtlogd-sock': No such file", "virtlogd"),
        ("Could not access KVM kernel module: Permission denied", "/dev/kvm"),
        ("authentication unavailable: no polkit agent", "polkit"),
        ("failed to create image file '/n/x': No such file or directory", "create the directory"),
        ("domain moment snap1 already exists", "choose another name"),
        ("unsupported configuration: no disk named '/i/a'", "another image now"),
        ("Timed out: cannot acquire state change lock", "wait until"),
    ],
)
def test_what_is_known_to_help_is_said_with_libvirt_s_own_words(said: str, cure: str) -> None:
    told = libvirt_errors.explained(said)
    assert told.startswith(said)
    assert cure in told


@pytest.mark.parametrize(
    ("said", "cure"),
    [
        ("Failed to connect socket to '/r/libvirt-sock': Connection refused", "that listens there"),
        (
            "Failed to connect socket to '/run/libvirt/virtqemud-sock': No such file or directory",
            "systemctl start virtqemud.socket",
        ),
        (
            "Failed to connect socket to '/var/run/libvirt/libvirt-sock': Connection refused",
            "systemctl start libvirtd)",
        ),
        (
            "Failed to connect socket to '/run/libvirt/libvirt-sock': Permission denied",
            "join the group of that socket",
        ),
        ("Unable to get system bus connection: Could not connect: No such file", "start D-Bus"),
        ("authentication unavailable: no polkit agent available to authenticate", "polkit allow"),
        ("access denied by policy", "polkit allow"),
        ("authentication failed: Failed to verify peer's certificate", "virt-pki-validate"),
        ("The server certificate is not trusted. TLS handshake failed", "virt-pki-validate"),
        ("Failed to acquire pid file '/r/driver.pid': Resource temporarily", "end the other"),
        ("invalid argument: Failed to parse user 'libvirt-qemu'", "an ordinary user"),
        ("Failed to create state dir /r/run/qemu: Permission denied", "choose a root"),
        ("internal error: qemu state driver is not active", "anew"),
        ("Cannot create user runtime directory '/r/libvirt': Permission denied", "XDG_RUNTIME_DIR"),
        ("Unable to create lock '/r/libvirt/libvirtd.lock': Permission denied", "XDG_RUNTIME_DIR"),
        ("Cannot find 'libvirtd' in path: No such file or directory", "install libvirt-daemon"),
        ("Unable to resolve address 'far' service '16509': Name or service", "the host's name"),
    ],
)
def test_why_there_is_no_connection_is_said_with_what_to_do_about_it(said: str, cure: str) -> None:
    told = libvirt_errors.connecting("qemu:///system", said)
    assert told.startswith(f"There is no connection to qemu:///system: {said}")
    assert cure in told.partition("To cure it, ")[2]


def test_the_files_of_a_connection_are_not_taken_for_those_of_disks() -> None:
    for said in ("something: Permission denied", "something: No such file or directory"):
        assert "To cure it" not in libvirt_errors.connecting("qemu:///system", said)
        assert "To cure it" in libvirt_errors.explained(said)


@pytest.mark.parametrize("uri", ["qemu:///system", "QEMU+ssh://h/system", "test:///default"])
def test_an_address_of_qemu_s_is_none_of_another_s(uri: str) -> None:
    assert libvirt_errors.foreign(uri) == ""


def test_an_error_without_a_known_cure_is_libvirt_s_words_on_one_line() -> None:
    assert libvirt_errors.explained("one\n two.\n") == "one; two"


@pytest.mark.parametrize(
    "said",
    [
        "external snapshot file for disk vda already exists",
        "no disk named '/i/a'",
        "failed to create image file '/i/o': No space left",
        "unable to stat for disk vda: /i/o: Permission denied",
    ],
)
def test_the_disk_that_libvirt_speaks_of_is_named(said: str) -> None:
    assert libvirt_errors.blamed(said, [OVERLAY], ["vda", "vdb"]) == "vda"


def test_of_two_names_of_which_one_begins_the_other_the_right_one_is_named() -> None:
    longer = replace(OVERLAY, device="vdb", file="/i/o.2", backing_file="/i/b")
    assert libvirt_errors.blamed("cannot open /i/o.2: full", [OVERLAY, longer], []) == "vdb"
    assert libvirt_errors.blamed("something else", [OVERLAY, longer], []) == ""


def test_a_switched_disk_is_named_by_its_image_and_the_others_by_target() -> None:
    xml = script("/i/a.snap").switch.arguments["xml"]
    assert '<disk name="/i/a" snapshot="external"' in xml
    assert '<disk name="vdb" snapshot="no" />' in xml


def test_a_volume_is_named_by_its_target_for_libvirt_does_not_find_it_by_its_file() -> None:
    volume = Node("n", "qcow2", file="/pool/v", given_name="")
    disks = Graph({"vda": device("vda", "/pool/v", node="n")}, {"n": volume})
    made = libvirt_script.write([Target("vda", "/x")], Facts(disks, {}), Wishes(), SUBJECT)
    assert '<disk name="vda" snapshot="external"' in str(made.switch.arguments["xml"])


def test_the_firmware_s_memory_is_no_disk_in_the_xml() -> None:
    chip = replace(device("pflash1", "/i/vars"), qdev="pflash1")
    disks = graph(device("vda", "/i/a"), chip)
    made = libvirt_script.write([Target("vda", "/x")], Facts(disks, {}), Wishes(), SUBJECT)
    assert "pflash1" not in str(made.switch.arguments["xml"])


def test_the_name_is_the_first_that_is_free_or_the_one_that_was_asked_for() -> None:
    assert (
        "<name>snap3</name>" in script("/i/x", snapshots=("snap1", "snap2")).switch.arguments["xml"]
    )
    asked = script("/i/x", wishes=Wishes(name="mine")).switch.arguments["xml"]
    assert "<name>mine</name>" in asked


def test_the_flags_are_what_was_asked_for() -> None:
    assert script("/i/x").switch.arguments["flags"] == ["DISK_ONLY", "ATOMIC", "VALIDATE"]
    silent = script("/i/x", wishes=Wishes(metadata="no")).switch.arguments["flags"]
    assert "NO_METADATA" in silent


def test_the_shell_s_form_names_a_domain_with_a_space_by_its_uuid() -> None:
    text = libvirt_script.render(script("/i/x"), "virsh")
    assert text.splitlines()[0] == (
        "virsh -c 'qemu+unix:///session?socket=/r/s' snapshot-create 1-2-3 --xmlfile /dev/stdin "
        "--disk-only --atomic --validate <<'XML'"
    )
    assert text.splitlines()[-1] == "XML"


def test_a_form_that_libvirt_has_not_is_refused() -> None:
    with pytest.raises(SnapkitError, match="xml, virsh, python"):
        libvirt_script.render(script("/i/x"), "qmp")


def moment(name: str, parent: str | None, *disks: tuple[str, str]) -> Moment:
    return Moment(name, parent, datetime(2026, 1, 1, tzinfo=UTC), "disk-snapshot", "", disks)


FIRST, SECOND = moment("s1", None, ("vda", "/i/1")), moment("s2", "s1", ("vda", "/i/2"))


@pytest.mark.parametrize(
    ("files", "wrong"),
    [
        (("/i/2", "/i/1", "/i/0"), {}),
        (("/i/2", "/i/0"), {"s1": "no more"}),
        (("/i/1", "/i/2", "/i/0"), {"s2": "not above"}),
        ((), {"s1": "no more", "s2": "no more"}),
    ],
)
def test_metadata_is_compared_with_the_chain(files: tuple[str, ...], wrong: dict[str, str]) -> None:
    found = libvirt_agreement.compare([FIRST, SECOND], "s2", graph(device("vda", *files)))
    assert {one.name for one in found if not one.agrees} == set(wrong)
    assert all(wrong[one.name] in one.why_not for one in found if one.name in wrong)
    assert [one.current for one in found] == [False, True]


def test_a_disk_that_was_unplugged_is_said() -> None:
    (found,) = libvirt_agreement.compare([FIRST], "s1", graph(device("vdb", "/i/1")))
    assert found.why_not == "there is no disk vda any more"


def qemu(node: str, alias: str = "alias-vda") -> list[dict[str, Any]]:
    path = f"/machine/peripheral/{alias}/virtio-backend"
    return [{"qdev": path, "inserted": {"node-name": node, "file": "/i/real"}}, {"device": "x"}]


def test_qemu_and_libvirt_agree_where_the_numbers_are_the_same() -> None:
    known = graph(device("vda", "/i/a"))
    assert libvirt_truth.contradictions(known, qemu("libvirt-1-format")) == []
    assert libvirt_truth.contradictions(known, qemu("libvirt-1-storage")) == []


@pytest.mark.parametrize("node", ["libvirt-2-format", "#block123"])
def test_a_disk_that_qemu_has_on_another_image_is_told(node: str) -> None:
    (words,) = libvirt_truth.contradictions(graph(device("vda", "/i/a")), qemu(node))
    assert words == "QEMU has vda on /i/real, and libvirt takes it to be on /i/a"


def test_what_neither_names_says_nothing() -> None:
    unnamed = graph(device("vda", "/i/a", node="vda-0"))
    assert libvirt_truth.contradictions(unnamed, qemu("libvirt-2-format")) == []
    assert libvirt_truth.contradictions(graph(), qemu("libvirt-2-format")) == []
