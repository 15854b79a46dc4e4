"""The disks of a machine: copies of the image's, grown with the filesystem inside them, without mount or root."""

from __future__ import annotations

import os
from pathlib import Path

from banger_tools import console, errors, files, process, sizes

_FIXED = (0, 1)  # e2fsck: clean, or errors corrected


def place(source: Path, target: Path, size: int | None, option: str) -> None:
    """Copy a disk to a new name and grow it to `size` bytes if that is given; `option` names the size in errors.

    Raises BadUsage if it would have to shrink.
    """
    least = source.stat().st_size
    if size is not None and size < least:
        raise errors.BadUsage(f"{option}: {sizes.show(size)} is less than the disk has: {sizes.show(least)}")
    how = files.copy(source, target)
    target.chmod(0o600)
    console.command(f"# {how}: {source} {target}")
    if size is not None and size > least:
        grow(target, size)


def grow(disk: Path, size: int) -> None:
    """Make a disk larger, its filesystem with it; the new room is a hole."""
    os.truncate(disk, size)
    checked = process.run(["e2fsck", "-f", "-p", str(disk)], check=False)  # resize2fs refuses an unchecked one
    if checked.status not in _FIXED:
        raise process.explain("e2fsck", checked)
    process.run(["resize2fs", str(disk)])


def empty(target: Path, size: int) -> None:
    """Make an empty work disk, its root as sshd wants a home folder: owned by root, closed to others."""
    with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.truncate(size)
    options = "root_owner=0:0,lazy_itable_init=1"
    process.run(["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-L", "work", "-E", options, str(target)])
    process.run(["debugfs", "-w", "-R", "set_inode_field <2> mode 040700", str(target)])
