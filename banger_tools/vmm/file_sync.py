"""Files of the host on a machine's work disk: what config.toml lists, as it is when the machine starts.

Nothing of this keeps a machine from starting: it may be what has to be started to make room on its disk.
"""

from __future__ import annotations

import contextlib
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from banger_tools import console, errors, files, process
from banger_tools.config import HOME, FileSync
from banger_tools.ext4 import insert
from banger_tools.ext4.image import opened
from banger_tools.ext4.view import Placed, View
from banger_tools.vmm import spec as specs

_FIXED = (0, 1)  # e2fsck: clean, or errors corrected
_FOLDER_MODE = 0o700  # of folders that the machine does not have: what root's home has is root's alone


def sync(folder: Path, wanted: Sequence[FileSync]) -> list[str]:
    """Put files onto the work disk of a machine that does not run, and return the paths in it that were written.

    `folder` is the machine's. What cannot be put there is warned of and left out.
    """
    disk = folder / specs.WORK_DISK
    if not wanted:
        return []
    if not disk.exists():
        console.warning(f"file_sync: the VM '{folder.name}' has no work disk, so it gets no files")
        console.hint("make it with --work-disk=SIZE")
        return []
    with console.step("files put on the work disk"), files.temporary_folder(folder / "file_sync") as scratch:
        snapshots = list(_snapshots(wanted, scratch))
        return _written(disk, snapshots, scratch) if snapshots else []


def _snapshots(wanted: Sequence[FileSync], scratch: Path) -> Iterator[Placed]:
    """Yield the files that this host has, copied: what is checked is what is written."""
    for number, one in enumerate(wanted):
        copy, path = scratch / f"file-{number}", one.guest.removeprefix(HOME)
        why = _copied(Path(one.host), copy)
        if why is None:
            yield Placed(path, content=copy, mode=int(one.mode, 8))
        else:
            console.warning(f"file_sync: '{one.guest}' is left out: '{one.host}': {why}")


def _copied(source: Path, target: Path) -> str | None:
    """Copy a file; return why that cannot be, None if it is done."""
    try:
        if not stat.S_ISREG(source.stat().st_mode):  # to open a fifo would wait for its writer
            return "it is no regular file"
        with open(source, "rb") as reader, open(target, "xb") as writer:
            shutil.copyfileobj(reader, writer)
    except OSError as error:
        return errors.reason(error)
    return None


def _written(disk: Path, snapshots: Sequence[Placed], scratch: Path) -> list[str]:
    """Put files onto a disk; if not all of them can be, each that can."""
    try:
        _settle(disk)
        return _insert(disk, snapshots, scratch)
    except errors.BangerError as error:
        if len(snapshots) == 1:
            console.warning(f"file_sync: '{HOME}{snapshots[0].path}' is left out: {error.message}")
            return []
    return [path for one in snapshots for path in _written(disk, [one], scratch)]


def _settle(disk: Path) -> None:
    """Let the disk of a machine that was killed have its journal replayed; until then nobody may write to it.

    Raises what e2fsck's failure is.
    """
    with contextlib.suppress(errors.BadInput), opened(disk):
        return
    checked = process.run(["e2fsck", "-p", str(disk)], check=False)
    if checked.status not in _FIXED:
        raise process.explain("e2fsck", checked)


def _insert(disk: Path, snapshots: Sequence[Placed], scratch: Path) -> list[str]:
    with opened(disk, alone=True) as image:
        folders = list(_folders(View(image), snapshots))
        return insert.insert(image, [*folders, *snapshots], scratch)


def _folders(view: View, snapshots: Sequence[Placed]) -> Iterator[Placed]:
    """Yield the folders of files that a disk lacks, each once, those above first.

    Raises BadInput for a file behind a symlink: the disk is not the machine's root, and the link is meant for that.
    """
    known: set[str] = set()
    for one in snapshots:
        parts = one.path.strip("/").split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            path = "/" + "/".join(parts[:depth])
            found = view.at(path)
            if found is not None and found.kind == "symlink":
                raise errors.BadInput(f"'{HOME}{path}' is a symlink in the machine")
            if found is None and path not in known:
                known.add(path)
                yield Placed(path, "dir", mode=_FOLDER_MODE)
