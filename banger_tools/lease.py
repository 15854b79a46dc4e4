"""Who uses the cache: one lock that programs share while they may, and for each file the time of its last use.

bg-fetch and the stages that read what it brought hold the lock from their start. What was used since the lock was
last free stays, whatever `banger cache prune` was told; while the lock is free prune holds it, and nobody starts.

The last use of a file is its access time, set on purpose: so it is right where the kernel keeps none, and the
modification time stays what `oci.mark` made it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from banger_tools import locations

GRACE = 60 * 10**9
"""How long, in ns, the stages of a pipe may take to start: the first may have ended before the last has its lock."""


@contextlib.contextmanager
def held(sweep: Callable[[], None] | None = None) -> Iterator[None]:
    """Keep everything that is used from now on in the cache; `sweep` is called if nobody else uses the cache.

    Where the cache cannot even be opened there is nothing to hold: who needs it will say so.
    """
    descriptor = _open(locations.cache())
    try:
        if descriptor is not None:
            _share(descriptor, sweep)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _share(descriptor: int, sweep: Callable[[], None] | None) -> None:
    """Take the lock; the first of those who share it notes in the file's time when they began."""
    if _try_exclusive(descriptor):
        with contextlib.suppress(PermissionError):  # an older time only keeps more
            os.utime(descriptor)
        if sweep is not None:
            sweep()
    fcntl.flock(descriptor, fcntl.LOCK_SH)


@contextlib.contextmanager
def unused_since(root: Path) -> Iterator[int]:
    """Yield a time in ns: what was last used before it nobody uses; if nobody runs, nobody starts meanwhile either."""
    descriptor = _open(root)
    try:
        alone = descriptor is not None and _try_exclusive(descriptor)
        began = time.time_ns() if alone or descriptor is None else os.fstat(descriptor).st_mtime_ns
        yield began - GRACE
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextlib.contextmanager
def nobody(root: Path) -> Iterator[bool]:
    """Yield whether nobody uses the cache; if so nobody starts to meanwhile."""
    descriptor = _open(root)
    try:
        yield descriptor is None or _try_exclusive(descriptor)
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _open(root: Path) -> int | None:
    """Open the lock's file, made if missing; for reading only where it is another user's."""
    with contextlib.suppress(OSError):
        root.mkdir(parents=True, exist_ok=True)
    for flags in (os.O_RDWR | os.O_CREAT, os.O_RDONLY):
        with contextlib.suppress(OSError):
            return os.open(root / "lease", flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    return None


def _try_exclusive(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def use(path: Path) -> os.stat_result | None:
    """Note that a file of the cache is used now, and return its status; None if no regular file is there.

    Under its lock, so that it is not removed between the look and the note.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
            return None
        raise
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink == 0:
            return None
        with contextlib.suppress(PermissionError):  # another user's cache
            os.utime(descriptor, ns=(time.time_ns(), found.st_mtime_ns))
        return found
    finally:
        os.close(descriptor)


def use_cached(path: Path) -> None:
    """Note that a file is used now, if it is one of the cache."""
    if path.is_relative_to(locations.cache()):
        use(path)


def last_use(found: os.stat_result) -> int:
    """Return when a file was used or written last, in ns."""
    return max(found.st_atime_ns, found.st_mtime_ns)


def remove_unused(path: Path, since: int) -> bool:
    """Remove a file of the cache unless it was used since a time in ns, or is being written; tell if it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        path.unlink(missing_ok=True)  # a symlink: nothing of ours
        return True
    try:
        if not _try_exclusive(descriptor) or last_use(os.fstat(descriptor)) >= since:
            return False
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(descriptor)
