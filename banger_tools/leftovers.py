"""What programs left that were killed: told by `banger doctor`, removed by `banger prune`.

Who makes something keeps a lock on it, which goes with the process. So what nobody has locked nobody will finish. Each
is looked at again under its lock before it goes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from banger_tools import files, lease, locations
from banger_tools.apt import workspace
from banger_tools.net import taps
from banger_tools.oci.cache import NOTE, Cache, is_leftover
from banger_tools.store import images, kernels, renaming, staging, vms
from banger_tools.vmm import life, usage

HALF_MADE, OLD_NAME, TAP = "half-made object", "old name", "tap"
STALE = 600.0  # seconds after which nobody is taken to write to a small file that nobody can lock


class Leftover(NamedTuple):
    """What may go: its kind and name, the bytes that it takes, and what removes it and tells whether that did."""

    kind: str
    name: str
    size: int
    remove: Callable[[], bool]


def found() -> Iterator[Leftover]:
    """Yield all leftovers of the store, of the cache and of the network; nothing is changed."""
    for parent in (images.root(), kernels.root(), vms.root()):
        yield from half_made(parent)
        yield from temporaries(parent)
    yield from old_names()
    yield from work_folders()
    yield from transfers()
    yield from stale_files()
    yield from locks()
    yield from lost_taps()


# The store ----------------------------------------------------------------------


def half_made(parent: Path) -> Iterator[Leftover]:
    """Yield what was to become an object in a folder of the store, or is what is left of one."""
    for folder in staging.abandoned(parent):
        yield Leftover(HALF_MADE, str(folder), usage.disk(folder), partial(_discard, folder, folder))


def old_names() -> Iterator[Leftover]:
    """Yield the names that machines know their images by which were renamed since: who did that did not get to them."""
    for name in images.listed():
        if (old := images.former_name(name)) and _is_free(images.root() / name):
            yield Leftover(OLD_NAME, f"{old} of the image {name}", 0, partial(renaming.complete, name))


def work_folders() -> Iterator[Leftover]:
    """Yield the folders that pulls worked in."""
    for folder in _unfinished(locations.state() / "work"):
        if _is_free(folder):
            yield Leftover("work folder", str(folder), usage.disk(folder), partial(_discard, folder, folder))


def temporaries(parent: Path) -> Iterator[Leftover]:
    """Yield the unfinished files in whole objects; who writes one holds the lock of the object."""
    for name in staging.finished(parent):
        folder = parent / name
        lock = kernels.lock_file(name) if parent == kernels.root() else folder
        for path in _unfinished(folder):
            if _is_free(lock):
                size = usage.disk(path) if path.is_dir() else path.lstat().st_blocks * 512
                yield Leftover("temporary file", str(path), size, partial(_discard, path, lock))


def locks() -> Iterator[Leftover]:
    """Yield the files of locks that nobody holds: they go with those who held them, unless these are killed."""
    with contextlib.suppress(FileNotFoundError):
        for path in sorted((locations.state() / "locks").iterdir()):
            if _is_free(path):
                yield Leftover("lock", str(path), 0, partial(_discard, path, path))


def _unfinished(folder: Path) -> list[Path]:
    """Return what has the name of a temporary in a folder, sorted; none if there is no such folder, or not for us."""
    try:
        return sorted(folder / name for name in os.listdir(folder) if name.startswith(".") and name.endswith(".tmp"))
    except OSError:
        return []


def _is_free(lock: Path) -> bool:
    """Tell whether nobody has a lock, by sharing it for a moment."""
    with contextlib.suppress(OSError), _locked(lock, fcntl.LOCK_SH):  # held, or not ours to look at
        return True
    return False


def _discard(path: Path, lock: Path) -> bool:
    """Remove a file or a folder if nobody has a lock; tell whether it is gone."""
    with contextlib.suppress(BlockingIOError), _locked(lock, fcntl.LOCK_EX):
        files.discard(path)
        return True
    return False


@contextlib.contextmanager
def _locked(path: Path, kind: int) -> Iterator[None]:
    """Hold a lock; none if there is no such file or folder.

    Raises BlockingIOError if somebody has it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        yield
        return
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def lost_taps() -> Iterator[Leftover]:
    """Yield the taps of machines that do not run."""
    for tap in taps.leftovers(life.may_run):
        yield Leftover(TAP, tap.name, 0, partial(taps.discard, tap, life.may_run))


# The cache ----------------------------------------------------------------------


def transfers() -> Iterator[Leftover]:
    """Yield what is on its way into the cache and nobody can go on with, and the folders that mmdebstrap worked in."""
    cache = Cache(locations.cache())
    if not cache.partial.is_dir():
        return
    with lease.nobody(cache.root) as unused:
        for path in sorted(cache.partial.iterdir()) if unused else ():
            if path.name.startswith(NOTE):
                if _is_free(path):
                    yield Leftover("work folder", str(path), 0, partial(_sweep_workspace, cache, path))
            elif is_leftover(path.name, path.lstat().st_size):
                size = usage.disk(path) if path.is_dir() else path.lstat().st_blocks * 512
                yield Leftover("transfer", str(path), size, partial(_sweep_transfer, cache, path))


def stale_files() -> Iterator[Leftover]:
    """Yield the unfinished files elsewhere in the cache, whose writers hold no lock: their age tells."""
    cache = Cache(locations.cache())
    for path in sorted(cache.root.rglob(".*.tmp")):
        if cache.partial not in path.parents and _is_stale(path):
            yield Leftover("temporary file", str(path), path.lstat().st_blocks * 512, partial(_discard_stale, path))


def _is_stale(path: Path) -> bool:
    return time.time() - path.lstat().st_mtime > STALE


def _discard_stale(path: Path) -> bool:
    if stale := _is_stale(path):
        files.discard(path)
    return stale


def _sweep_workspace(cache: Cache, note: Path) -> bool:
    workspace.sweep(cache.partial)
    return not note.exists()


def _sweep_transfer(cache: Cache, path: Path) -> bool:
    with lease.nobody(cache.root) as unused:
        if unused:
            files.discard(path)
        return unused
