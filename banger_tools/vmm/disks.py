"""The disks of a machine: copies of the image's, or what differs from it, grown without mount or root.

A new disk is grown here, with the filesystem inside it. One that a machine has used is only made longer, which is one
step: its guest lets the filesystem follow at its next start, with a journal, so that nothing can cut it in half.
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

from banger_tools import console, errors, files, process, sizes
from banger_tools.vmm import spec as specs

BASE_RECORD = "base.json"  # what the base was like when the overlay was laid over it
_BLOCK = 4096
_FIXED = (0, 1)  # e2fsck: clean, or errors corrected
_ROOM = 8  # an eighth more than the copy itself is left free, for what the guest will write
_QCOW2_MAGIC, _QCOW2_SIZE = b"QFI\xfb", 24  # the header's magic, and where it has the disk's size


def place_root(source: Path, folder: Path, size: int | None, *, overlay: bool) -> None:
    """Make a machine's root disk: a copy, or where that does not fit and `overlay` allows it, what differs from it.

    Raises BadUsage if it would have to shrink, IOFailure if there is no room.
    """
    _refuse_shrinking(source, size, "--disk")
    target = folder / specs.ROOT_DISK
    if _copied(source, target):
        _finish(target, size)
    elif overlay:
        _overlay(source, folder, size)
    else:
        raise _full(source, folder)


def place(source: Path, target: Path, size: int | None, option: str) -> None:
    """Copy a disk to a new name and grow it to `size` bytes if that is given; `option` names the size in errors.

    Raises BadUsage if it would have to shrink, IOFailure before anything is copied if there is no room.
    """
    _refuse_shrinking(source, size, option)
    if not _copied(source, target):
        raise _full(source, target.parent)
    _finish(target, size)


def _copied(source: Path, target: Path) -> bool:
    """Copy a disk, by reflink where the filesystem can, else without its holes; tell whether there was room."""
    if files.reflink(source, target):
        how = "reflink"
    elif _fits(source, target.parent):
        how = files.copy(source, target)
    else:
        return False
    console.command(f"# {how}: {source} {target}")
    return True


def _refuse_shrinking(source: Path, size: int | None, option: str) -> None:
    least = source.stat().st_size
    if size is not None and size < least:
        raise errors.BadUsage(f"{option}: {sizes.show(size)} is less than the disk has: {sizes.show(least)}")


def _fits(source: Path, folder: Path) -> bool:
    """Tell whether a folder's disk has room for the data of a file; its holes take none."""
    data = source.stat().st_blocks * 512
    return data + data // _ROOM <= _free(folder)


def _free(folder: Path) -> int:
    there = os.statvfs(folder)
    return there.f_bavail * there.f_frsize


def _full(source: Path, folder: Path) -> errors.IOFailure:
    need, free = sizes.show(source.stat().st_blocks * 512), sizes.show(_free(folder))
    return errors.IOFailure(f"no room for a copy of '{source}': it has {need} of data, and {free} are free")


def _finish(target: Path, size: int | None) -> None:
    target.chmod(0o600)
    if size is not None and size > target.stat().st_size:
        grow(target, size)


def _truncate(disk: Path, size: int) -> None:
    try:
        os.truncate(disk, size)
    except OSError as error:  # larger than a file can be here
        raise errors.os_error(error, f"cannot make '{disk}' larger") from error


def grow(disk: Path, size: int) -> None:
    """Make a disk that nothing uses larger, its filesystem with it; the new room is a hole."""
    _truncate(disk, size)
    checked = process.run(["e2fsck", "-f", "-p", str(disk)], check=False)  # resize2fs refuses an unchecked one
    if checked.status not in _FIXED:
        raise process.explain("e2fsck", checked)
    process.run(["resize2fs", str(disk)])


# Overlays ---------------------------------------------------------------------


def _overlay(source: Path, folder: Path, size: int | None) -> None:
    """Lay an overlay over another name of the image's disk, which so stays as long as the machine does.

    The guest grows the filesystem in it at its first start: no program of the host can without copying it all.
    """
    base = folder / specs.BASE_DISK
    try:
        os.link(source.resolve(), base)
    except OSError as error:  # on another filesystem, or one that has no such links
        raise _full(source, folder) from error
    (folder / BASE_RECORD).write_text(json.dumps(_identity(base)) + "\n")
    room = size or base.stat().st_size
    target = str(folder / specs.OVERLAY)
    # -u: the base is named as it is seen from the overlay's own folder, and its size is known
    argv = ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", specs.BASE_DISK, target, str(room)]
    process.run(argv)
    (folder / specs.OVERLAY).chmod(0o600)
    console.command(f"# overlay: {source} {target}, since a copy does not fit")


def _identity(base: Path) -> dict[str, int]:
    there = base.stat()
    return {"size": there.st_size, "mtime_ns": there.st_mtime_ns}


def check_base(folder: Path) -> None:
    """Check that the base of a machine's overlay, if it has one, is as it was: else the overlay's blocks fit nothing.

    Raises BadInput if somebody edited it.
    """
    if not (folder / specs.OVERLAY).exists():
        return
    try:
        known = json.loads((folder / BASE_RECORD).read_text())
        changed = known != _identity(folder / specs.BASE_DISK)
    except (OSError, ValueError):
        changed = True
    if changed:
        raise errors.BadInput(
            f"'{folder / specs.BASE_DISK}' was changed or removed, and '{specs.OVERLAY}' only holds what differs",
            f"banger vm delete {folder.name}, and make it anew",
        )


# Disks that machines have used ------------------------------------------------


def size(disk: Path) -> int:
    """Return the size in bytes that a guest sees, of a raw disk or an overlay."""
    with open(disk, "rb") as file:
        head = file.read(_QCOW2_SIZE + 8)
    if disk.name == specs.OVERLAY and head.startswith(_QCOW2_MAGIC):
        return int(struct.unpack_from(">Q", head, _QCOW2_SIZE)[0])
    return disk.stat().st_size


def extend(disk: Path, wanted: int) -> None:
    """Make a disk of a stopped machine longer; its filesystem follows at the next start.

    Rounded up to whole blocks: a monitor would take the bytes of a part of one away.
    """
    wanted = -(-wanted // _BLOCK) * _BLOCK
    if disk.name == specs.OVERLAY:
        process.run(["qemu-img", "resize", "-q", "-f", "qcow2", str(disk), str(wanted)])
    else:
        _truncate(disk, wanted)


def empty(target: Path, size: int) -> None:
    """Make an empty work disk, its root as sshd wants a home folder: owned by root, closed to others."""
    with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.truncate(size)
    options = "root_owner=0:0,lazy_itable_init=1"
    process.run(["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-L", "work", "-E", options, str(target)])
    process.run(["debugfs", "-w", "-R", "set_inode_field <2> mode 040700", str(target)])
