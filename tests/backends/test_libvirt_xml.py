"""libvirt's XML, read and written."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapkit.backends import libvirt_xml
from snapkit.backends.libvirt_xml import DiskWish, Unreadable
from snapkit.errors import SnapkitError

DISKS = """
<disk type='file' device='disk'>
  <driver name='qemu' type='qcow2'/><source file='/i/top' index='5'/>
  <backingStore type='block' index='4'><format type='raw'/><source dev='/dev/vg/base'/>
    <backingStore/></backingStore>
  <target dev='vda' bus='virtio'/><alias name='virtio-disk0'/></disk>
<disk type='file' device='cdrom'><target dev='hda'/><readonly/><alias name='ide0-0-0'/></disk>
<disk type='network' device='disk'><driver type='raw'/>
  <source protocol='nbd' name='export' index='2'><host name='far' port='10809'/></source>
  <backingStore/><target dev='vdb'/><shareable/></disk>
<disk type='file' device='disk'><driver type='qcow2'/><source file='/i/t' index='1'/>
  <mirror type='file' job='copy'/><target dev='vdc'/><transient/></disk>
"""


def domain(disks: str = DISKS, head: str = "id='7'") -> libvirt_xml.Domain:
    return libvirt_xml.domain(
        f"<domain type='qemu' {head}><name>a&amp;b</name><uuid>u</uuid>"
        f"<devices>{disks}<tpm><alias name='tpm0'/></tpm></devices></domain>"
    )


def test_a_chain_is_read_from_the_top_down_with_libvirt_s_numbers() -> None:
    first = domain().disks[0]
    assert [(x.kind, x.file, x.format, x.index) for x in first.images] == [
        ("file", "/i/top", "qcow2", 5),
        ("block", "/dev/vg/base", "raw", 4),
    ]
    assert (first.target, first.alias, first.read_only) == ("vda", "virtio-disk0", False)


def test_a_drive_without_a_medium_has_no_image() -> None:
    drive = domain().disks[1]
    assert (drive.device, drive.images, drive.read_only) == ("cdrom", (), True)


def test_what_has_no_path_is_named_by_where_it_is() -> None:
    disk = domain().disks[2]
    assert [image.file for image in disk.images] == ["nbd://far:10809/export"]
    assert disk.shareable


SECRETS = """
<auth username='admin-word'><secret type='ceph' uuid='secret-word'/></auth>
<cookies><cookie name='c'>cookie-word</cookie></cookies>
<encryption format='luks'><secret type='passphrase' uuid='secret-word'/></encryption>
"""


@pytest.mark.parametrize(
    ("kind", "source", "file"),
    [
        ("network", "protocol='rbd' name='pool/disk'><host name='mon' port='6789'/>", "pool/disk"),
        ("network", "protocol='nbd'><host name='::1' port='10809'/>", "nbd://[::1]:10809/"),
        (
            "network",
            "protocol='nbd' name='e'><host transport='unix' socket='/r/n b'/>",
            "nbd+unix:///e?socket=/r/n%20b",
        ),
        (
            "network",
            "protocol='https' name='/a/b.img' query='token-word'><host name='h' port='443'/>",
            "https://h:443/a/b.img",
        ),
        (
            "network",
            "protocol='iscsi' name='iqn.2013-07.com.example:s/1'><host name='h' port='3260'/>",
            "iscsi://h:3260/iqn.2013-07.com.example:s/1",
        ),
        ("volume", "pool='default' volume='a.qcow2'>", "volume:default/a.qcow2"),
        (
            "nvme",
            (
                "type='pci' namespace='1'>"
                "<address domain='0x0000' bus='0x01' slot='0x00' function='0x1'/>"
            ),
            "nvme://0000:01:00.1/1",
        ),
        ("vhostuser", "type='unix' path='/r/vhost.sock'>", "/r/vhost.sock"),
        ("vhostvdpa", "dev='/dev/vhost-vdpa-0'>", "/dev/vhost-vdpa-0"),
        ("dir", "dir='/share'>", "/share"),
        ("block", "dev='/dev/vg/lv'>", "/dev/vg/lv"),
    ],
)
def test_every_kind_of_source_is_named_and_no_secret_with_it(
    kind: str, source: str, file: str
) -> None:
    (disk,) = domain(
        f"<disk type='{kind}' device='disk'><driver type='raw'/>"
        f"<source {source}{SECRETS}</source><target dev='vda'/></disk>"
    ).disks
    (image,) = disk.images
    assert image.file.endswith(file)
    assert image.encrypted
    assert "word" not in repr(disk)


def test_encryption_may_stand_beside_the_source_too() -> None:
    (disk,) = domain(
        "<disk type='file'><source file='/i/a'/><encryption format='luks'/>"
        "<target dev='vda'/></disk>"
    ).disks
    assert disk.images[0].encrypted


def test_an_encrypted_raw_image_has_the_format_that_qemu_calls_it_by() -> None:
    key = "<encryption format='luks'/>"
    raw, qcow2 = domain(
        f"<disk type='file'><driver type='raw'/><source file='/i/a'>{key}</source>"
        "<target dev='vda'/></disk>"
        f"<disk type='file'><driver type='qcow2'/><source file='/i/b'>{key}</source>"
        "<target dev='vdb'/></disk>"
    ).disks
    assert [disk.images[0].format for disk in (raw, qcow2)] == ["luks", "qcow2"]


def flash(system: str) -> list[tuple[str, bool, list[str]]]:
    told = libvirt_xml.domain(f"<domain><os>{system}</os><devices/></domain>")
    return [(x.target, x.read_only, [image.file for image in x.images]) for x in told.flash]


@pytest.mark.parametrize(
    ("system", "chips"),
    [
        (
            "<loader readonly='yes' type='pflash'>/c</loader><nvram template='/t'>/v</nvram>",
            [("pflash0", True, ["/c"]), ("pflash1", False, ["/v"])],
        ),
        (
            "<loader type='pflash'>/c</loader><nvram type='file'><source file='/v'/></nvram>",
            [("pflash0", False, ["/c"]), ("pflash1", False, ["/v"])],
        ),
        (
            (
                "<nvram type='network'><source protocol='nbd' name='v'>"
                "<host name='h' port='1'/></source></nvram>"
            ),
            [("pflash1", False, ["nbd://h:1/v"])],
        ),
        ("<loader type='rom'>/bios</loader>", []),
        (
            "<loader stateless='yes' readonly='yes' type='pflash'>/c</loader>",
            [("pflash0", True, ["/c"])],
        ),
    ],
)
def test_the_firmware_s_memory_is_read(
    system: str, chips: list[tuple[str, bool, list[str]]]
) -> None:
    assert flash(system) == chips


def test_a_copy_job_and_transience_are_seen() -> None:
    disk = domain().disks[3]
    assert (disk.job, disk.transient) == ("copy", True)


def test_a_domain_that_does_not_run_has_no_id() -> None:
    assert domain(head="").id is None
    assert (domain().id, domain().name, domain().tpms) == (7, "a&b", ("tpm0",))


def test_what_is_no_xml_is_said() -> None:
    with pytest.raises(Unreadable, match="no XML"):
        libvirt_xml.domain("<domain>")


def parsed(text: str) -> ET.Element:
    return ET.fromstring(text)  # noqa: S314  it was written just now


WISHES = [DiskWish("/i/a", "/i/a.snap", "qcow2"), DiskWish("vdb")]


def test_every_disk_is_named_and_those_not_asked_for_say_no() -> None:
    root = parsed(libvirt_xml.snapshot("snap1", "", WISHES))
    first, second = root.findall("disks/disk")
    assert first.attrib == {"name": "/i/a", "snapshot": "external", "type": "file"}
    assert second.attrib == {"name": "vdb", "snapshot": "no"}
    assert root.find("description") is None


@given(st.text(st.characters(codec="utf-8", min_codepoint=32), min_size=1))
def test_any_name_comes_back_out_of_the_xml(name: str) -> None:
    try:
        text = libvirt_xml.snapshot("s", name, [DiskWish("vda", f"/i/{name}", "qcow2")])
    except SnapkitError:
        assert any(character in "\ufffe\uffff" for character in name)
        return
    root = parsed(text)
    source = root.find("disks/disk/source")
    assert source is not None
    assert source.get("file") == f"/i/{name}"
    assert root.findtext("description") == name


@pytest.mark.parametrize("character", ["\0", "\x01", "\x1b", "\ufffe", "\udc80"])
def test_what_xml_cannot_hold_is_refused_by_name(character: str) -> None:
    with pytest.raises(SnapkitError, match="which no XML can") as caught:
        libvirt_xml.snapshot("s", "", [DiskWish("vda", f"/i/{character}", "qcow2")])
    assert str(caught.value).isprintable()


def test_a_snapshot_s_own_disks_are_those_with_a_new_image() -> None:
    found = libvirt_xml.moment(
        "<domainsnapshot><name>b</name><parent><name>a</name></parent><state>disk-snapshot</state>"
        "<creationTime>60</creationTime><disks><disk name='vda' snapshot='external' type='file'>"
        "<source file='/i/b'/></disk><disk name='vdb' snapshot='no'/></disks></domainsnapshot>"
    )
    assert (found.name, found.parent, found.disks) == ("b", "a", (("vda", "/i/b"),))
    assert found.created.isoformat() == "1970-01-01T00:01:00+00:00"
