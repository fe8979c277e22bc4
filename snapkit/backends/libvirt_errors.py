"""libvirt's errors as snapkit's: what was refused, about which device, and what cures it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from snapkit.printable import printable
from snapkit.script import Overlay

__all__ = ["blamed", "connecting", "explained"]

_WORDS = 1000
"""Characters of libvirt's own words that are passed on."""

_FOR_DISK = re.compile(r"\bdisk '?([\w:.-]+)'?")

_CURES = {
    r"no connection driver available|unsupported URI scheme": """
        look at the address, or install libvirt-daemon-driver-qemu
    """,
    r"virtlogd": """
        start virtlogd, or set stdio_handler = "file" in libvirt's qemu.conf
    """,
    r"Host key verification failed": """
        go there with ssh once and accept the host's key, which puts it into known_hosts
    """,
    r"Permission denied \((publickey|password|keyboard|gssapi)": """
        have your key let in there (ssh-copy-id), or name another with keyfile= in the address
    """,
    r"certificate|TLS": """
        look at cacert.pem, clientcert.pem and clientkey.pem in the directory that pkipath= in
        the address names: both sides need certificates of an authority that the other knows
    """,
    r"authentication (failed|unavailable|cancelled)|polkit|access denied by policy": """
        join the group that may manage VMs (libvirt), or have polkit allow
        org.libvirt.unix.manage
    """,
    r"Failed to connect socket.*(No such file|Connection refused)": """
        start libvirt's daemon (systemctl start libvirtd), or look at the address
    """,
    r"Failed to connect socket.*Permission denied": """
        join the group of that socket (libvirt), or connect as its user
    """,
    r"Could not access KVM|/dev/kvm|does not support virt type 'kvm'": """
        let QEMU's user open /dev/kvm (chgrp kvm /dev/kvm; chmod 660 /dev/kvm), or use
        <domain type='qemu'>
    """,
    r"[Aa]pp[Aa]rmor": """
        choose a directory that libvirt's AppArmor profile allows, such as the disk's own, or
        add it to /etc/apparmor.d/local/abstractions/libvirt-qemu
    """,
    r"Permission denied": """
        let QEMU's user enter the directory and write there, or choose the disk's own directory;
        where the rights are right, look for AppArmor's refusals (journalctl -k)
    """,
    r"read.only access prevents": """
        connect as a user who may manage VMs
    """,
    r"domain (moment|snapshot) .* already exists": """
        make the plan again, which takes a free name
    """,
    r"no disk named '/": """
        make the plan again, for the disk is on another image now
    """,
    r"already exists and is not (a block device|empty)": """
        choose a name that is free
    """,
    r"missing existing file": """
        create it beforehand, or use mode='absolute-paths'
    """,
    r"cannot acquire state change lock|another job": """
        wait until what else works on the domain has ended
    """,
    r"No such file or directory": """
        create the directory, where QEMU runs
    """,
    r"No space left": """
        make room there, or choose another place
    """,
}
"""What libvirt says, and what to do about it. The first that fits counts."""


def explained(text: str) -> str:
    """Libvirt's words with what to do about it, where that is known."""
    said = printable(_one_line(text), _WORDS).rstrip(".")
    cure = next((cure for words, cure in _CURES.items() if re.search(words, text)), "")
    return f"{said}. To cure it, {' '.join(cure.split())}" if cure else said


def connecting(uri: str, text: str) -> str:
    """Why there is no connection to a libvirt, and what to do."""
    return f"There is no connection to {printable(uri)}: {explained(text)}."


def _one_line(text: str) -> str:
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())


def blamed(text: str, overlays: Sequence[Overlay], known: Iterable[str]) -> str:
    """The device that libvirt's words are about; empty where they name none.

    ``known`` are the names of the domain's disks.
    """
    names = set(known)
    for match in _FOR_DISK.finditer(text):
        if match[1] in names:
            return match[1]
    for overlay in overlays:
        if any(file and f"'{file}'" in text for file in (overlay.file, overlay.backing_file)):
            return overlay.device
    # A file's name may stand there without quotes, and be the beginning of another's.
    found = [overlay for overlay in overlays if overlay.file and overlay.file in text]
    return max(found, key=lambda overlay: len(overlay.file)).device if found else ""
