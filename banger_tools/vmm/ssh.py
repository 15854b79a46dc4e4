"""The way to a machine's sshd: a forwarded port, its address on the tap network, or one started by the agent.

The guest's host keys are read through the agent, which nobody can stand in for; so ssh never has to ask whether it
knows them, and a port or an address that another machine had before is no trouble.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import shlex
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from banger_tools import errors, files
from banger_tools.agent.client import ANSWER_SECONDS
from banger_tools.store import vms
from banger_tools.vmm import holder, inside, life
from banger_tools.vmm import spec as specs

PORT = 22
_KEYS = ("ed25519", "ecdsa", "rsa")
_KEY_LIMIT = 64 << 10
_MOST_LINKS = 8  # of symlinks one after the other
_POLL = 0.3
_GREETING_SECONDS = 10.0
_LEAST_SECONDS = 0.5  # for the first attempt, when all the time went by before it
# sshd as inetd starts it: on stdin and stdout, so that it needs no network
_SSHD = ("/bin/sh", "-c", "mkdir -p /run/sshd; PATH=$PATH:/usr/sbin:/sbin; exec $(command -v sshd || echo sshd) -i")


class Address(NamedTuple):
    """Where an sshd listens, as seen from this host."""

    host: str
    port: int


def address(record: specs.Record) -> Address | None:
    """Return where a machine's port 22 is to be reached from this host; None if nowhere."""
    if record.process and record.process.network:
        return Address(record.process.network.address.partition("/")[0], PORT)
    for forward in record.spec.forwards:
        if (forward.guest_port, forward.protocol) == (PORT, "tcp"):
            return Address("127.0.0.1" if forward.host == "0.0.0.0" else forward.host, forward.host_port)
    return None


def wait(record: specs.Record, deadline: float) -> None:
    """Wait until a machine's sshd greets; no attempt takes longer than what is left.

    Raises Retry at the deadline (monotonic), Unavailable if the machine ends; it is left alone, to be looked at.
    """
    name, folder = record.spec.name, vms.folder(record.spec.name)
    place = address(record)

    def answers() -> bool:
        left = max(deadline - time.monotonic(), _LEAST_SECONDS)
        return greets(place, min(left, _GREETING_SECONDS)) if place else listens(name, left)

    while not answers():
        if not holder.is_alive(folder):
            raise errors.Unavailable(f"the VM '{name}' ended", life.last_words(folder / specs.CONSOLE))
        if time.monotonic() >= deadline:
            raise errors.Retry(
                f"sshd in the VM '{name}' did not answer in time; the VM runs on",
                f"look at it: banger vm logs {name}, banger vm exec {name}; its log is '{folder / specs.CONSOLE}'",
            )
        time.sleep(min(_POLL, max(deadline - time.monotonic(), 0)))


def greets(place: Address, seconds: float) -> bool:
    """Tell whether an sshd answers there: a monitor accepts connections long before the guest does."""
    with contextlib.suppress(OSError), socket.create_connection(place, seconds) as connection:
        return connection.recv(4) == b"SSH-"
    return False


def listens(name: str, seconds: float) -> bool:
    """Tell whether something in a machine listens on sshd's port."""
    try:
        ports = inside.agent(name).ports(min(seconds, ANSWER_SECONDS))
    except (errors.Retry, errors.CannotCreate):
        return False
    return any((one.protocol, one.port) == ("tcp", PORT) for one in ports)


def host_keys(name: str) -> list[str]:
    """Return the public host keys of a machine's sshd, `TYPE BASE64` each.

    Raises NoInput if there are none: no sshd is installed, or it never started; BadInput if the guest sends none.
    """
    found = []
    for kind in _KEYS:
        with contextlib.suppress(errors.NoInput):
            words = _small_file(name, f"/etc/ssh/ssh_host_{kind}_key.pub").decode("ascii", "replace").split()
            found += [" ".join(words[:2])] if len(words) > 1 else []
    if not found:
        raise errors.NoInput(f"the VM '{name}' has no ssh host key", f"is sshd installed there? banger vm exec {name}")
    return found


def _small_file(name: str, path: str) -> bytes:
    """Return what is in a file of a guest, also by way of symlinks; raises BadInput for all that is none."""
    from banger_tools import tar

    for _ in range(_MOST_LINKS):
        with _archive(name, path) as archive:
            try:
                members = list(tar.members(archive, vouched=False))
            except errors.BadInput as error:
                raise errors.BadInput(f"the VM '{name}' sends no archive of '{path}': {error.message}") from error
            if [member.type for member in members] not in ([tar.FILE], [tar.SYMLINK]):
                raise errors.BadInput(f"'{path}' in the VM '{name}' is no file")
            if members[0].type == tar.FILE:
                return os.pread(archive, min(members[0].size, _KEY_LIMIT), members[0].offset)
        path = posixpath.join(posixpath.dirname(path), os.fsdecode(members[0].link))
    raise errors.BadInput(f"'{path}' in the VM '{name}' is behind too many symlinks")


@contextlib.contextmanager
def _archive(name: str, path: str) -> Iterator[int]:
    """Yield a descriptor of what the guest sends of a path, which is as small as a key."""
    with open(os.memfd_create("key"), "r+b", buffering=0) as file:
        for piece in inside.agent(name).get_files(path):
            file.write(piece)
            if file.tell() > _KEY_LIMIT:
                raise errors.BadInput(f"'{path}' in the VM '{name}' is too large for a key")
        yield file.fileno()


def known_hosts(name: str) -> Path:
    """Write down which host keys a machine has, in its folder, and return that file."""
    path = vms.folder(name) / "known_hosts"
    text = "".join(f"{name} {key}\n" for key in host_keys(name))
    files.write_text(path, text, force=True, mode=0o600)
    return path


def quoted(path: str, rest: str = "") -> str:
    """Return a path, and what follows it as ssh is to read it, as a word of ssh's configuration.

    Raises Unavailable for a path that ssh knows no way to write.
    """
    if any(character in path for character in '"\\\n') or "${" in path:
        raise errors.Unavailable(f"ssh cannot be told of the folder '{path}'", "set BANGER_HOME to another one")
    return f'"{path.replace("%", "%%")}{rest}"'


def command(record: specs.Record, known: Path, user: str, options: Sequence[str], words: Sequence[str]) -> list[str]:
    """Return the arguments of ssh that lead into a machine and run words: one is a shell's, several are argv."""
    name, place = record.spec.name, address(record)
    settings = {
        "HostKeyAlias": name,
        "UserKnownHostsFile": quoted(str(known)),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "CheckHostIP": "no",
    }
    if place is None:
        settings["ProxyCommand"] = _proxy(name)
    given = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
    port = ["-p", str(place.port)] if place else []
    remote = list(words) if len(words) < 2 else [shlex.join(words)]
    return [*given, *port, *options, "-l", user, "--", place.host if place else name, *remote]


def relay(name: str) -> list[str]:
    """Return the command line of a program that is the way to a machine's sshd on its stdin and stdout."""
    return [sys.executable, "-P", "-m", "banger_tools.banger", "-q", "vm", "exec", "--no-tty", name, *_SSHD]


def _proxy(name: str) -> str:
    return shlex.join(relay(name)).replace("%", "%%")
