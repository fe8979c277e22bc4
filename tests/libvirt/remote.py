"""Ways to a libvirtd that lead through the network, on loopback: ssh and TLS."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlencode

from snapkit.lab.keeping import KeptProgram
from snapkit.lab.libvirtd import free_directory
from tests.conftest import SECONDS, wait_until
from tests.libvirtd import PrivateLibvirt

__all__ = ["ELSEWHERE", "HERE", "Remote", "Ssh", "Tls", "remote"]

HERE, ELSEWHERE = "127.0.0.1", "127.0.0.2"
"""Two names of this host. Only the first says so."""
_PRIVILEGE_SEPARATION = Path("/run/sshd")
_EXTENSIONS = f"""\
subjectAltName=IP:{ELSEWHERE}
extendedKeyUsage=serverAuth,clientAuth
keyUsage=digitalSignature,keyEncipherment
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HERE, 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HERE, port)) == 0


def _run(*command: str | Path) -> None:
    subprocess.run([*map(str, command)], check=True, capture_output=True, timeout=SECONDS)


class Ssh:
    """An sshd that lets one key in, and a client that reads nobody's settings.

    ``command`` is that client. Another user's key, ``stranger``, is not let in.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = _free_port()
        for name in ("host", "client", "stranger"):
            _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name)
        shutil.copy(directory / "client.pub", directory / "authorized")
        self.command = directory / "ssh"
        self._write_settings()
        self._made = self._make_privilege_separation()
        # Only by its whole path sshd can start itself anew for each client.
        program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
        assert program, "missing: sshd; run: apt-get install openssh-server netcat-openbsd"
        with (directory / "sshd.log").open("wb") as log:
            self.process = subprocess.Popen(
                [program, "-D", "-e", "-f", str(directory / "sshd_config")], stderr=log
            )
        wait_until(lambda: _listens(self.port), "sshd listens")

    def _write_settings(self) -> None:
        place = self.directory
        (place / "sshd_config").write_text(
            f"Port {self.port}\n"
            f"ListenAddress {HERE}\n"
            f"ListenAddress {ELSEWHERE}\n"
            f"HostKey {place}/host\n"
            f"AuthorizedKeysFile {place}/authorized\n"
            "StrictModes no\nUsePAM no\nPasswordAuthentication no\nPidFile none\n"
        )
        host_key = " ".join((place / "host.pub").read_text().split()[:2])
        hosts = (f"[{host}]:{self.port} {host_key}\n" for host in (HERE, ELSEWHERE))
        (place / "known").write_text("".join(hosts))
        (place / "ssh_config").write_text(f"UserKnownHostsFile {place}/known\n")
        self.command.write_text(f'#!/bin/sh\nexec ssh -F {place}/ssh_config "$@"\n')
        self.command.chmod(0o755)

    @staticmethod
    def _make_privilege_separation() -> bool:
        """Root's sshd wants an empty directory, which the service makes where one runs."""
        if os.geteuid() != 0 or _PRIVILEGE_SEPARATION.exists():
            return False
        _PRIVILEGE_SEPARATION.mkdir(mode=0o755)
        return True

    def forget_host(self) -> None:
        """The client knows no host's key any more."""
        (self.directory / "known").write_text("")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(SECONDS)
        if self._made:
            with suppress(OSError):
                _PRIVILEGE_SEPARATION.rmdir()


class Tls:
    """An authority, and certificates of it for a daemon and for a client in ``directory``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = _free_port()
        self._authority()
        for name in ("server", "client"):
            self._certify(name)
        self.settings = directory / "libvirtd.conf"
        self.settings.write_text(
            "listen_tls = 1\nlisten_tcp = 0\n"
            f'listen_addr = "{ELSEWHERE}"\n'
            f'tls_port = "{self.port}"\n'
            f'key_file = "{directory}/serverkey.pem"\n'
            f'cert_file = "{directory}/servercert.pem"\n'
            f'ca_file = "{directory}/cacert.pem"\n'
        )
        for path in directory.iterdir():
            path.chmod(0o644)

    def _authority(self) -> None:
        key, certificate = self.directory / "ca.key", self.directory / "cacert.pem"
        new = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2")
        _run("openssl", *new, "-subj", "/CN=authority", "-keyout", key, "-out", certificate)

    def _certify(self, name: str) -> None:
        place = self.directory
        request, extensions = place / f"{name}.csr", place / "extensions"
        extensions.write_text(_EXTENSIONS)
        new = ("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}")
        _run("openssl", *new, "-keyout", place / f"{name}key.pem", "-out", request)
        signed = ("-CA", place / "cacert.pem", "-CAkey", place / "ca.key", "-CAcreateserial")
        how = ("-in", request, *signed, "-days", "2", "-extfile", extensions)
        _run("openssl", "x509", "-req", *how, "-out", place / f"{name}cert.pem")


class Remote:
    """A libvirtd that is reached by its socket, through ssh, and over TLS."""

    def __init__(self, kept: KeptProgram, place: Path) -> None:
        pki = kept.directory / "pki"
        pki.mkdir(mode=0o755)
        self.tls = Tls(pki)
        self.daemon = PrivateLibvirt(kept, "--listen", "--config", str(self.tls.settings))
        self.ssh = Ssh(place)

    def through_ssh(self, host: str = HERE, key: str = "client") -> str:
        """The URI through ssh."""
        _, _, socket_path = self.daemon.uri.partition("socket=")
        told = {
            "socket": socket_path,
            "keyfile": str(self.ssh.directory / key),
            "command": str(self.ssh.command),
        }
        return f"qemu+ssh://{host}:{self.ssh.port}/session?{urlencode(told, safe='/')}"

    def over_tls(self, pki: Path | None = None) -> str:
        """The URI over TLS. ``pki`` is where the client's certificate is."""
        where = f"{ELSEWHERE}:{self.tls.port}"
        return f"qemu+tls://{where}/session?pkipath={pki or self.tls.directory}"


@contextmanager
def remote() -> Iterator[Remote]:
    """All of it, there within the block. Nothing is left afterwards."""
    with ExitStack() as stack:
        kept = KeptProgram(free_directory())
        stack.callback(kept.end)
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="snapkit-test-"))
        world = Remote(kept, Path(place))
        stack.callback(world.ssh.close)
        yield world
