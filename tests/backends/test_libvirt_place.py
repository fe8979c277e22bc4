"""Whose host a libvirt address is, and what libvirt's daemon may do for QEMU's user."""

from __future__ import annotations

import os

import pytest

from snapkit.backends import libvirt_place
from snapkit.backends.libvirt_xml import Domain
from snapkit.facts import FileFacts

NOWHERE = Domain("d", "00000000-0000-0000-0000-000000000000", 1, ())


@pytest.mark.parametrize(
    ("uri", "elsewhere"),
    [
        ("qemu:///system", False),
        ("qemu+unix:///session?socket=/r/s", False),
        ("qemu:///embed?root=/r", False),
        ("qemu+ssh://root@far.example/system", True),
        ("qemu+tls://[2001:db8::1]/system", True),
        ("qemu+tcp://localhost/system", False),
        ("qemu+tcp://[broken/system", True),
    ],
)
def test_an_address_that_names_another_host_is_elsewhere(uri: str, elsewhere: bool) -> None:
    assert libvirt_place.is_elsewhere(uri) is elsewhere


def test_of_another_host_nothing_is_taken_for_this_one_s() -> None:
    place = libvirt_place.find("qemu+ssh://far.example/system", NOWHERE, overrule=None)
    assert (place.local, place.pid, place.instance) == (False, None, "")
    assert place.why == "qemu+ssh://far.example/system is another host's libvirt"
    assert libvirt_place.find("qemu+ssh://far.example/system", NOWHERE, overrule=True).local


def test_without_a_process_of_this_host_the_files_are_not_known_to_be_here() -> None:
    place = libvirt_place.find("qemu:///system", NOWHERE, overrule=None)
    assert not place.local
    assert "no QEMU process of this host was found" in place.why
    assert not libvirt_place.has_ended(place)


SEEN = FileFacts("/i/a", known=True, directory_writable=False, writable=False)


@pytest.mark.parametrize(
    ("uri", "user", "rights"),
    [
        ("qemu:///system", 1000, True),
        ("qemu:///session", 1000, False),
        ("qemu+unix:///session?socket=/r/s", 0, False),
        ("qemu:///embed?root=/r", 0, True),
        ("qemu:///embed?root=/r", 1000, False),
    ],
)
def test_a_daemon_of_root_s_needs_no_rights_of_qemu_s_user(
    uri: str, user: int, rights: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    found = libvirt_place.granted(uri, [SEEN])["/i/a"]
    expected = (None, None) if rights else (False, False)
    assert (found.directory_writable, found.writable) == expected
