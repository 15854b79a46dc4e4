"""Where things are kept: whether the folders can be written and have room, and what config.toml says."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from banger_tools import files, locations, sizes
from banger_tools.doctor.result import FAIL, PASS, WARN, Check

LITTLE, ENOUGH = 1 << 30, 8 << 30  # free bytes: an image cannot be made below the first, several fit in the second
ELSEWHERE = "set BANGER_HOME to a folder on another disk"
_CANNOT_CLONE = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS)


def configuration() -> Iterator[Check]:
    """Check that config.toml can be read."""
    from banger_tools import config

    config.load()
    there = config.path().exists()
    yield Check("config", PASS, f"'{config.path()}'" if there else f"no '{config.path()}', and none is needed")


def store() -> Iterator[Check]:
    """Check the place of the store."""
    yield _place("store", locations.state())


def cache() -> Iterator[Check]:
    """Check the place of the cache."""
    yield _place("cache", locations.cache())


def _place(what: str, folder: Path) -> Check:
    place = existing(folder)
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        return Check(what, FAIL, f"'{place}' may not be written", "set BANGER_HOME to a folder of yours")
    status = os.statvfs(place)
    free = status.f_bavail * status.f_frsize
    detail = f"{sizes.show(free)} free for '{folder}'"
    if free < LITTLE:
        return Check(what, FAIL, f"{detail}: no image can be made", f"banger cache prune, or {ELSEWHERE}")
    if free < ENOUGH:
        return Check(what, WARN, f"{detail}: it may fill up soon", f"banger cache prune, or {ELSEWHERE}")
    return Check(what, PASS, detail)


def reflink() -> Iterator[Check]:
    """Check whether files can be cloned where the store is: it makes machines in no time."""
    place = existing(locations.state())
    if not os.access(place, os.W_OK):
        return  # told by the check of the store
    if clones(place):
        yield Check("reflink", PASS, f"'{place}' clones files: disks are made at once")
    else:  # as on most hosts; it costs a moment for each machine, and nobody would change a disk's format for it
        yield Check("reflink", PASS, f"'{place}' cannot clone files: disks are copied, without their holes")


def clones(folder: Path) -> bool:
    """Tell whether a folder's filesystem clones files, by files that have no names where it has such."""
    with tempfile.TemporaryFile(dir=folder) as source, tempfile.TemporaryFile(dir=folder) as target:
        source.write(bytes(4096))
        source.flush()
        try:
            fcntl.ioctl(target.fileno(), files.FICLONE, source.fileno())
        except OSError as error:
            if error.errno in _CANNOT_CLONE:
                return False
            raise
    return True


def existing(folder: Path) -> Path:
    """Return a folder, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.parents) if path.exists())
