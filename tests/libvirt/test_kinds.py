"""Every kind of disk that QEMU can have here, in one domain, and what becomes of it."""

from __future__ import annotations

import json
import subprocess
from base64 import b64encode
from collections.abc import Iterator

import pytest

import snapkit
from tests.conftest import Process, blockdev, chain_of, run_daemon, wait_until
from tests.libvirtd import PrivateLibvirt, domain_xml

PHRASE = "quite-unheard-of"
KEY = "11111111-2222-3333-4444-555555555555"


def disk(
    target: str,
    source: str,
    form: str = "raw",
    *,
    bus: str = "virtio",
    rest: str = "",
    **names: str,
) -> str:
    names = {"type": "file", "device": "disk"} | names
    attributes = " ".join(f"{name}='{value}'" for name, value in names.items())
    return (
        f"<disk {attributes}><driver name='qemu' type='{form}'/>{source}"
        f"<target dev='{target}' bus='{bus}'/>{rest}</disk>"
    )


def file(path: str, inner: str = "") -> str:
    return f"<source file='{path}'>{inner}</source>"


class Kinds:
    """A paused domain with a disk of each kind."""

    def __init__(self, daemon: PrivateLibvirt, export: Process) -> None:
        self.daemon = daemon
        self.uri = daemon.uri
        base = daemon.image("base.qcow2", size="4M")
        middle = daemon.image("middle.qcow2", backing=base, backing_format="qcow2")
        top = daemon.image("top.qcow2", backing=middle, backing_format="qcow2")
        self.chain = [top, middle, base]
        self.socket = str(export.directory / "nbd.sock")
        self.variables = daemon.image("vars.fd", "raw", "256K")
        code = daemon.image("code.fd", "raw", "256K")
        system = (
            f"<loader readonly='yes' type='pflash'>{code}</loader><nvram>{self.variables}</nvram>"
        )
        xml = domain_xml(name="kinds")
        xml = xml.replace("</os>", f"{system}</os><features><acpi/></features>")
        usb = "<controller type='usb' model="
        scsi = "<controller type='scsi' model='virtio-scsi'/>"
        xml = xml.replace(f"{usb}'none'/>", f"{self._disks()}{scsi}{usb}'piix3-uhci'/>")
        daemon.create(xml, "--paused")

    def _disks(self) -> str:
        raw = self._raw
        nbd = f"<host transport='unix' socket='{self.socket}'/>"
        return "".join(
            (
                disk("vda", file(self.chain[0]), "qcow2"),
                disk("vdb", file(raw("ro.img")), rest="<readonly/>"),
                disk("vdc", file(raw("shared.img")), rest="<shareable/>"),
                disk(
                    "vdd",
                    file(self.daemon.image("gone.qcow2", size="4M")),
                    "qcow2",
                    rest="<transient/>",
                ),
                disk(
                    "vde",
                    f"<source protocol='nbd' name='far'>{nbd}</source>",
                    type="network",
                ),
                disk("vdf", file(self._luks(), self._key())),
                disk("vdg", self._volume(), "qcow2", type="volume"),
                disk("sda", file(raw("sata.img")), bus="sata"),
                disk("sdb", file(raw("scsi.img")), bus="scsi"),
                disk("sdc", file(raw("usb.img")), bus="usb"),
                disk("sdd", "", bus="sata", rest="<readonly/>", device="cdrom"),
                disk("sde", file(raw("cd.iso")), bus="sata", rest="<readonly/>", device="cdrom"),
                disk("fda", file(raw("floppy.img", "1440K")), bus="fdc", device="floppy"),
            )
        )

    def _raw(self, name: str, size: str = "4M") -> str:
        return self.daemon.image(name, "raw", size)

    def _luks(self) -> str:
        path = self.file("luks.img")
        options = ("-o", "key-secret=s,iter-time=10", "--object", f"secret,id=s,data={PHRASE}")
        command = ["qemu-img", "create", "-q", "-f", "luks", *options, path, "4M"]
        # It measures how fast it can be, and fails where the machine is too busy to tell.
        wait_until(lambda: subprocess.run(command, check=False).returncode == 0, "an image")
        self.daemon.give(path)
        return path

    def _key(self) -> str:
        xml = self.daemon.directory / "secret.xml"
        xml.write_text(
            f"<secret ephemeral='yes' private='no'><uuid>{KEY}</uuid>"
            f"<usage type='volume'><volume>{self.file('luks.img')}</volume></usage></secret>"
        )
        self.daemon.virsh("secret-define", str(xml))
        self.daemon.virsh("secret-set-value", KEY, b64encode(PHRASE.encode()).decode())
        return f"<encryption format='luks'><secret type='passphrase' uuid='{KEY}'/></encryption>"

    def _volume(self) -> str:
        pool = self.daemon.directory / "pool"
        pool.mkdir()
        self.daemon.give(pool)
        self.daemon.image("pool/volume.qcow2", size="4M")
        self.daemon.virsh("pool-create-as", "images", "dir", "--target", str(pool))
        return "<source pool='images' volume='volume.qcow2'/>"

    def file(self, name: str) -> str:
        return str(self.daemon.directory / name)

    def disks(self) -> dict[str, str]:
        """What ``virsh domblklist`` says."""
        lines = self.daemon.virsh("domblklist", "kinds").splitlines()
        return dict(line.split(maxsplit=1) for line in lines)


