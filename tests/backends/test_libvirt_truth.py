"""What a daemon that was ended has left open in its QEMU."""

from __future__ import annotations

from snapkit.backends import libvirt_truth


def node(name: str, file: str) -> dict[str, str]:
    return {"node-name": name, "file": file}


def test_an_image_is_closed_before_its_file_though_it_does_not_name_it() -> None:
    nodes = [
        node("libvirt-5-format", '{"driver": "qcow2"}'),
        node("libvirt-5-storage", "/i/ours"),
        node("libvirt-4-format", "/i/theirs"),
        node("libvirt-4-storage", "/i/theirs"),
    ]
    wanted = ["libvirt-5-format", "libvirt-5-storage"]
    assert libvirt_truth.strays(nodes, {"/i/ours"}) == wanted


def test_what_libvirt_has_not_named_is_left_alone() -> None:
    nodes = [node("backup-storage", "/i/ours"), node("#block12", "/i/ours")]
    assert libvirt_truth.strays(nodes, {"/i/ours"}) == []
