"""Files made whole or not at all: temporary names in the target folder, one rename; and copies that keep holes.

Every temporary made here is recorded, so that `remove_temporaries` can clear what an interrupted program left.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from banger_tools import errors

_temporaries: dict[Path, int] = {}  # path → the process that made it: a forked child must not remove it

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2  # renameat2(2)
_AT_FDCWD = -100
FICLONE = 0x40049409  # ioctl_ficlonerange(2)
_CHUNK = 1 << 20


def remove_temporaries() -> None:
    """Remove every temporary file and folder that this process made and did not finish."""
    for path, owner in list(_temporaries.items()):
        if owner == os.getpid():
            discard(path)


def discard(path: Path) -> None:
    """Remove a file or a folder that we made, if it is still there."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError:
        if os.path.lexists(path):  # a read-only disk refuses also what is not there
            raise
    _temporaries.pop(path, None)


def temporary_name(target: Path) -> Path:
    """Return an unused, recorded name beside `target`, hidden and ending in `.tmp`."""
    shown = os.fsencode(target.name)[:200].decode(errors="ignore")
    return record_temporary(target.parent / f".{shown}.{os.urandom(6).hex()}.tmp")


def record_temporary(path: Path) -> Path:
    """Record a path that is about to be made, so that it goes however this program ends; return it."""
    _temporaries[path] = os.getpid()
    return path


def forget_temporary(path: Path) -> None:
    """Strike a temporary off the record: it now stands under its final name."""
    _temporaries.pop(path, None)


def refuse_existing(path: Path, *, force: bool) -> None:
    """Raise CannotCreate if `path` exists and may not be replaced, or if its folder is missing."""
    if not force and os.path.lexists(path):
        raise errors.CannotCreate(f"'{path}' exists", "choose another name with -o, or replace it with --force")
    if force and path.is_dir() and not path.is_symlink():
        raise errors.CannotCreate(f"'{path}' is a folder")
    if not path.parent.is_dir():
        raise errors.CannotCreate(f"cannot make '{path}': its folder does not exist", f"mkdir -p '{path.parent}'")


@contextlib.contextmanager
def atomic(target: Path, *, force: bool = False, durable: bool = True, keep_same: bool = False) -> Iterator[Path]:
    """Yield a temporary path to fill; on success it is renamed to `target`, else it is removed.

    It is flushed to the disk before and its name after that if it is to be `durable`: what a crash of the machine
    must not damage because it cannot be made again, or would not be noticed. With `keep_same` a file that stands
    there already with the same bytes stays as it is, its time included: make(1) then finds nothing to do after it.

    Raises CannotCreate before the work if the target exists (unless `force`), and again after it if somebody made it
    meanwhile.
    """
    refuse_existing(target, force=force)
    temporary = temporary_name(target)
    try:
        yield temporary
        if durable:
            sync_file(temporary)
        if not (keep_same and same_file(temporary, target)):
            place(temporary, target, force=force)
        if durable:
            sync_folder(target.parent)
    except OSError as error:
        raise errors.os_error(error, f"cannot write '{target}'") from error
    finally:
        discard(temporary)


def place(temporary: Path, target: Path, *, force: bool) -> None:
    """Give a finished temporary file its final name."""
    if force:
        os.replace(temporary, target)
    else:
        try:
            _rename_to_free_name(temporary, target)
        except FileExistsError as error:
            raise errors.CannotCreate(f"'{target}' was made by another program meanwhile") from error
    forget_temporary(temporary)


def _rename_to_free_name(source: Path, target: Path) -> None:
    """Rename a file; unlike rename(2) this fails when the name was taken meanwhile."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        rename(source, target, RENAME_NOREPLACE)  # a filesystem without hard links, as FAT
    else:
        os.unlink(source)


def rename(source: Path, target: Path, flags: int) -> None:
    """Rename atomically with the flags of renameat2(2), which Python does not offer.

    Raises Unavailable where the filesystem cannot.
    """
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    if library.renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags):
        number = ctypes.get_errno()
        if number in (errno.EINVAL, errno.ENOSYS):
            what = f"the filesystem of '{target.parent}' cannot rename as it is needed here: renameat2(2)"
            raise errors.Unavailable(what, "what is kept must be on a local disk, and not on NFS: BANGER_HOME=FOLDER")
        raise OSError(number, os.strerror(number), str(source), None, str(target))


def same_file(one: Path, other: Path) -> bool:
    """Tell whether two paths are regular files of the same owner, mode and bytes; holes count as the zeros they are."""
    try:
        found = [os.lstat(path) for path in (one, other)]
    except FileNotFoundError:
        return False
    looks = [(status.st_mode, status.st_uid, status.st_gid, status.st_size) for status in found]
    if looks[0] != looks[1] or not stat.S_ISREG(found[0].st_mode):
        return False
    try:
        with open(one, "rb") as first, open(other, "rb") as second:
            return _same_data(first.fileno(), second.fileno(), found[0].st_size)
    except PermissionError:  # one of ours that we may replace and not read
        return False


def _same_data(one: int, other: int, size: int) -> bool:
    """Compare two files of one size where either of them has data."""
    for start, end in _merged([*data_ranges(one, 0, size), *data_ranges(other, 0, size)]):
        for offset in range(start, end, _CHUNK):
            length = min(_CHUNK, end - offset)
            if os.pread(one, length, offset) != os.pread(other, length, offset):
                return False
    return True


def _merged(ranges: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield ranges in their order, what two of them cover once."""
    done = 0
    for start, end in sorted(ranges):
        if end > done:
            yield max(start, done), end
            done = end


