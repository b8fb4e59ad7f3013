"""Puts real servers on the peers: HTTP with one file, sshd, and an echo over TCP and UDP."""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from orchestrator.core.errors import OrchestratorError
from orchestrator.lab import serve
from orchestrator.lab.host import Host
from orchestrator.lab.namespaces import bind

SSH_PORT: Final = 22
SSH_LOGIN: Final = "lab"
"""root by another name, with a key and no password; known on the peers only."""


@dataclass(frozen=True, slots=True)
class Peers:
    file: Path
    """What every peer serves as /file."""
    file_bytes: int
    sha256: str
    """Of the file, in hexadecimal."""
    ssh_config: Path
    """For `ssh -F`: knows the login, its key and the host keys."""

    @staticmethod
    def url(address: object) -> str:
        """Where the peer with this address serves the file."""
        text = str(address)
        return f"http://[{text}]/file" if ":" in text else f"http://{text}/file"


def start_peers(hosts: Sequence[Host], folder: Path, file_bytes: int) -> Peers:
    """Starts the servers; they answer when this returns. Raises OrchestratorError."""
    folder = folder / "peers"
    folder.mkdir(exist_ok=True)
    file = folder / "file"
    content = serve.content(file_bytes)
    file.write_bytes(content)
    ssh_config = _write_ssh_files(folder)
    processes = [_start(host, folder, file) for host in hosts]
    for host, process in zip(hosts, processes, strict=True):
        # One line when all its sockets listen; nothing when it died.
        if process.stdout is None or process.stdout.readline() != serve.READY:
            raise OrchestratorError(f"{host.name} serves nothing; see {host.folder}")
        process.stdout.close()
    return Peers(file, file_bytes, sha256(content).hexdigest(), ssh_config)


def _start(host: Host, folder: Path, file: Path) -> "subprocess.Popen[bytes]":
    host.inside(Path("/run/sshd").mkdir, exist_ok=True)
    host.inside(bind, folder / "passwd", Path("/etc/passwd"))
    host.popen(["/usr/sbin/sshd", "-D", "-e", "-f", str(folder / "sshd_config")])
    return host.spawn_python(serve.__name__, str(file), stdout=subprocess.PIPE)


def _write_ssh_files(folder: Path) -> Path:
    for name in ("host_key", "login_key"):
        if not (folder / name).exists():
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)],
                check=True,
            )
    shutil.copy(folder / "login_key.pub", folder / "authorized_keys")
    (folder / "passwd").write_text(
        Path("/etc/passwd").read_text() + f"{SSH_LOGIN}:*:0:0::/root:/bin/sh\n"
    )
    (folder / "known_hosts").write_text(f"* {(folder / 'host_key.pub').read_text()}")
    (folder / "sshd_config").write_text(
        f"Port {SSH_PORT}\n"
        f"HostKey {folder / 'host_key'}\n"
        f"AuthorizedKeysFile {folder / 'authorized_keys'}\n"
        f"AllowUsers {SSH_LOGIN}\n"
        "AuthenticationMethods publickey\n"
        "PermitRootLogin prohibit-password\n"
        "StrictModes no\n"  # the lab's folder may belong to whoever started the lab
        "UseDNS no\n"
        "UsePAM no\n"
    )
    config = folder / "ssh_config"
    config.write_text(
        "Host *\n"
        f"    User {SSH_LOGIN}\n"
        f"    IdentityFile {folder / 'login_key'}\n"
        "    IdentitiesOnly yes\n"
        f"    UserKnownHostsFile {folder / 'known_hosts'}\n"
        "    StrictHostKeyChecking yes\n"
        "    BatchMode yes\n"
    )
    return config
