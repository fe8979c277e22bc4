"""What only some backends can do, as one table. Pure."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ABILITIES", "Ability", "of"]


@dataclass(frozen=True, slots=True)
class Ability:
    """One thing that not every backend can do. ``backends`` are those that can.

    ``otherwise`` says what the others do instead, or how they refuse.
    """

    name: str
    what: str
    backends: frozenset[str]
    otherwise: str


_QMP, _LIBVIRT = frozenset(("qmp",)), frozenset(("libvirt",))

ABILITIES: tuple[Ability, ...] = (
    Ability(
        "classic",
        "engine='classic': one blockdev-snapshot-sync a disk creates and switches",
        _QMP,
        "refused by the check 'engine': libvirt prepares overlays itself",
    ),
    Ability(
        "mixed modes",
        "one snapshot with new overlays for some disks and existing ones for others",
        _QMP,
        "refused by the check 'mode': libvirt has one flag (REUSE_EXT) for all disks",
    ),
    Ability(
        "exports",
        "disks of a qemu-storage-daemon, which has no guest",
        _QMP,
        "libvirt knows only VMs",
    ),
    Ability(
        "looking through QEMU",
        "files that are not this host's are looked at with QEMU's own eyes",
        _QMP,
        "a warning of the check 'visible'; mode='existing' is refused",
    ),
    Ability(
        "domains",
        "many VMs at one address, by name, uuid or id",
        _LIBVIRT,
        "a monitor is one VM's own; a domain is refused",
    ),
    Ability(
        "several clients",
        "several clients at once, and connections that can only read",
        _LIBVIRT,
        "a monitor serves one client at a time",
    ),
    Ability(
        "metadata",
        "vm.snapshots(), and the options name, description and metadata of a plan",
        _LIBVIRT,
        "refused: QEMU remembers no snapshots",
    ),
    Ability(
        "ownership",
        "overlays are given to QEMU's user, and labelled, by the VM's manager",
        _LIBVIRT,
        "QEMU makes a file that this user could not give to it",
    ),
)


def of(backend: str) -> frozenset[str]:
    """The names of what a backend (``qmp``, ``libvirt``) can do."""
    return frozenset(ability.name for ability in ABILITIES if backend in ability.backends)
