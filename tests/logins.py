"""What tests of machines with an sshd share: keys, ports, and the host's own ssh."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from tests import support

SECONDS = 900.0  # for a machine without KVM on a host that does much else


def key(path: Path) -> Path:
    """Make a key and return the path of its private half; the public one stands beside it."""
    support.need("ssh-keygen", "ssh")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", path], check=True)
    return path


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    assert isinstance(port, int)
    return port


class Door(NamedTuple):
    """Where an sshd is to be reached, and the file in which its host key is remembered."""

    port: int
    known_hosts: Path

    def ssh(self, private: Path, *command: str, **options: str) -> subprocess.CompletedProcess[str]:
        """Run ssh once, as root."""
        settings = {
            "UserKnownHostsFile": str(self.known_hosts),
            "StrictHostKeyChecking": "accept-new",
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
            "ConnectTimeout": "120",
            "LogLevel": "ERROR",
            **options,
        }
        words = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        argv = ["ssh", "-F", "none", "-i", str(private), "-p", str(self.port), *words, "root@127.0.0.1", *command]
        return subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)

    def login(self, private: Path, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command over ssh as soon as sshd is there; one that refuses is no reason to wait."""
        deadline = time.monotonic() + SECONDS
        while True:
            done = self.ssh(private, *command)
            if done.returncode != 255 or "denied" in done.stderr or time.monotonic() > deadline:
                return done
            time.sleep(1)
