"""The seed's domain, and snapkit connected to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import snapkit
from tests.libvirt.world import Seed
from tests.libvirtd import PrivateLibvirt


@pytest.fixture
def seed(libvirt: PrivateLibvirt) -> Seed:
    """The seed's domain, paused."""
    return Seed(libvirt)


@pytest.fixture
def vm(seed: Seed) -> Iterator[snapkit.VirtualMachine]:
    """snapkit, connected to the seed's domain."""
    with snapkit.connect(seed.uri, seed.name) as connected:
        yield connected
