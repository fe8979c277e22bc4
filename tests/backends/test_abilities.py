"""The table of what only some backends can do."""

from __future__ import annotations

from snapkit.backends import abilities
from snapkit.backends.libvirt import LibvirtBackend
from snapkit.backends.qmp import QmpBackend

BACKENDS = {"qmp": QmpBackend.abilities, "libvirt": LibvirtBackend.abilities}


def test_every_backend_has_what_the_table_says() -> None:
    for name, has in BACKENDS.items():
        assert has == {x.name for x in abilities.ABILITIES if name in x.backends}
        assert has


def test_what_every_backend_can_do_is_not_in_the_table() -> None:
    for ability in abilities.ABILITIES:
        assert 0 < len(ability.backends) < len(BACKENDS)
        assert ability.backends <= BACKENDS.keys()
        assert ability.what
        assert ability.otherwise
