"""A real sshd on loopback, with keys of its own and a configuration for the client."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SERVER = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/authorized
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
SetEnv TMPDIR={device}
{more}
"""

CLIENT = """\
Host *
  User {user}
  IdentityFile {folder}/{key}
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known
  GlobalKnownHostsFile /dev/null
"""


@dataclass(frozen=True)
class Server:
    """A running sshd."""

    port: int
    folder: Path
    """Keys and configurations."""
    device: Path
    """The server's TMPDIR: what a bench leaves on the device would lie here."""

    @property
    def target(self) -> str:
        return f"ssh:{getpass.getuser()}@127.0.0.1:{self.port}"

    def client(self, key: str = "user") -> Path:
        """An ssh configuration that offers one key and knows the hosts in `known`."""
        path = self.folder / f"config-{key}"
        path.write_text(CLIENT.format(user=getpass.getuser(), folder=self.folder, key=key))
        return path

    def know_host(self, key: str = "host") -> None:
        """Make the client trust a host key for this server's address."""
        public = (self.folder / f"{key}.pub").read_text()
        (self.folder / "known").write_text(f"[127.0.0.1]:{self.port} {public}")


def make_key(path: Path) -> None:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(command, check=True, timeout=60)


@contextlib.contextmanager
def running_sshd(folder: Path, more: str = "") -> Iterator[Server]:
    """Start an sshd as this user on a free port; the client trusts its host key."""
    sshd = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    assert sshd is not None, "sshd is missing; install it with: apt install openssh-server"
    if os.geteuid() == 0:
        # Only root's sshd separates privileges, and wants this folder of the system's.
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    device = folder / "device"
    device.mkdir()
    for name in ("host", "user"):
        make_key(folder / name)
    shutil.copyfile(folder / "user.pub", folder / "authorized")
    for _ in range(5):
        port = free_port()
        config = folder / "sshd_config"
        config.write_text(SERVER.format(port=port, folder=folder, device=device, more=more))
        with (folder / "sshd.log").open("wb") as log:
            process = subprocess.Popen([sshd, "-D", "-e", "-f", str(config)], stderr=log)
        try:
            if wait_for(port, process):
                server = Server(port, folder, device)
                server.know_host()
                yield server
                return
        finally:
            process.terminate()
            process.wait(10)
    raise AssertionError(f"sshd did not start: {(folder / 'sshd.log').read_text()}")


def free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes]) -> bool:
    for _ in range(200):
        if process.poll() is not None:
            return False
        with contextlib.suppress(OSError), contextlib.closing(socket.socket()) as probe:
            probe.connect(("127.0.0.1", port))
            return True
        time.sleep(0.05)
    return False


def stub(path: Path, text: str) -> str:
    """An executable script on the device."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)
