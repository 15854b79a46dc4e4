"""What a virtual machine is made of: the record in its folder, and the words of the command line that shape it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from banger_tools import errors
from banger_tools.net.attachment import Attachment
from banger_tools.vmm import holder

SCHEMA = "banger-vm/1"
RECORD, IMAGE = "vm.json", "image.json"
KERNEL = "kernel"
ROOT_DISK, WORK_DISK, CONFIG_DISK, CONSOLE = "root.ext4", "work.ext4", "config.img", holder.CONSOLE
OVERLAY, BASE_DISK = "root.qcow2", "base.ext4"  # a root disk that holds only what differs from its base
NETWORKS = ("user", "tap", "none")
MOST_CPUS = 255
LEAST_MEMORY = 64 << 20


class Forward(Struct, frozen=True):
    """A port of the host that leads to one of the guest."""

    host_port: int
    guest_port: int
    host: str = "127.0.0.1"
    protocol: str = "tcp"


class Boot(Struct, frozen=True):
    """What is booted: absolute paths (`vmlinuz`: the same as a bzImage), and words for the kernel's command line.

    In the record's file, what lies beside it is named from there.
    `name` is that of the kernel in the store, '' if it is not of there.
    """

    kernel: str
    vmlinuz: str | None = None
    initrd: str | None = None
    append: str = ""
    name: str = ""


class GitIdentity(Struct, frozen=True):
    """Who makes the commits of a machine's root."""

    name: str
    email: str


class Guest(Struct, frozen=True):
    """What the guest is told on its config disk, besides its name and its disks."""

    argv: list[str] = []
    env: list[str] = []
    user: str = ""
    cwd: str = "/"
    ssh_keys: list[str] = []
    git: GitIdentity | None = None
    run: bool = False
    read_only: bool = False


class Limits(Struct, frozen=True, omit_defaults=True):
    """What a machine may take of the host each second; None: as much as it gets.

    By each of its disks, and in each direction of its network.
    """

    disk_bytes: int | None = None
    disk_operations: int | None = None
    net_bytes: int | None = None


class Spec(Struct, frozen=True):
    """A virtual machine as it was asked for; `memory` is in bytes, `id` is a UUID that no other one has.

    `nat` lets a machine on a tap reach what the host reaches; `jail` puts its monitor into a jail of its own.
    """

    id: str
    name: str
    image: str
    architecture: str
    vmm: str
    cpus: int
    memory: int
    net: str
    boot: Boot
    guest: Guest
    forwards: list[Forward] = []
    nat: bool = False
    jail: bool = False
    limits: Limits = Limits()


class Process(Struct, frozen=True):
    """One run of the monitor: its process id, and when that started, so that an id used again is not mistaken for it.

    `machine` is what it runs in the monitor's own words, `cid` the guest's vsock address if it is reached by that,
    `token` what its agent then asks for.
    """

    pid: int
    start_time: int
    boot_id: str
    accelerator: str
    machine: str
    cid: int | None = None
    network: Attachment | None = None
    token: str | None = None


class Record(Struct, frozen=True):
    """What vm.json holds: the spec, and the run that was started and not yet cleaned up after.

    `address` is the one on the tap network that the machine had last.
    """

    schema: str
    spec: Spec
    process: Process | None = None
    boot_seconds: float | None = None
    address: str | None = None


class Disk(NamedTuple):
    """A disk as a monitor gets it: a file in the machine's folder, its format (raw or qcow2)."""

    file: str
    format: str
    read_only: bool


def disks(folder: Path, guest: Guest) -> list[Disk]:
    """Return the disks of a machine in the order in which its guest names them: root, work if there is one, config."""
    overlaid = (folder / OVERLAY).exists()
    root = Disk(OVERLAY, "qcow2", guest.read_only) if overlaid else Disk(ROOT_DISK, "raw", guest.read_only)
    work = [Disk(WORK_DISK, "raw", False)] if (folder / WORK_DISK).exists() else []
    return [root, *work, Disk(CONFIG_DISK, "raw", True)]


def parse_forward(text: str) -> Forward:
    """Return the port forward `[ADDRESS:]PORT:GUESTPORT[/tcp|/udp]`; the address is 127.0.0.1 unless given.

    Raises BadUsage.
    """
    match = re.fullmatch(r"(?:(\d+\.\d+\.\d+\.\d+):)?(\d+):(\d+)(?:/(tcp|udp))?", text)
    if match is None:
        raise errors.BadUsage(f"--publish: '{text}' is no port forward", "write HOSTPORT:GUESTPORT, as in 8080:80")
    host, host_port, guest_port, protocol = match.groups()
    ports = int(host_port), int(guest_port)
    if not all(0 < port < 65536 for port in ports):
        raise errors.BadUsage(f"--publish: '{text}' has a port that is not 1 to 65535")
    return Forward(*ports, _address(host or "127.0.0.1", text), protocol or "tcp")


