"""Firecracker's jailer: a root folder, a user, and where the host has them cgroups, for one machine alone.

What Firecracker needs gets a second name (a hard link) in the jail; what it writes belongs to the jail's user
meanwhile, all else to root. The user is one of a private range that no other jail of this host has: a symlink in
RESERVED says whose it is. Mounts of the jail end with its process: the jailer makes them in a namespace of its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from banger_tools import console, errors, files, process

if TYPE_CHECKING:
    from banger_tools.vmm.interface import Run

PROGRAM = "jailer"
FOLDER = "jail"
KERNEL, INITRD = "vmlinux", "initrd.img"  # what they are called in the jail
RESERVED = Path("/run/banger/jails")
# above the users that systemd gives to containers, below those that it calls foreign
USERS = range(1_900_000_000, 1_900_065_536)
_OVERHEAD = 64 << 20  # bytes of memory for Firecracker itself, and for what it reads and writes
_THREADS = 8  # of Firecracker's beside the guest's processors
_BUSY_SECONDS = 5.0
_MOUNTS = Path("/proc/mounts")

# linux/if_tun.h
_TUNSETIFF, _TUNSETOWNER = 0x400454CA, 0x400454CC
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000


class Files(NamedTuple):
    """Names in the machine's folder that the jail is to have, too: what is written there, and what is only read."""

    written: Sequence[str]
    read: Sequence[str]


class Jail(NamedTuple):
    """What a jail is made for: the program, with the options that it gets, and its files."""

    program: str
    files: Files
    options: Sequence[str]


class Cgroups(NamedTuple):
    """A version of cgroups, where it is mounted, and the files that limit a machine."""

    version: int
    mounts: Sequence[Path]
    memory: str


def check() -> None:
    """Raise Unavailable if there is no jailer, Denied if we are not root."""
    process.find(PROGRAM)
    if os.geteuid() != 0:
        raise errors.Denied("only root can put a machine into a jail", "leave out --jail, or run it with sudo")


def root(folder: Path) -> Path:
    """Return what a machine's jail has as its root folder."""
    return next((folder / FOLDER).glob("*/*/root"), folder / FOLDER)


def prepare(run: Run, jail: Jail) -> list[str]:
    """Make the jail of a machine, and return the command line that starts a program in it."""
    (run.folder / FOLDER).mkdir(mode=0o700)
    user = reserve(run.folder)
    # the jailer follows symlinks to the program, and names the folder after what it finds
    inside = run.folder / FOLDER / os.path.basename(os.path.realpath(jail.program)) / run.spec.id / "root"
    inside.mkdir(mode=0o700, parents=True)
    _share(Path(run.spec.boot.kernel), inside / KERNEL)
    if run.spec.boot.initrd:
        _share(Path(run.spec.boot.initrd), inside / INITRD)
    for name in jail.files.written:
        _hand_over(run.folder / name, inside, user, user, 0o600)
    for name in jail.files.read:
        _hand_over(run.folder / name, inside, -1, user, 0o640)
    if run.network:
        give_tap(run.network.tap, user)
    who = ["--id", run.spec.id, "--exec-file", jail.program, "--uid", str(user), "--gid", str(user)]
    limits = _limits(run.spec.id, memory=run.spec.memory, cpus=run.spec.cpus)
    base = ["--chroot-base-dir", str(run.folder / FOLDER)]
    return [process.find(PROGRAM), *who, *base, *limits, "--", *jail.options]


def _hand_over(path: Path, inside: Path, user: int, group: int, mode: int) -> None:
    """Give a file of the machine a name in the jail, and the user there its rights; it must stay the same file."""
    try:
        os.link(path, inside / path.name)
    except OSError as error:
        raise errors.os_error(error, f"cannot link '{path.name}' into the jail") from error
    os.chown(path, user, group)
    path.chmod(mode)


def _share(path: Path, target: Path) -> None:
    """Put a file that others have, too, into the jail: it must not change hands, so what is private is copied."""
    if path.stat().st_mode & stat.S_IROTH:
        with contextlib.suppress(OSError):
            os.link(path, target)
            return
    files.copy(path, target)
    target.chmod(0o644)


def give_tap(name: str, user: int) -> None:
    """Make a tap one that a user may open (and nobody else but root)."""
    flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
    with open("/dev/net/tun", "r+b", buffering=0) as device:
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        fcntl.ioctl(device, _TUNSETOWNER, user)