def write_text(target: Path, text: str, *, force: bool = False, mode: int = 0o666) -> None:
    """Write a small text file whole or not at all."""
    with atomic(target, force=force) as temporary:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
            file.write(text)


@contextlib.contextmanager
def temporary_folder(beside: Path) -> Iterator[Path]:
    """Yield a private folder beside `beside` that is gone afterwards; it is locked as long as its maker lives."""
    folder, lock = make_locked(lambda: temporary_name(beside))
    try:
        yield folder
    finally:
        discard(folder)
        os.close(lock)


def make_locked(name: Callable[[], Path]) -> tuple[Path, int]:
    """Make a private folder and lock it; another one if a sweeper took it for a leftover before it was locked."""
    while True:
        folder = name()
        folder.mkdir(mode=0o700)
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if folder.exists():
            return folder, descriptor
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Flush a file to its disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Flush a folder's names to its disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some filesystems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def copy(source: Path, target: Path) -> str:
    """Copy a file to a new name, by reflink where the filesystem can, else without its holes; return which."""
    if reflink(source, target):
        return "reflink"
    with open(source, "rb") as reader, open(target, "xb") as writer:
        os.fchmod(writer.fileno(), os.fstat(reader.fileno()).st_mode & 0o777)
        copy_data(reader.fileno(), writer.fileno())
    return "sparse copy"


def reflink(source: Path, target: Path) -> bool:
    """Give a new name a file that shares another's blocks, if the filesystem can; tell whether it could."""
    with open(source, "rb") as reader, open(target, "xb") as writer:
        os.fchmod(writer.fileno(), os.fstat(reader.fileno()).st_mode & 0o777)
        try:
            fcntl.ioctl(writer.fileno(), FICLONE, reader.fileno())
            return True
        except OSError as error:
            target.unlink()
            if error.errno not in (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS):
                raise
            return False


def copy_data(source: int, target: int) -> None:
    """Copy the data of one descriptor to another at the same offsets, leaving holes as holes."""
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    for start, end in data_ranges(source, 0, size):
        copy_range(source, start, target, start, end - start)


def data_ranges(descriptor: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the (start, end) ranges between two offsets of a file that are data, not hole."""
    while start < end:
        try:
            start = os.lseek(descriptor, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        stop = min(os.lseek(descriptor, start, os.SEEK_HOLE), end)
        if start < stop:
            yield start, stop
        start = stop


def copy_range(source: int, source_offset: int, target: int, target_offset: int, length: int) -> None:
    """Copy `length` bytes between descriptors, in the kernel where it can.

    Raises BadInput if the source ends early.
    """
    while length > 0:
        try:
            copied = os.copy_file_range(source, target, min(length, 1 << 30), source_offset, target_offset)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
            copied = _copy_chunk(source, source_offset, target, target_offset, min(length, _CHUNK))
        if copied == 0:
            raise errors.BadInput("a file became shorter while it was read")
        source_offset, target_offset, length = source_offset + copied, target_offset + copied, length - copied


def _copy_chunk(source: int, source_offset: int, target: int, target_offset: int, length: int) -> int:
    return os.pwrite(target, os.pread(source, length, source_offset), target_offset)


def read_small(path: Path, limit: int, what: str) -> bytes:
    """Return the bytes of a file that must not be larger than `limit`.

    Raises NoInput or Denied if it cannot be read, BadInput if it is larger.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise errors.os_error(error, f"cannot read '{path}'") from error
    if len(data) > limit:
        raise errors.BadInput(f"'{path}' is too large for {what}: more than {limit} bytes")
    return data


@contextlib.contextmanager
def locked(path: Path, *, wait: float | None = None, what: str | None = None, passing: bool = False) -> Iterator[None]:
    """Hold an exclusive lock on a file (made if missing); `wait` seconds at most, for ever if None.

    The lock goes with the process, however it ends, and if it is a `passing` one its file, too, unless the process is
    killed. Raises Retry when it stays held.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            take_lock(descriptor, wait, what or f"'{path}'")
            if _is_still(descriptor, path):  # else somebody removed it while nobody had it
                try:
                    yield
                finally:
                    if passing:
                        path.unlink(missing_ok=True)  # who waits for it makes another one
                return
        finally:
            os.close(descriptor)


def _is_still(descriptor: int, path: Path) -> bool:
    """Tell whether an open file has its name yet."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def locked_folder(folder: Path, *, wait: float, what: str, shared: bool = False) -> Iterator[None]:
    """Hold a lock on a folder that is there, exclusive unless it is to be `shared`; `wait` seconds at most.

    Raises Retry when it stays held, FileNotFoundError if there is no such folder, or none any more when it is our turn.
    """
    while True:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            take_lock(descriptor, wait, what, shared=shared)
            if os.path.samestat(os.fstat(descriptor), os.stat(folder)):  # else another one took its name meanwhile
                yield
                return
        finally:
            os.close(descriptor)


def take_lock(descriptor: int, wait: float | None, what: str, *, shared: bool = False) -> None:
    """Lock an open file until it is closed; `wait` seconds at most, for ever if None.

    Raises Retry when it stays held.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    if wait is None:
        fcntl.flock(descriptor, kind)
        return
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                raise errors.Retry(f"{what} is in use by another program") from error
            time.sleep(0.05)
