"""A folder as a tar, by GNU tar: the same bytes for the same files, whatever their order on the disk.

An ordinary user's own files are recorded as root's, as a namespace of that user would show them; other owners are kept.
All extended attributes are in it, ACLs and capabilities among them, holes stay holes, and hardlinks are links. Sockets,
and what other filesystems have mounted below, are left out with a warning.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from banger_tools import console, errors, process
from banger_tools.oci.cancel import Cancel

_COMMAND = (
    "tar",
    "--create",
    "--format=posix",
    "--sort=name",
    "--numeric-owner",
    "--sparse",
    "--sparse-version=0.0",  # the later ones write the process id into names; its map is all in one header
    "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
    "--xattrs",
    "--xattrs-include=*",
    # These belong to this machine, and mean nothing or harm on another.
    "--xattrs-exclude=security.selinux",
    "--xattrs-exclude=security.ima",
    "--xattrs-exclude=security.evm",
    "--xattrs-exclude=system.nfs4_acl",
    "--one-file-system",
)
_SOCKET = re.compile(r"^(?:.*/)?tar: (.*): socket ignored$", re.MULTILINE)
_UNREADABLE = re.compile(r"^(?:.*/)?tar: (.*): Cannot \w+: Permission denied$", re.MULTILINE)
_CHANGED = re.compile(
    r"^(?:.*/)?tar: (.*): (?:file changed as we read it|File removed before we read it|File shrank by .*)$",
    re.MULTILINE,
)
_NAMED = 5


def chunks(folder: Path, cancel: Cancel) -> Iterator[bytes]:
    """Yield the tar of a folder; its end comes only if every file was read as it is.

    Raises NoInput, BadInput for an empty folder, Denied naming what cannot be read, Retry if files changed meanwhile.
    """
    _check(folder)
    maps = [_owner_map(os.geteuid()), _owner_map(os.getegid())] if os.geteuid() != 0 else []
    try:
        options = [f"--{kind}-map=/dev/fd/{number}" for kind, number in zip(("owner", "group"), maps, strict=False)]
        with process.Stream([*_COMMAND, *options, f"--directory={folder}", "."], pass_fds=maps) as stream:
            cancel.add_waker(stream.stop)
            try:
                yield from stream.chunks()
            finally:
                cancel.remove_waker(stream.stop)
            cancel.check()
            _judge(stream.end(), folder)
    finally:
        for descriptor in maps:
            os.close(descriptor)


def _check(folder: Path) -> None:
    try:
        with os.scandir(folder) as entries:
            if not any(entries):
                raise errors.BadInput(f"'{folder}' is empty, and no root filesystem")
    except OSError as error:
        raise errors.os_error(error, f"cannot read '{folder}'") from error


def _owner_map(own: int) -> int:
    """Return a descriptor of a file that makes an id of ours root's, as tar(1) reads it."""
    descriptor = os.memfd_create("map")
    os.write(descriptor, f"+{own} root:0\n".encode())
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _judge(result: process.Result, folder: Path) -> None:
    """Say what tar left out, and raise what went wrong."""
    said = result.stderr.decode(errors="surrogateescape")
    for name in _SOCKET.findall(said):
        console.warning(f"'{_shown(folder, name)}' is left out: it is a socket")
    for mounted in _mounts_below(folder):
        console.warning(f"what is mounted on '{mounted}' is left out")
    if result.status == 0:
        return
    if unreadable := [_shown(folder, name) for name in _UNREADABLE.findall(said)]:
        more = f" and {len(unreadable) - _NAMED} more" if len(unreadable) > _NAMED else ""
        named = ", ".join(f"'{name}'" for name in unreadable[:_NAMED])
        raise errors.Denied(f"cannot read {named}{more}: permission denied", "run it as the user whose files they are")
    if changed := _CHANGED.search(said):
        raise errors.Retry(f"'{_shown(folder, changed.group(1))}' was changed while it was read")
    raise process.explain("tar", result)


def _mounts_below(folder: Path) -> Iterator[str]:
    """Yield where other filesystems are mounted inside a folder (proc(5), mountinfo): tar is silent about them."""
    device, base = os.stat(folder).st_dev, os.path.realpath(folder).rstrip("/")
    with (
        contextlib.suppress(OSError),
        open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table,
    ):
        for line in table:
            point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), line.split()[4])
            if point.startswith(f"{base}/") and os.lstat(point).st_dev != device:
                yield point


def _shown(folder: Path, name: str) -> str:
    return os.path.normpath(folder / name)