# The user -----------------------------------------------------------------------


def reserve(folder: Path) -> int:
    """Return a user that no other jail of this host has, until `clear`."""
    RESERVED.mkdir(mode=0o700, parents=True, exist_ok=True)
    with files.locked(RESERVED / ".lock"):
        taken = set(_reserved())
        user = next((number for number in USERS if number not in taken), None)
        if user is None:
            raise errors.Unavailable("there is no user left for a jail")
        os.symlink(folder, RESERVED / str(user))
    return user


def _reserved() -> Iterator[int]:
    """Yield the users that are taken, and forget those of jails that are gone."""
    for link in RESERVED.glob("[0-9]*"):
        if (Path(os.readlink(link)) / FOLDER).is_dir():
            yield int(link.name)
        else:
            link.unlink()


def _release(folder: Path) -> None:
    if not RESERVED.is_dir():
        return
    with files.locked(RESERVED / ".lock"):
        for link in RESERVED.glob("[0-9]*"):
            if os.readlink(link) == str(folder):
                link.unlink()


# Cgroups ------------------------------------------------------------------------


def cgroups() -> Cgroups | None:
    """Return the cgroups that can limit memory and processes here; None if there are none."""
    mounts = [line.split() for line in _MOUNTS.read_text().splitlines()]
    unified = [Path(words[1]) for words in mounts if words[2] == "cgroup2"]
    for mount in unified:
        with contextlib.suppress(OSError):
            offered = (mount / "cgroup.controllers").read_text().split()
            if {"memory", "pids"} <= set(offered) and os.access(mount, os.W_OK):
                return Cgroups(2, [mount], "memory.max")
    old = {name: Path(w[1]) for w in mounts if w[2] == "cgroup" for name in w[3].split(",") if name in _CONTROLLERS}
    if set(old) == set(_CONTROLLERS) and all(os.access(mount, os.W_OK) for mount in old.values()):
        return Cgroups(1, sorted(set(old.values())), "memory.limit_in_bytes")
    return None


_CONTROLLERS = ("memory", "pids")


def parent_cgroup(machine: str) -> str:
    """Return the cgroup above that of a machine: one of its own, so that it can go with it."""
    return f"banger-{machine}"


def _limits(machine: str, *, memory: int, cpus: int) -> list[str]:
    """Return the jailer's words for a machine's cgroup; without any it must be told no version either."""
    found = cgroups()
    if found is None:
        console.warning("the jail limits neither memory nor processes: this host has no cgroups for it")
        return []
    limits = [f"{found.memory}={memory + _OVERHEAD}", f"pids.max={cpus + _THREADS}"]
    words = ["--cgroup-version", str(found.version), "--parent-cgroup", parent_cgroup(machine)]
    return [*words, *(word for limit in limits for word in ("--cgroup", limit))]


def _remove_cgroups(machine: str) -> None:
    found = cgroups()
    for mount in found.mounts if found else []:
        for path in (mount / parent_cgroup(machine) / machine, mount / parent_cgroup(machine)):
            _remove_cgroup(path)


def _remove_cgroup(path: Path) -> None:
    """Remove a cgroup; its last process may be on its way out of it still."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while path.exists():
        try:
            path.rmdir()
        except OSError as error:
            if time.monotonic() >= deadline:
                console.warning(f"cannot remove the cgroup '{path}': {errors.reason(error)}")
                return
            time.sleep(0.02)


# The end ------------------------------------------------------------------------


def clear(folder: Path) -> None:
    """Remove the jail of a run that has ended: its cgroup, its folder, its user; the machine's files are ours again."""
    jail = folder / FOLDER
    if not jail.is_dir():
        return
    for place in jail.glob("*/*"):
        _remove_cgroups(place.name)
    _take_back(folder)
    shutil.rmtree(jail)
    _release(folder)


def _take_back(folder: Path) -> None:
    """Give the files of a machine to whom its folder belongs."""
    owner = folder.stat()
    for path in folder.iterdir():
        about = path.lstat()
        if stat.S_ISREG(about.st_mode) and (about.st_uid in USERS or about.st_gid in USERS):
            os.chown(path, owner.st_uid, owner.st_gid)
            path.chmod(0o600)
