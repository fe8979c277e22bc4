"""A libvirt reached through ssh or over TLS, on this host and on what looks like another."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

import snapkit
from snapkit.errors import ConnectError, SnapshotError
from tests.libvirt.remote import ELSEWHERE, Remote, Tls, remote
from tests.libvirt.world import pasted

_numbers = count(1)


@pytest.fixture(scope="module")
def world() -> Iterator[Remote]:
    with remote() as found:
        yield found


@pytest.fixture
def name(world: Remote) -> Iterator[str]:
    """A domain with a raw and a qcow2 disk, in a daemon that others use too."""
    name = f"vm{next(_numbers)}"
    images = world.daemon.image(f"{name}.img", "raw", "1M"), world.daemon.image(f"{name}.qcow2")
    yield world.daemon.paused(*images, name=name)
    world.daemon.virsh("destroy", name)


@pytest.fixture(params=["ssh", "tls"])
def uri(world: Remote, request: pytest.FixtureRequest) -> str:
    """A daemon that is another host's, as far as its address tells."""
    return world.over_tls() if request.param == "tls" else world.through_ssh(ELSEWHERE)


def disks(world: Remote, name: str) -> dict[str, str]:
    lines = world.daemon.virsh("domblklist", name).splitlines()
    return dict(line.split() for line in lines)


def targets(world: Remote, name: str) -> dict[str, str]:
    place = world.daemon.directory
    return {disk: str(place / f"{name}-{disk}.snap") for disk in ("vda", "vdb")}


def test_through_ssh_to_this_host_files_are_seen_and_checked(world: Remote, name: str) -> None:
    with snapkit.connect(world.through_ssh(), name) as vm:
        plan = vm.plan(targets(world, name))
        assert plan.problems == ()
        outcome = plan.run()
    assert outcome.ok, outcome.findings
    assert disks(world, name) == targets(world, name)


def test_another_host_s_domain_is_snapshotted_and_what_is_unseen_is_said(
    world: Remote, name: str, uri: str
) -> None:
    with snapkit.connect(uri, name) as vm:
        assert set(vm.devices()["file"]) == set(disks(world, name).values())
        plan = vm.plan(targets(world, name))
        unseen = {(p.device, p.check) for p in plan.problems}
        assert {p.severity for p in plan.problems} == {"warning"}
        assert {("vda", "visible"), ("vdb", "visible")} <= unseen
        outcome = plan.run()
        assert outcome.switched
        assert list(vm.snapshots()["agrees"]) == [True]
    assert disks(world, name) == targets(world, name)


def test_what_another_host_refuses_moves_nothing(world: Remote, name: str, uri: str) -> None:
    before = disks(world, name)
    wanted = targets(world, name) | {"vdb": str(world.daemon.directory / "nowhere" / "x")}
    with snapkit.connect(uri, name) as vm, pytest.raises(SnapshotError) as caught:
        vm.snapshot(wanted)
    assert "vdb: " in str(caught.value)
    assert "No such file or directory" in str(caught.value)
    assert disks(world, name) == before
    assert not os.path.exists(wanted["vda"])


def test_the_shell_s_form_goes_the_same_way(world: Remote, name: str, uri: str) -> None:
    with snapkit.connect(uri, name) as vm:
        shown = str(vm.plan(targets(world, name)).preview("virsh"))
    assert pasted(shown, world.daemon.directory).startswith("Domain snapshot snap1 created")
    assert disks(world, name) == targets(world, name)


def test_a_key_that_is_not_let_in_is_said_and_nobody_is_asked(world: Remote) -> None:
    with pytest.raises(ConnectError, match=r"Permission denied.*publickey.*ssh-copy-id"):
        snapkit.connect(world.through_ssh(key="stranger"))


def test_a_host_whose_key_is_not_known_is_said(world: Remote) -> None:
    known = world.ssh.directory / "known"
    keys = known.read_text()
    world.ssh.forget_host()
    try:
        with pytest.raises(ConnectError, match=r"Host key verification failed.*known_hosts"):
            snapkit.connect(world.through_ssh())
    finally:
        known.write_text(keys)


def test_a_certificate_of_somebody_else_s_authority_is_said(world: Remote, tmp_path: Path) -> None:
    Tls(tmp_path)
    with pytest.raises(ConnectError, match=r"certificate.*pkipath"):
        snapkit.connect(world.over_tls(tmp_path))


def test_without_a_client_s_certificate_it_is_said_which_file_is_missing(
    world: Remote, tmp_path: Path
) -> None:
    (tmp_path / "cacert.pem").write_bytes((world.tls.directory / "cacert.pem").read_bytes())
    with pytest.raises(ConnectError, match=r"clientcert\.pem.*pkipath"):
        snapkit.connect(world.over_tls(tmp_path))


def test_a_port_on_which_nobody_listens_is_said(world: Remote) -> None:
    address = world.over_tls().replace(str(world.tls.port), "1")
    with pytest.raises(ConnectError, match=r"Connection refused.*"):
        snapkit.connect(address)
