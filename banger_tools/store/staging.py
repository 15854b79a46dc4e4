"""Folders that appear whole under their final name, or not at all.

An object is staged as `NAME.staging-XXXX` beside where it will stand and renamed once. Its maker holds a lock on the
folder while it works; the lock goes with the process, so a staging folder that nobody locks is left over from one
that died, and the next run removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from banger_tools import cli, console, errors, files

LOCK_SECONDS = 60.0  # for those who copy from an object that is to be replaced or removed
_MARK = ".staging-"


def _nothing() -> None:
    """Tell nobody."""


@contextlib.contextmanager
def staged(
    target: Path, *, replace: bool = False, what: str = "object", announce: Callable[[], object] = _nothing
) -> Iterator[Path]:
    """Yield a private folder to fill; on success everything in it is synced and it becomes `target` in one rename.

    `announce` is called when it has its name; if that fails, as anything after the rename, the rename is undone, and
    what stood there before stands there again. Raises CannotCreate before the work, and again after it, if the name is
    taken (unless `replace`: then the two folders change places atomically, and the old one is removed).
    """
    refuse_taken(target, replace=replace, what=what)
    with _explained(what, target):
        make_folder(target.parent)
    with aside(target) as folder:
        with _explained(what, target):
            yield folder
            sync_tree(folder)
        ours = os.stat(folder)
        try:
            with _explained(what, target):
                _publish(folder, target, replace=replace, what=what)
            announce()
        except BaseException:
            with cli.signals_later():
                _take_back(folder, target, ours)
            raise


@contextlib.contextmanager
def _explained(what: str, target: Path) -> Iterator[None]:
    """Raise errors of the system as those that say what could not be made."""
    try:
        yield
    except OSError as error:
        raise errors.os_error(error, f"cannot make the {what} '{target.name}'") from error


def make_folder(folder: Path) -> None:
    """Make a folder and those that it is in; each new name is flushed to the disk, for all below depends on it."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    with contextlib.suppress(PermissionError):  # a folder that we may write to and not read
        files.sync_folder(folder.parent)


@contextlib.contextmanager
def aside(target: Path) -> Iterator[Path]:
    """Yield a private folder beside an object; afterwards it, or what changed places with it, is gone."""
    make_folder(target.parent)
    sweep(target.parent)
    folder, lock = files.make_locked(lambda: _new_name(target))
    try:
        yield folder
    finally:
        _discard(folder)  # nothing is there after a plain rename
        os.close(lock)


def _discard(folder: Path) -> None:
    """Remove what nobody sees any more; what cannot be removed changes nothing of what was done."""
    try:
        files.discard(folder)
    except OSError as error:
        files.forget_temporary(folder)
        console.warning(f"'{folder}' is left over: {errors.reason(error)}")


def refuse_taken(target: Path, *, replace: bool, what: str) -> None:
    """Raise CannotCreate if the name is taken."""
    if not replace and os.path.lexists(target):
        raise taken(target, what)


def taken(target: Path, what: str) -> errors.CannotCreate:
    """Return the error that says that a name is taken."""
    replaced = "" if what == "VM" else ", or have it replaced with --replace"
    return errors.CannotCreate(f"the {what} '{target.name}' exists already", f"choose another name{replaced}")


def _publish(folder: Path, target: Path, *, replace: bool, what: str) -> None:
    while not (replace and _exchange(folder, target, what)):
        try:
            files.rename(folder, target, files.RENAME_NOREPLACE)
            break
        except FileExistsError as error:
            if not replace:  # else somebody made it just now: change places with that
                raise taken(target, what) from error
    files.sync_folder(target.parent)


def _take_back(folder: Path, target: Path, ours: os.stat_result) -> None:
    """Let what stood at `target` before the rename stand there again, if it is our folder that does."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.stat(target), ours):
            files.rename(target, folder, files.RENAME_EXCHANGE if folder.exists() else files.RENAME_NOREPLACE)
            with contextlib.suppress(OSError):  # its failure may be why we are here
                files.sync_folder(target.parent)


def _exchange(folder: Path, target: Path, what: str) -> bool:
    """Let two folders change places when nobody has the old one locked; tell whether there was an old one."""
    with contextlib.suppress(FileNotFoundError):
        with files.locked_folder(target, wait=LOCK_SECONDS, what=f"the {what} '{target.name}'"):
            files.rename(folder, target, files.RENAME_EXCHANGE)
            return True
    return False


def sync_tree(folder: Path) -> None:
    """Flush every file and folder below `folder` to its disk."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            if path.is_file() and not path.is_symlink():
                files.sync_file(path)
        files.sync_folder(Path(place))


def sweep(parent: Path) -> list[str]:
    """Remove the staging folders whose makers died, and return their names."""
    removed = []
    for folder in sorted(parent.glob(f"*{_MARK}*")):
        with contextlib.suppress(OSError), _locked(folder, fcntl.LOCK_EX):  # others sweep, or it is not ours to remove
            shutil.rmtree(folder)
            removed.append(folder.name)
    return removed


def abandoned(parent: Path) -> list[Path]:
    """Return the staging folders whose makers died, sorted; those that may not be looked into are not ours."""
    found = []
    for folder in sorted(parent.glob(f"*{_MARK}*")):
        with contextlib.suppress(OSError), _locked(folder, fcntl.LOCK_SH):
            found.append(folder)
    return found


@contextlib.contextmanager
def _locked(folder: Path, kind: int) -> Iterator[None]:
    """Hold the lock of a staging folder; raises BlockingIOError while its maker lives."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _new_name(target: Path) -> Path:
    """Return an unused, recorded name for what will become `target`, or was it."""
    return files.record_temporary(target.parent / f"{target.name}{_MARK}{secrets.token_hex(6)}")


def retire(folder: Path) -> None:
    """Remove a finished object: at once from sight, then its files; what a crash leaves is swept like any staging."""
    doomed = _new_name(folder)
    os.rename(folder, doomed)
    files.sync_folder(folder.parent)  # or a crash could show what is left of it under its name again
    try:
        files.discard(doomed)
    except FileNotFoundError:  # another program sweeps it away at the same time
        files.forget_temporary(doomed)


def finished(parent: Path) -> list[str]:
    """Return the names of the finished objects in a folder, sorted; none if there is no such folder.

    Raises Denied if it cannot be read.
    """
    try:
        found = sorted(os.listdir(parent))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise errors.os_error(error, f"cannot list '{parent}'") from error
    return [name for name in found if not is_staging(name) and (parent / name).is_dir()]


def is_staging(name: str) -> bool:
    """Tell whether a folder's name is that of something unfinished."""
    return _MARK in name
