"""Devices with a job on them, on real QEMUs and storage daemons."""

from __future__ import annotations

from pathlib import Path

import pytest

import snapkit
from tests.conftest import Qmp, StartQemu, blockdev, create_image, qemu_img, wait_until


def test_a_running_job_is_a_reason_not_to_snapshot_until_it_ends(
    start_qemu: StartQemu, directory: Path
) -> None:
    names = ("mirror", "backup", "commit", "stream", "idle")
    arguments: list[str] = ["-device", "virtio-scsi-pci,id=scsi0"]
    for name in names:
        base = create_image(directory / f"{name}-base.qcow2")
        qemu_img("bench", "-w", "-q", "-c", "64", "-s", "65536", "-f", "qcow2", base)
        top = create_image(directory / f"{name}.qcow2", backing=base, backing_format="qcow2")
        qemu_img("bench", "-w", "-q", "-c", "64", "-s", "65536", "-o", "8M", "-f", "qcow2", top)
        arguments += blockdev(name, top)
        arguments += ["-device", f"scsi-hd,drive={name},id={name}"]
    for name in ("mirror", "backup"):
        arguments += blockdev(f"{name}-to", create_image(directory / f"{name}-to.qcow2"))
    machine = start_qemu(*arguments)
    with machine.qmp() as other:
        slow = {"speed": 1, "auto_dismiss": False}
        other.execute(
            "blockdev-mirror", job_id="j-mirror", device="mirror", target="mirror-to",
            sync="full", **slow,
        )  # fmt: skip
        other.execute(
            "blockdev-backup", job_id="j-backup", device="backup", target="backup-to",
            sync="full", **slow,
        )  # fmt: skip
        other.execute("block-commit", job_id="j-commit", device="commit", **slow)
        other.execute("block-stream", job_id="j-stream", device="stream", **slow)

        with snapkit.connect(machine.uri) as vm:
            devices = vm.devices()
            for name in names[:-1]:
                assert not devices.loc[name, "snapshotable"], name
                assert f"the job j-{name} ({name}," in str(devices.loc[name, "why_not"])
                assert devices.loc[name, "node"] == name
                assert devices.loc[name, "file"] == f"{directory}/{name}.qcow2"
                assert devices.loc[name, "depth"] == 1
            assert devices.loc["idle", "snapshotable"]

            for name in names[:-1]:
                other.execute("block-job-cancel", device=f"j-{name}", force=True)
            wait_until(lambda: ended(other), "the jobs end")
            for name in names[:-1]:
                other.execute("job-dismiss", id=f"j-{name}")
            assert vm.devices().loc[list(names), "snapshotable"].all()


def ended(other: Qmp) -> bool:
    return all(job["status"] == "concluded" for job in other.execute("query-jobs"))


def test_a_stream_job_that_was_not_dismissed_does_not_cost_the_vm_its_life(
    start_qemu: StartQemu, directory: Path
) -> None:
    base = create_image(directory / "base.qcow2")
    top = create_image(directory / "top.qcow2", backing=base, backing_format="qcow2")
    machine = start_qemu("-drive", f"if=none,id=drive0,file={top}")
    with snapkit.connect(machine.uri) as vm, machine.qmp() as other:
        other.execute("block-stream", job_id="j", device="drive0", auto_dismiss=False)
        wait_until(lambda: ended(other), "the job ends")

        with pytest.raises(snapkit.SnapkitError, match="job-dismiss with the id j"):
            vm.devices()

        other.execute("job-dismiss", id="j")
        assert vm.devices().loc["drive0", "depth"] == 0


def test_a_job_on_an_export_is_shown(start_daemon: StartQemu, directory: Path) -> None:
    file = create_image(directory / "a.qcow2")
    qemu_img("bench", "-w", "-q", "-c", "64", "-s", "65536", "-f", "qcow2", file)
    daemon = start_daemon(
        *blockdev("n0", file),
        *("--export", "type=nbd,id=e0,node-name=n0,name=d0,writable=on"),
        *blockdev("to", create_image(directory / "to.qcow2")),
    )
    with daemon.qmp() as other:
        other.execute("blockdev-mirror", job_id="j", device="n0", target="to", sync="full", speed=1)
        with snapkit.connect(daemon.uri) as vm:
            row = vm.devices().loc["e0"]

    assert row["node"] == "n0"
    assert "the job j (mirror" in row["why_not"]