@pytest.fixture
def kinds(libvirt: PrivateLibvirt) -> Iterator[Kinds]:
    far = libvirt.image("far.img", "raw", "4M")
    export = ("--export", "type=nbd,id=e,node-name=far,name=far,writable=on")
    daemon = run_daemon(libvirt.directory, *blockdev("far", far, "raw"), *export)
    libvirt.give(libvirt.directory / "nbd.sock")
    try:
        yield Kinds(libvirt, daemon)
    finally:
        daemon.stop()


def test_every_kind_of_disk_has_its_row_and_its_reason(kinds: Kinds) -> None:
    with snapkit.connect(kinds.uri) as vm:
        devices = vm.devices()
        layers = vm.layers()
    assert set(devices.index) == {*kinds.disks(), "pflash0", "pflash1"}
    why = devices["why_not"].to_dict()
    can = {"vda", "vde", "vdf", "vdg", "sda", "sdb", "sdc", "fda"}
    assert {name for name, reason in why.items() if not reason} == can
    for name, reason in (
        ("vdb", "read-only"),
        ("vdc", "shareable"),
        ("vdd", "transient"),
        ("sdd", "no medium is inserted"),
        ("sde", "read-only"),
        ("pflash0", "read-only"),
        ("pflash1", "firmware's memory, of which libvirt takes no snapshot"),
    ):
        assert reason in why[name]
    files = devices["file"].to_dict()
    assert files["vde"] == f"nbd+unix:///far?socket={kinds.socket}"
    assert files["vdg"] == kinds.file("pool/volume.qcow2")
    assert files["pflash1"] == kinds.variables
    assert list(layers.loc["vda"]["file"]) == kinds.chain
    for name in ("sda", "vdf", "sdc"):
        assert files[name] == kinds.disks()[name]
    assert set(devices.index[devices["removable"]]) == {"sdd", "sde", "fda"}
    assert devices.loc["pflash1", "virtual_size"] == 256 * 1024


def test_the_nodes_are_those_that_qemu_has(kinds: Kinds) -> None:
    question = json.dumps({"execute": "query-named-block-nodes", "arguments": {"flat": True}})
    answer = json.loads(kinds.daemon.virsh("qemu-monitor-command", "kinds", question))
    with snapkit.connect(kinds.uri) as vm:
        nodes = set(vm.layers()["node"])
    assert nodes <= {row["node-name"] for row in answer["return"]}


def test_all_that_can_be_are_switched_and_nothing_else(kinds: Kinds) -> None:
    before = kinds.disks()
    with snapkit.connect(kinds.uri) as vm:
        devices = vm.devices()
        names = list(devices.index[devices["snapshotable"]])
        targets = {name: kinds.file(f"{name}.snap") for name in names}
        plan = vm.plan(targets)
        assert {p.device for p in plan.problems if p.check == "firmware"} == {"pflash1"}
        outcome = plan.run()
    assert outcome.ok, outcome.findings
    assert kinds.disks() == before | targets
    assert [layer["filename"] for layer in chain_of(targets["vda"])] == [
        targets["vda"],
        *kinds.chain,
    ]


def test_what_cannot_be_is_refused_by_name(kinds: Kinds) -> None:
    before = kinds.disks()
    with snapkit.connect(kinds.uri) as vm:
        for name in ("vdb", "vdc", "vdd", "sdd", "sde", "pflash0", "pflash1"):
            plan = vm.plan({name: kinds.file("x.snap")})
            assert name in {p.device for p in plan.problems if p.severity == "error"}
            with pytest.raises(snapkit.PlanError, match=f"{name}: "):
                plan.run()
    assert kinds.disks() == before


def test_no_secret_is_ever_shown(kinds: Kinds) -> None:
    with snapkit.connect(kinds.uri) as vm:
        plan = vm.plan({"vdf": kinds.file("f.snap")})
        shown = [vm.devices(), vm.layers(), vm.stats(), plan.to_frame(), *plan.problems]
        forms = [plan.preview(form) for form in plan.forms] if plan.ok else []
    text = "".join(map(str, [*(x.to_csv() if hasattr(x, "to_csv") else x for x in shown), *forms]))
    assert kinds.file("luks.img") in text
    assert PHRASE not in text
    assert KEY not in text
