"""Putting files into an ext4 image with debugfs: everything is checked first, and everything is read back.

debugfs exits with 0 even when its commands fail, so neither its status nor its silence is trusted.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from banger_tools import console, errors, process, sizes
from banger_tools.ext4 import structures as s
from banger_tools.ext4.editor import editing
from banger_tools.ext4.image import Image, opened

MAX_LINKS_FOLLOWED = 40
_TYPES = {"file": s.S_IFREG, "dir": s.S_IFDIR, "symlink": s.S_IFLNK}


class Placed(NamedTuple):
    """One thing to be put into an image: a file with its content, a symlink with its target, or a folder."""

    path: str
    type: str = "file"
    content: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0


def insert(path: Path, wanted: Iterable[Placed], scratch: Path) -> list[Placed]:
    """Put things into the image at `path`, replacing what has their names; return what had to be written.

    `scratch` is a folder for the contents meanwhile. What is there already just so is left alone. Raises BadInput
    for a path that leads out of the image or through a file, IOFailure if the image has no room; then nothing was
    written.
    """
    with opened(path) as image:
        placed = _with_parents(image, [_resolved(image, one) for one in wanted])
        missing = [one for one in placed if not is_there(image, one)]
        _check_names(missing)
        _check_folders(image, missing)
        _check_room(image, missing)
        when = max(1, image.superblock.s_mkfs_time)
    if missing:
        with opened(path, writable=True) as image, editing(image):
            _run(path, _script(image, missing, scratch), when)
            _verify(path, missing)
    return missing


def _resolved(image: Image, one: Placed) -> Placed:
    """Return the thing with its folder's symlinks followed, as the guest would; its own name is not followed."""
    folder, name = posixpath.split(one.path)
    if not one.path.startswith("/") or name in ("", ".", ".."):
        raise errors.BadInput(f"'{one.path}' is not an absolute path of a file in the image")
    return one._replace(path=posixpath.join(resolve_folder(image, folder, one.path), name))


def resolve_folder(image: Image, folder: str, wanted: str) -> str:
    """Return the path of a folder without symlinks; what does not exist yet stays as it is.

    Raises BadInput naming `wanted` if it leads out of the image, round in circles, or through a file.
    """
    pending = folder.split("/")[::-1]
    trail: list[str] = []
    followed = 0
    while pending:
        name = pending.pop()
        if name in ("", "."):
            continue
        if name == "..":
            if not trail:
                raise errors.BadInput(f"'{wanted}' leads out of the image")
            trail.pop()
            continue
        here = "/" + "/".join([*trail, name])
        number = image.lookup(os.fsencode(here))
        inode = None if number is None else image.inode(number)
        kind = "dir" if inode is None else image.kind(inode)
        if inode is not None and kind == "symlink":
            followed += 1
            if followed > MAX_LINKS_FOLLOWED:
                raise errors.BadInput(f"'{wanted}' is below a loop of symlinks in the image")
            target = os.fsdecode(image.read(inode, 4096))
            pending += target.split("/")[::-1]
            trail = [] if target.startswith("/") else trail
        elif kind != "dir":
            raise errors.BadInput(f"'{wanted}' is below '{here}', which is a {kind} in the image")
        else:
            trail.append(name)
    return "/" + "/".join(trail)


def _with_parents(image: Image, placed: Sequence[Placed]) -> list[Placed]:
    """Return the things with the folders that they need and the image lacks, each once, parents first."""
    by_path = {one.path: one for one in placed}
    for one in placed:
        folder = posixpath.dirname(one.path)
        while folder != "/" and folder not in by_path and image.lookup(os.fsencode(folder)) is None:
            by_path[folder] = Placed(folder, "dir", mode=0o755)
            folder = posixpath.dirname(folder)
    return [by_path[path] for path in sorted(by_path)]


def is_there(image: Image, one: Placed) -> bool:
    """Tell whether the image has a thing just as it is wanted."""
    number = image.lookup(os.fsencode(one.path))
    if number is None:
        return False
    inode = image.inode(number)
    if image.kind(inode) != one.type or (inode.i_uid, inode.i_gid) != (one.uid, one.gid):
        return False
    if one.type == "symlink":
        return image.read(inode, 4096) == one.content
    if stat.S_IMODE(inode.i_mode) != one.mode:
        return False
    return one.type == "dir" or (inode.i_size == len(one.content) and image.read(inode, inode.i_size) == one.content)


