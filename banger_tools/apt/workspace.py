"""The folder that mmdebstrap works in, and what is left of one when its maker was killed.

It stands where temporary files go: the users of a namespace must get through to it, and a home is often private.
A note in the cache, `partial/workspace-<token>`, says where; its lock is held by the maker and by every program that it
started. So a note that can be locked names a folder that nobody works in any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from banger_tools import console, files, process
from banger_tools.oci.cache import NOTE

_REMOVALS = 10


class Workspace(NamedTuple):
    """A folder to work in, and the descriptor that programs are to inherit which use it."""

    folder: Path
    lock: int


@contextlib.contextmanager
def opened(partial: Path) -> Iterator[Workspace]:
    """Yield a workspace that is gone afterwards, whatever was left in it; its note is made in `partial`."""
    token = secrets.token_hex(8)
    folder, note = _folder(token), partial / f"{NOTE}{token}"
    unlocked = files.temporary_name(note)
    lock = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.write(lock, os.fsencode(folder))
        os.rename(files.record_temporary(unlocked), note)  # under its name it is locked from the first moment
        folder.mkdir(mode=0o700)
        folder.chmod(0o755)  # the users of a namespace must get through
        yield Workspace(folder, lock)
    finally:
        if clear(folder):
            note.unlink(missing_ok=True)
        files.discard(unlocked)
        os.close(lock)


def _folder(token: str) -> Path:
    return Path(os.path.abspath(tempfile.gettempdir())) / f"banger-apt-{token}"


def sweep(partial: Path) -> None:
    """Remove the workspaces of makers that were killed, as soon as the last of their programs has ended."""
    for note in partial.glob(f"{NOTE}*"):
        with contextlib.suppress(OSError), open(note, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            folder = Path(os.fsdecode(file.read(4096)))
            known = folder.name == f"banger-apt-{note.name.removeprefix(NOTE)}" and folder.is_absolute()
            if not known or clear(folder):
                note.unlink()


def clear(folder: Path) -> bool:
    """Remove a workspace of ours if it is there, never what is mounted in it; tell whether it is gone."""
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return True
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        return True  # not ours: somebody else has taken the name
    remove = ["rm", "-rf", "--one-file-system", "--"]
    if os.geteuid() != 0:  # what belongs to other ids can be removed only from inside a namespace that maps them
        inside = [str(path) for path in folder.iterdir()]
        process.run(["mmdebstrap", "--unshare-helper", *remove, *inside], check=False)
    for _ in range(_REMOVALS):
        if process.run([*remove, str(folder)], check=False).status == 0:
            return True
        time.sleep(0.2)  # a process that is just being killed may still have added a file
    console.warning(f"'{folder}' could not be removed")
    return False