def parse_forwards(texts: list[str]) -> list[Forward]:
    """Return port forwards of which no two begin at the same port; raises BadUsage."""
    forwards = [parse_forward(text) for text in texts]
    for number, forward in enumerate(forwards):
        if any(same_port(forward, other) for other in forwards[:number]):
            raise errors.BadUsage(f"--publish: port {forward.host_port} is given twice")
    return forwards


def same_port(one: Forward, other: Forward) -> bool:
    """Tell whether two forwards cannot be there at the same time."""
    if (one.host_port, one.protocol) != (other.host_port, other.protocol):
        return False
    return one.host == other.host or "0.0.0.0" in (one.host, other.host)


def _address(host: str, text: str) -> str:
    if any(int(part) > 255 for part in host.split(".")):
        raise errors.BadUsage(f"--publish: '{text}' has an address that is none")
    return host


def refuse_taken_ports(forwards: list[Forward]) -> None:
    """Raise CannotCreate if somebody listens on a port of the host, or Denied if this user may not."""
    import socket

    for forward in forwards:
        kind = socket.SOCK_STREAM if forward.protocol == "tcp" else socket.SOCK_DGRAM
        with socket.socket(socket.AF_INET, kind) as listener:
            try:
                if kind == socket.SOCK_STREAM:  # connections that linger take no port; with UDP it would share one
                    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((forward.host, forward.host_port))
                if kind == socket.SOCK_STREAM:
                    listener.listen(1)
            except PermissionError as error:
                raise errors.os_error(error, f"--publish: port {forward.host_port}") from error
            except OSError as error:
                raise errors.CannotCreate(f"--publish: port {forward.host_port}: {errors.reason(error)}") from error


def parse_cpus(text: str) -> int:
    """Return a number of virtual CPUs; raises BadUsage."""
    if not re.fullmatch(r"\d{1,4}", text) or not 0 < int(text) <= MOST_CPUS:
        raise errors.BadUsage(f"--cpus: '{text}' is not 1 to {MOST_CPUS}")
    return int(text)


def parse_memory(text: str) -> int:
    """Return a size of memory in bytes, whole mebibytes; raises BadUsage, also if the host has less."""
    import os

    from banger_tools import sizes

    size = sizes.parse(text, "--memory") >> 20 << 20
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size < LEAST_MEMORY:
        raise errors.BadUsage(f"--memory: '{text}' is less than {sizes.show(LEAST_MEMORY)}")
    if size > there:
        raise errors.BadUsage(f"--memory: '{text}' is more than this host has ({sizes.show(there)})")
    return size


def parse_limits(disk: str | None, operations: str | None, net: str | None) -> Limits:
    """Return the limits that --limit-disk, --limit-iops and --limit-net give; raises BadUsage."""
    from banger_tools import sizes

    if operations is not None and not (re.fullmatch(r"\d{1,9}", operations) and int(operations)):
        raise errors.BadUsage(f"--limit-iops: '{operations}' is no number of operations each second")
    return Limits(
        sizes.parse(disk, "--limit-disk") if disk is not None else None,
        int(operations) if operations is not None else None,
        sizes.parse(net, "--limit-net") if net is not None else None,
    )


def overridden(guest: Guest, user: str | None, cwd: str | None) -> Guest:
    """Return what a guest is told with another user and folder for its command, where they are given."""
    from msgspec import structs

    return structs.replace(guest, user=guest.user if user is None else user, cwd=guest.cwd if cwd is None else cwd)


def parse_timeout(text: str) -> float:
    """Return a number of seconds; raises BadUsage."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 86400:
        raise errors.BadUsage(f"--timeout: '{text}' is not a number of seconds")
    return value


def parse_environment(words: list[str]) -> list[str]:
    """Return `NAME=VALUE` words as they are, after checking them; raises BadUsage."""
    for word in words:
        name, equals, _ = word.partition("=")
        if not equals or not name or "\0" in word:
            raise errors.BadUsage(f"--env: '{word}' is not NAME=VALUE")
    return words


def read_ssh_key(path: Path) -> list[str]:
    """Return the public keys in a file; raises BadInput if there is none, a line is none, or it is a private one."""
    from banger_tools import files
    from banger_tools.guest import ssh

    keys = ssh.parse_keys(files.read_small(path, 1 << 16, "a public key"), str(path))
    return [key.decode("utf-8", "replace") for key in keys]  # what is no UTF-8 is in a comment
