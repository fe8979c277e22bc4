"""Whose files QEMU's files are, and how that is known."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import snapkit
from snapkit.address import LibvirtAddress, parse
from snapkit.backends import locality
from tests.conftest import Process, StartQemu, create_image
from tests.ordinary import NOBODY, as_ordinary_user, is_root
from tests.recorder import Recorder

IS_ROOT = is_root()
AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]

Proxy = Callable[..., Recorder]


def look_at(uri: str, images: list[str]) -> locality.Place:
    address = parse(uri)
    assert not isinstance(address, LibvirtAddress)
    return locality.find(address, images, overrule=None)


def drive(file: Path | str) -> tuple[str, str]:
    return "-drive", f"if=none,id=drive0,format=qcow2,file={file}"


def test_a_qemu_that_holds_the_images_of_this_host_is_local(
    seed_qemu: Process, seed_vm: snapkit.VirtualMachine
) -> None:
    assert seed_vm.local
    assert f"QEMU (pid {seed_qemu.pid}) on this host has {seed_qemu.directory}/" in seed_vm.locality
    assert "open" in seed_vm.locality


def test_a_qemu_with_relative_names_is_local_and_its_directory_known(
    start_qemu: StartQemu, directory: Path
) -> None:
    create_image(directory / "a.qcow2")
    machine = start_qemu(*drive("a.qcow2"))

    place = look_at(machine.uri, ["a.qcow2"])

    assert (place.local, place.pid, place.directory) == (True, machine.pid, str(directory))
    assert place.owner is not None
    assert place.owner.uid == os.geteuid()


def test_a_qemu_without_disks_is_local_by_its_mounts(start_qemu: StartQemu) -> None:
    with snapkit.connect(start_qemu().uri) as vm:
        assert vm.local
        assert "sees the same mounts as this process" in vm.locality


def test_a_storage_daemon_is_local_too(start_daemon: StartQemu, directory: Path) -> None:
    file = create_image(directory / "a.qcow2")
    daemon = start_daemon(
        *("--blockdev", f"driver=qcow2,node-name=n0,file.driver=file,file.filename={file}")
    )

    with snapkit.connect(daemon.uri) as vm:
        assert vm.local
        assert str(daemon.pid) in vm.locality


@pytest.mark.parametrize("name", ["a:b.qcow2", "caf\udce9.qcow2", "with space\n.qcow2"])
def test_an_image_with_an_odd_name_does_not_make_qemu_somebody_elses(
    start_qemu: StartQemu, directory: Path, name: str
) -> None:
    plain = create_image(directory / "plain.qcow2")
    os.rename(plain, directory / name)

    with snapkit.connect(start_qemu(*drive(directory / name)).uri) as vm:
        assert vm.local


@pytest.mark.parametrize("tcp", ["", "127.0.0.1"])
def test_behind_a_forwarded_monitor_nothing_is_local_unless_the_user_says_so(
    seed_qemu: Process, recorder: Proxy, tcp: str
) -> None:
    proxy = recorder(seed_qemu.uri, tcp=tcp)

    with snapkit.connect(proxy.uri) as vm:
        assert not vm.local
        assert "no QEMU process of this host was found behind" in vm.locality
        assert len(vm.devices()) == 2
    with snapkit.connect(proxy.uri, local=True) as vm:
        assert vm.local
        assert "said beforehand" in vm.locality
    with snapkit.connect(seed_qemu.uri, local=False) as vm:
        assert not vm.local
        assert "said beforehand" in vm.locality


def may_have_namespaces() -> bool:
    """Whether the operating system lets this user have mounts of its own."""
    return subprocess.run([*unshared(), "true"], capture_output=True, check=False).returncode == 0


def unshared() -> list[str]:
    user = [] if IS_ROOT else ["--user", "--map-root-user"]
    return ["unshare", *user, "--mount", "--propagation", "private"]


def test_a_qemu_with_mounts_of_its_own_is_judged_by_the_files_that_it_has_open(
    start_qemu: StartQemu, directory: Path
) -> None:
    if not may_have_namespaces():
        # Nobody but root has them here, and then there is no such QEMU of this user.
        assert not IS_ROOT
        return
    file = create_image(directory / "a.qcow2")
    same = start_qemu(*drive(file), prefix=unshared())
    with snapkit.connect(same.uri) as vm:
        assert vm.local
        assert f"has {file} open" in vm.locality


def test_a_qemu_that_sees_another_file_under_the_name_is_not_local(
    start_qemu: StartQemu, directory: Path
) -> None:
    if not may_have_namespaces():
        assert not IS_ROOT
        return
    images, hidden = directory / "images", directory / "hidden"
    images.mkdir()
    hidden.mkdir()
    create_image(images / "a.qcow2")
    create_image(hidden / "a.qcow2")
    covered = ["sh", "-c", f'mount --bind {hidden} {images} && exec "$@"', "sh"]
    machine = start_qemu(*drive(images / "a.qcow2"), prefix=[*unshared(), *covered])

    with snapkit.connect(machine.uri) as vm:
        assert not vm.local
        assert vm.devices().loc["drive0", "file"] == str(images / "a.qcow2")


def test_a_qemu_whose_files_this_host_has_not_is_not_local(
    start_qemu: StartQemu, directory: Path
) -> None:
    if not may_have_namespaces():
        assert not IS_ROOT
        return
    images, hidden = directory / "images", directory / "hidden"
    images.mkdir()
    hidden.mkdir()
    create_image(hidden / "a.qcow2")
    covered = ["sh", "-c", f'mount --bind {hidden} {images} && exec "$@"', "sh"]
    machine = start_qemu(*drive(images / "a.qcow2"), prefix=[*unshared(), *covered])

    with snapkit.connect(machine.uri) as vm:
        assert not vm.local
        assert "has other files than this host shows" in vm.locality


def judged_by_nobody(uri: str) -> dict[str, object]:
    """What an ordinary user finds out: this one, if it is one."""
    done = as_ordinary_user(
        """
        import json
        with snapkit.connect(sys.argv[1]) as vm:
            print(json.dumps({"local": vm.local, "why": vm.locality, "disks": len(vm.devices())}))
        """,
        uri,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, object] = json.loads(done.stdout)
    return told


def open_to_all(machine: Process) -> None:
    machine.directory.chmod(0o755)
    os.chmod(machine.uri.removeprefix("unix:"), 0o777)  # noqa: S103  that is the point


def test_an_ordinary_user_does_not_take_the_files_of_another_users_qemu_for_granted(
    seed_qemu: Process,
) -> None:
    open_to_all(seed_qemu)

    told = judged_by_nobody(seed_qemu.uri)

    assert told["disks"] == 2
    if IS_ROOT:
        assert not told["local"]
        assert str(seed_qemu.pid) in str(told["why"])
    else:
        # For an ordinary user this QEMU is an own one.
        assert told["local"]


def test_root_sees_what_an_ordinary_users_qemu_has_open_and_whom_it_runs_as(
    start_qemu: StartQemu, directory: Path
) -> None:
    if IS_ROOT:
        os.chown(directory, NOBODY, NOBODY)
    file = create_image(directory / "a.qcow2")
    if IS_ROOT:
        os.chown(file, NOBODY, NOBODY)
    machine = start_qemu(*drive(file), prefix=AS_NOBODY if IS_ROOT else [])

    place = look_at(machine.uri, [file])

    assert place.local
    assert f"has {file} open" in place.why
    assert place.owner is not None
    assert place.owner.uid == (NOBODY if IS_ROOT else os.geteuid())
    assert not place.owner.all_powerful


def test_nothing_is_asked_of_a_host_that_is_not_this_one() -> None:
    place = look_at("tcp:192.0.2.1:4444", ["/imgs/a.qcow2"])

    assert not place.local
    assert "no QEMU process of this host was found behind tcp:192.0.2.1:4444" in place.why