def _check_names(missing: Sequence[Placed]) -> None:
    for one in missing:
        text = one.path + (os.fsdecode(one.content) if one.type == "symlink" else "")
        # They would end a line of debugfs' script, or a word of it.
        if any(ord(char) < 32 or char in '"\x7f' for char in text):
            raise errors.BadInput(f"'{one.path}' has a quote or a control character in its name")


def _check_folders(image: Image, missing: Sequence[Placed]) -> None:
    """Refuse to put a file where the image has a folder; the other way round is refused by `resolve_folder`."""
    for one in missing:
        number = image.lookup(os.fsencode(one.path))
        if number is not None and one.type != "dir" and image.kind(image.inode(number)) == "dir":
            raise errors.BadInput(f"'{one.path}' is a folder in '{image.path}', and a {one.type} is to be put there")


def _check_room(image: Image, missing: Sequence[Placed]) -> None:
    """Refuse before the first write what would not fit."""
    size = image.geometry.block_size
    blocks = sum(-(-len(one.content) // size) + 1 for one in missing)  # one for a folder, or for its parent to grow
    free_blocks, free_inodes = image.superblock.s_free_blocks_count, image.superblock.s_free_inodes_count
    if blocks > free_blocks or len(missing) > free_inodes:
        raise errors.IOFailure(
            f"'{image.path}' has no room: {sizes.show(blocks * size)} and {len(missing)} inodes are needed, "
            f"{sizes.show(free_blocks * size)} and {free_inodes} are free",
            "make it larger: bg-mkext4 --size",
        )


def _script(image: Image, missing: Sequence[Placed], scratch: Path) -> str:
    """Return the commands that put everything in; contents go by files in `scratch`."""
    lines: list[str] = []
    for number, one in enumerate(missing):
        folder, name = posixpath.split(one.path)
        old = image.lookup(os.fsencode(one.path))
        if old is not None and one.type == "dir" and image.kind(image.inode(old)) == "dir":
            lines += _fields(one)
            continue
        if old is not None:
            lines.append(f'rm "{one.path}"')
        if one.type == "dir":
            lines.append(f'mkdir "{one.path}"')
        elif one.type == "symlink":
            lines += [f'cd "{folder}"', f'symlink "{name}" "{os.fsdecode(one.content)}"']
        else:
            (scratch / str(number)).write_bytes(one.content)
            lines += [f'cd "{folder}"', f'write "{scratch / str(number)}" "{name}"']
        lines += _fields(one)
    return "\n".join(lines) + "\n"


def _fields(one: Placed) -> list[str]:
    """Return the commands that set owner and mode; the mode is the whole i_mode, or the type would be lost."""
    mode = _TYPES[one.type] | (0o777 if one.type == "symlink" else one.mode)
    values = {"mode": f"0{mode:o}", "uid": str(one.uid), "gid": str(one.gid)}
    return [f'sif "{one.path}" {field} {value}' for field, value in values.items()]


def _run(path: Path, script: str, when: int) -> None:
    console.command(f"debugfs commands:\n{script}")
    result = process.run(
        ["debugfs", "-w", "-f", "-", str(path)], stdin=script.encode(), env={"E2FSPROGS_FAKE_TIME": str(when)}
    )
    complaints = [line for line in result.stderr.decode(errors="replace").splitlines() if not _is_banner(line)]
    if complaints:
        raise errors.IOFailure(f"debugfs could not write to '{path}': {complaints[0]}")


def _is_banner(line: str) -> bool:
    return line.startswith("debugfs 1.") or not line.strip()


def _verify(path: Path, missing: Sequence[Placed]) -> None:
    """Read everything back by our own reader; the image is still marked dirty, and rightly so."""
    with opened(path, editing=True) as image:
        for one in missing:
            if not is_there(image, one):
                raise errors.IOFailure(f"'{one.path}' is not in '{path}' as it was written")
