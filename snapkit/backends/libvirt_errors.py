"""libvirt's errors as snapkit's: what was refused, about which device, and what cures it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from snapkit.printable import printable
from snapkit.script import Overlay

__all__ = ["blamed", "connecting", "explained", "foreign"]

_WORDS = 1000
"""Characters of libvirt's own words that are passed on."""

_FOR_DISK = re.compile(r"\bdisk '?([\w:.-]+)'?")

_DRIVERS = frozenset(("qemu", "test"))
"""Drivers with QEMU's disks, and libvirt's own for tests."""

_NO_CONNECTION = {
    # Where and how to connect.
    r"no connection driver available|unsupported URI scheme": """
        look at the address, or install libvirt-daemon-driver-qemu
    """,
    r"transport in URL not recognised": """
        write qemu+ssh://HOST/system, or another of these transports
    """,
    r"for 'ext' transport, command is required": """
        add ?command=PROGRAM to the address
    """,
    r"using unix socket and remote server": """
        leave the host out, or write qemu+ssh://HOST/system
    """,
    r"too long for unix socket": """
        make a link to the socket in a directory with a short name (107 bytes at most)
    """,
    # TLS
    r"Cannot read (CA )?certificate|Cannot read private key|Unable to (set|import) .*cert": """
        put the certificate where libvirt looks for it, name another directory with
        ?pkipath=DIRECTORY, or connect by qemu+ssh://HOST/system
    """,
    r"certificate|TLS": """
        look at cacert.pem, clientcert.pem and clientkey.pem where libvirt looks for them or
        ?pkipath=DIRECTORY says (virt-pki-validate): both sides need a certificate of an
        authority that the other knows, the host's for the name that the address has; or
        connect by qemu+ssh://HOST/system
    """,
    # ssh, whose words come with libvirt's "Cannot recv data"
    r"Host key verification failed": """
        go there once by hand (ssh HOST) and look at its key, which puts it into known_hosts
    """,
    r"Permission denied \([\w,-]*(publickey|password|keyboard|gssapi|hostbased)": """
        give ssh a key that the host accepts (ssh-copy-id HOST), or add ?keyfile=FILE to the
        address: nobody is asked for a password
    """,
    r"ssh: |Unable to resolve address|Name or service not known": """
        look at the host's name, and whether it answers (ssh HOST)
    """,
    r"cannot execute binary": """
        install that program (ssh is in openssh-client)
    """,
    r"command not found|virt-ssh-helper|netcat|\bnc: ": """
        install libvirt's daemon on that host, with its virt-ssh-helper
    """,
    r"unable to connect to server at": """
        have a libvirt daemon listen there (systemctl start libvirtd-tls.socket), or connect by
        qemu+ssh://HOST/system
    """,
    r"Cannot recv data|End of file while reading": """
        look whether libvirt runs there (ssh HOST virsh list)
    """,
    # A driver inside of this process
    r"Missing URI parameter 'root'|root path must be absolute": """
        write qemu:///embed?root=/a/directory/of/your/own
    """,
    r"Failed to acquire pid file": """
        end the other process that has this root: it may have one at a time
    """,
    r"Failed to parse (user|group) 'libvirt-qemu'": """
        do it as an ordinary user, or install libvirt-daemon-system, which makes the user that
        QEMU then runs as
    """,
    r"Failed to create (state|lib|cache|log|snapshot|config)\w* ?dir": """
        choose a root in which this user may write
    """,
    r"state driver is not active": """
        start this process (the notebook's kernel) anew: the driver has failed in it before, and
        is not tried again
    """,
    # A daemon of this host
    r"Failed to connect socket to '(/var)?/run/libvirt/virtqemud.*(No such file|refused)": """
        start libvirt's daemon (systemctl start virtqemud.socket), or look at the address
    """,
    r"Failed to connect socket to '(/var)?/run/libvirt/.*(No such file|refused)": """
        start libvirt's daemon (systemctl start libvirtd), or look at the address
    """,
    r"Failed to connect socket.*(No such file|refused)": """
        start libvirt's daemon that listens there, or look at the address
    """,
    r"Failed to connect socket.*Permission denied": """
        join the group of that socket (libvirt), or connect as its user
    """,
    r"Cannot create user runtime directory|Unable to create lock": """
        set XDG_RUNTIME_DIR to a directory of this user
    """,
    r"Cannot find '?(libvirtd|virtqemud)|Unable to (find|locate) '?(libvirtd|virtqemud)": """
        install libvirt-daemon and libvirt-daemon-driver-qemu
    """,
    r"system bus": """
        start D-Bus, which polkit is asked through, or set auth_unix_rw = "none" in libvirtd.conf
    """,
}
"""What libvirt says where there is no connection, and what to do. The first that fits counts."""

_CURES = {
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
        choose another name, or none: then a new plan takes a free one
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
"""What libvirt says of work on a domain, and what to do about it. The first that fits counts."""

_ACCESS = {words: cure for words, cure in _CURES.items() if "polkit" in words}


def explained(text: str) -> str:
    """Libvirt's words with what to do about it, where that is known."""
    return _with_cure(text, _CURES)


def connecting(uri: str, text: str) -> str:
    """Why there is no connection to a libvirt, and what to do."""
    reason = _with_cure(text, {**_NO_CONNECTION, **_ACCESS})
    return f"There is no connection to {printable(uri)}: {reason}."


def foreign(uri: str) -> str:
    """Why an address is none of a QEMU's, and how those are written; empty if it may be one.

    Nobody need be asked for that: libvirt takes what it does not know to its system's daemon.
    """
    scheme = uri.partition("://")[0].partition("+")[0].lower()
    if scheme in _DRIVERS:
        return ""
    return (
        f"There is no connection to {printable(uri)}: {printable(scheme)} is no address of QEMU's "
        "domains. Write qemu:///system, qemu:///session or qemu+ssh://HOST/system."
    )


def _with_cure(text: str, cures: Mapping[str, str]) -> str:
    said = printable(_one_line(text), _WORDS).rstrip(".")
    cure = next((cure for words, cure in cures.items() if re.search(words, text)), "")
    return f"{said}. To cure it, {' '.join(cure.split())}" if cure else said


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
