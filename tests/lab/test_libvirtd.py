"""A private libvirtd: it starts, forgets nothing while it runs, and leaves nothing."""

from __future__ import annotations

from tests.conftest import StartDomain
from tests.lab.watch import has_ended, is_running
from tests.libvirtd import PrivateLibvirt, private_libvirt


def test_a_domain_runs_and_is_listed(libvirt: PrivateLibvirt, start_domain: StartDomain) -> None:
    assert libvirt.virsh("list", "--name") == ""
    name = start_domain(2)
    assert libvirt.virsh("domstate", name) == "paused"
    assert libvirt.virsh("domblklist", name).split() == [
        *("vda", str(libvirt.directory / "win2003.img")),
        *("vdb", str(libvirt.directory / "win2003-1.qcow2")),
    ]


def test_a_restarted_daemon_finds_its_domains_again(
    libvirt: PrivateLibvirt, start_domain: StartDomain
) -> None:
    name = start_domain(1)
    qemu, daemon = libvirt.qemu_pid(name), libvirt.pid
    libvirt.restart()
    assert not is_running(daemon)
    assert is_running(qemu)
    assert libvirt.virsh("list", "--name") == name


def test_nothing_is_left() -> None:
    with private_libvirt() as libvirt:
        name = libvirt.paused(libvirt.image("disk.img", "raw", "4M"))
        qemu, daemon = libvirt.qemu_pid(name), libvirt.pid
    has_ended(qemu)
    has_ended(daemon)
    assert not libvirt.directory.exists()


def test_a_destroyed_domain_is_gone_at_once(
    libvirt: PrivateLibvirt, start_domain: StartDomain
) -> None:
    qemu = libvirt.qemu_pid(start_domain(1))
    libvirt.virsh("destroy", "win2003")
    assert not is_running(qemu)


def test_the_daemon_has_nothing_to_complain_of(libvirt: PrivateLibvirt) -> None:
    # A client's identity is made from the daemon's user and group, which need to have names.
    libvirt.virsh("list")
    libvirt.virsh("list")
    assert "CRITICAL" not in (libvirt.directory / "libvirt" / "libvirtd.log").read_text()
