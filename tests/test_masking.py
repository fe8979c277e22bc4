"""Secrets are taken out of what is kept, wherever QEMU and libvirt let them be written."""

from __future__ import annotations

import json

import pytest

from snapkit.masking import mask, masked

WORD = "hunter2"


@pytest.mark.parametrize(
    "text",
    [
        "qemu+ssh://root:hunter2@host/system",
        "qemu+ssh://root:hun@hunter2@host/system",
        "iscsi://user%hunter2@host/iqn/1",
        "https://user:hunter2@host:8443/a.qcow2",
        "https://host/a.qcow2?token=hunter2&x=1",
        "https://host/a.qcow2?x=1;api_key=hunter2",
        "https://host/a?X-Amz-Signature=hunter2",
        "driver=https,password=hunter2,url=x",
        "driver=https,proxy-password=hunter2",
        "driver=https,cookie=hunter2",
        "rbd:pool/image:id=admin:key=hunter2==:auth_supported=cephx",
        'json:{"driver": "https", "password": "hunter2"}',
        'json:{"file": {"file.password" : "hunter2"}}',
        'json:{"password": "a\\"hunter2"}',
        'json:{"password": "hunter2\\\\"}',
        'json:{"cookie":"sid=1; hunter2"}',
        'json:{"key": "hunter2"}',
        "Could not open 'https://u:hunter2@h/x': refused, and then",
    ],
)
def test_a_secret_is_masked_in_every_layer_of_quotes(text: str) -> None:
    for depth in range(3):
        assert WORD not in mask(text), depth
        assert "***" in mask(text)
        text = json.dumps(json.dumps({"backing": text})) if depth else json.dumps([text])


@pytest.mark.parametrize(
    "text",
    [
        "unix:/run/vm.qmp",
        "tcp:localhost:4444",
        "qemu:///system",
        "qemu+ssh://root@host/system",
        "nbd://host:10809/export",
        "/imgs/a:b@c.qcow2",
        "/imgs/password.qcow2",
        "https://host:8443/a?size=1",
        '{"execute": "blockdev-add", "arguments": {"node-name": "drive0-snap1"}}',
        '{"keyboard": "de", "monkey": "x"}',
        "Could not open '/imgs/x': No such file or directory",
    ],
)
def test_what_is_no_secret_stays_as_it_is(text: str) -> None:
    assert mask(text) == text


def test_what_follows_a_secret_stays() -> None:
    assert mask("https://u:hunter2@host/a?token=hunter2&size=1") == (
        "https://u:***@host/a?token=***&size=1"
    )
    assert mask('{"password": "hunter2", "size": 1}') == '{"password": "***", "size": 1}'
    escaped = json.dumps({"file": json.dumps({"password": 'a"hunter2', "size": 1})})
    kept = json.loads(json.loads(mask(escaped))["file"])
    assert kept == {"password": "***", "size": 1}


def test_every_text_of_a_value_is_masked_and_the_rest_is_as_it_was() -> None:
    value = {"uri": "nbd://u:hunter2@h/x", "n": 1, "more": [None, ("driver=x,secret=hunter2",)]}
    assert masked(value) == {
        "uri": "nbd://u:***@h/x",
        "n": 1,
        "more": [None, ["driver=x,secret=***"]],
    }


def test_a_long_word_takes_no_longer_than_many_short_ones() -> None:
    # With the square of its length this would not come to an end.
    assert mask("://" + 3_000_000 * "x").endswith("xxx")
