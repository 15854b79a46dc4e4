"""Putting things into an ext4 image in place and taking names out: everything is checked first, and read back after."""

from __future__ import annotations

import hashlib
import os
import posixpath
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from banger_tools import errors, process, sizes
from banger_tools.ext4 import debugfs, editor, xattr
from banger_tools.ext4.image import Extent, Image, opened
from banger_tools.ext4.structures import INLINE_DATA_FL, MAX_SYMLINK
from banger_tools.ext4.view import Found, Placed, View

_PIECE = 1 << 20
_MAX_PATH = 4096
_EXTENTS_IN_BLOCK = 340  # at the least: of blocks of 4 KiB


class _Old(NamedTuple):
    """A name that is taken out; `last` says that its inode goes, too."""

    path: str
    found: Found
    last: bool


class _Changes(NamedTuple):
    """What is to be written: names to take out, things to make, and folders that only change owner or mode."""

    old: list[_Old]
    new: list[Placed]
    folders: list[Placed]


def insert(image: Image, wanted: Iterable[Placed], scratch: Path, *, removed: Iterable[str] = ()) -> list[str]:
    """Put things into an image that was opened `alone`, replacing what has their names, and take `removed` names out.

    Return the paths that had to be written. `scratch` is a folder for contents meanwhile. What is there already just
    so is left alone; other names of a file that is replaced keep it as it was; what no name is left for is wiped.
    Raises BadInput for a path that leads out of the image or through a file, IOFailure if the image has no room, and
    Unavailable without debugfs; then nothing was written.
    """
    process.find("debugfs")
    changes = _changes(image, _with_parents(image, wanted), removed)
    commands = _commands(changes, scratch)
    _check_room(image, changes)
    if commands:
        _edit(image, changes, commands)
    return sorted({one.path for group in changes for one in group})


def _edit(image: Image, changes: _Changes, commands: list[str]) -> None:
    """Run the commands on an image that was found to be clean, and see to it that they did what they should."""
    path, quotas = image.path, image.superblock.has("quota")
    owners = _attribute_blocks(image, changes.old)
    freed = [extent for one in changes.old for extent in _extents(image, one)]
    if quotas:
        process.find("e2fsck")
    with opened(path, writable=True) as target, editor.editing(target):
        debugfs.run(path, commands, max(1, image.superblock.s_mkfs_time))
        _verify(path, changes)
        _finish(path, owners, freed)
        if quotas:
            editor.count_quotas(target)


def _with_parents(image: Image, wanted: Iterable[Placed]) -> list[Placed]:
    """Return the things with the folders that they need and the image lacks, each once, parents first.

    Their paths are without symlinks then.
    """
    view = View(image)
    for one in wanted:
        view.place(one)
    by_path = dict(view.placed)
    for one in view.placed.values():
        folder = posixpath.dirname(one.path)
        while folder not in by_path and view.at(folder) is None:
            by_path[folder] = Placed(folder, "dir", mode=0o755)
            folder = posixpath.dirname(folder)
        if folder in by_path and by_path[folder].type != "dir":
            raise errors.BadInput(f"'{one.path}' is below '{folder}', which is to be a {by_path[folder].type}")
    return [by_path[path] for path in sorted(by_path)]


def _changes(image: Image, placed: Sequence[Placed], removed: Iterable[str]) -> _Changes:
    """Return what is not yet as it is wanted.

    Raises BadInput for a folder where something else is wanted, and the other way round.
    """
    view = View(image)
    new = [one for one in placed if not is_there(view, one)]
    folders = [one for one in new if one.type == "dir" and view.at(one.path) is not None]
    for one in new:
        _check_place(view, one)
    taken_out = {one.path for one in new if one not in folders} | {*removed} - {one.path for one in placed}
    old = list(_old(view, sorted(taken_out)))
    return _Changes(old, [one for one in new if one not in folders], folders)


def _check_place(view: View, one: Placed) -> None:
    texts = [one.path, os.fsdecode(one.content) if one.type == "symlink" else ""]
    if not all(map(debugfs.can_say, texts)):
        raise errors.BadInput(f"'{one.path}' has a control character in its name")
    if any(len(os.fsencode(name)) > 255 for name in one.path.split("/")):
        raise errors.BadInput(f"'{one.path}' has a name of more than 255 bytes")
    if len(os.fsencode(one.path)) >= _MAX_PATH:
        raise errors.BadInput(f"'{one.path[:40]}...' is longer than a path can be")
    found = view.at(one.path)
    if found is not None and (found.kind == "dir") != (one.type == "dir"):
        what = "a folder" if one.type == "dir" else f"a {one.type}"
        raise errors.BadInput(f"'{one.path}' is a {found.kind} in '{view.image.path}', and {what} is to be put there")


def _old(view: View, paths: Sequence[str]) -> Iterator[_Old]:
    """Yield what the image has at paths, each with whether it is the last name of its inode."""
    left: dict[int, int] = {}
    for path in paths:
        found = view.at(path)
        if found is None or found.inode is None:
            continue
        if not debugfs.can_say(path):
            raise errors.BadInput(f"'{path}' has a control character in its name")
        left[found.number] = left.get(found.number, found.inode.i_links_count) - 1
        yield _Old(path, found, left[found.number] <= 0)


def is_there(view: View, one: Placed) -> bool:
    """Tell whether the image has a thing just as it is wanted."""
    found = view.at(one.path)
    if found is None or found.inode is None:
        return False
    inode = found.inode
    if found.kind != one.type or (inode.i_uid, inode.i_gid) != (one.uid, one.gid):
        return False
    if one.type == "symlink":
        return inode.i_size <= MAX_SYMLINK and view.content(found, MAX_SYMLINK) == one.content
    if stat.S_IMODE(inode.i_mode) != one.mode:
        return False
    return one.type == "dir" or (inode.i_size == _size(one) and _digest(_stored(view.image, found)) == _wanted(one))


def _size(one: Placed) -> int:
    return len(one.content) if isinstance(one.content, bytes) else one.content.stat().st_size


def _wanted(one: Placed) -> str:
    if isinstance(one.content, bytes):
        return _digest([one.content])
    with open(one.content, "rb") as file:
        return _digest(iter(lambda: file.read(_PIECE), b""))


def _digest(pieces: Iterable[bytes]) -> str:
    found = hashlib.sha256()
    for piece in pieces:
        found.update(piece)
    return found.hexdigest()


def _stored(image: Image, found: Found) -> Iterator[bytes]:
    """Yield the content of a file of the image, holes as zeros."""
    assert found.inode is not None
    done, size = 0, found.inode.i_size
    for start, place, length in [*image.segments(found.inode), (size, 0, 0)]:
        yield from _zeros(start - done)
        for offset in range(0, length, _PIECE):
            yield os.pread(image.descriptor, min(_PIECE, length - offset), place + offset)
        done = start + length


def _zeros(count: int) -> Iterator[bytes]:
    while count > 0:
        yield bytes(min(_PIECE, count))
        count -= _PIECE


def _check_room(image: Image, changes: _Changes) -> None:
    """Refuse before the first write what would not fit; what is taken out first makes room."""
    superblock, block = image.superblock, image.geometry.block_size
    unit = block << image.geometry.cluster_bits
    gone = [one.found.inode for one in changes.old if one.last and one.found.inode is not None]
    needed = sum(_blocks(one, unit) for one in changes.new) * unit // block
    free_blocks = superblock.s_free_blocks_count + sum(
        extent.length for one in changes.old for extent in _extents(image, one)
    )
    free_inodes = superblock.s_free_inodes_count + len(gone)
    if needed > free_blocks or len(changes.new) > free_inodes:
        raise errors.IOFailure(
            f"'{image.path}' has no room: {sizes.show(needed * block)} and {len(changes.new)} inodes are needed, "
            f"{sizes.show(free_blocks * block)} and {free_inodes} are free",
            "make it larger: bg-mkext4 --size",
        )


def _blocks(one: Placed, unit: int) -> int:
    """Return what a thing takes at most: its content, the extents of that, and a block for its folder to grow."""
    content = -(-_size(one) // unit)
    return content + (content // _EXTENTS_IN_BLOCK + 1 if content > 4 else 0) + 1


def _extents(image: Image, one: _Old) -> list[Extent]:
    """Return the blocks that get free when a name is taken out."""
    inode = one.found.inode
    if inode is None or not one.last or one.found.kind != "file" or inode.i_flags & INLINE_DATA_FL:
        return []
    return image.extents(inode)


def _attribute_blocks(image: Image, removed: Sequence[_Old]) -> dict[int, int]:
    """Return the attribute blocks of inodes that go, each with how many others still share it.

    debugfs forgets them when it removes an inode.
    """
    left: dict[int, int] = {}
    for one in removed:
        if one.last and one.found.inode is not None:
            image.xattrs(one.found.inode)  # raises BadInput for attributes that need more than a block
            place = one.found.inode.i_file_acl
            if place:
                left[place] = left.get(place, xattr.owners(image.block(place))) - 1
    return left


def _commands(changes: _Changes, scratch: Path) -> list[str]:
    """Return the commands that do it all; names are taken out first, which makes room."""
    commands = [debugfs.removal(old.path) for old in changes.old]
    for number, one in enumerate(changes.new):
        commands += debugfs.creation(one, scratch, number)
    for folder in changes.folders:
        commands += debugfs.fields(folder)
    return commands


def _verify(path: Path, changes: _Changes) -> None:
    """Read everything back by our own reader; the image is still marked dirty, and rightly so."""
    made = [*changes.new, *changes.folders]
    with opened(path, editing=True) as image:
        view = View(image)
        for one in made:
            if not is_there(view, one):
                raise errors.IOFailure(f"'{one.path}' is not in '{path}' as it was written")
        for gone in {old.path for old in changes.old} - {one.path for one in made}:
            if view.at(gone) is not None:
                raise errors.IOFailure(f"'{gone}' is still in '{path}'")


def _finish(path: Path, owners: Mapping[int, int], freed: Sequence[Extent]) -> None:
    """Do what debugfs leaves undone of removals: attribute blocks are given back, and what was freed is wiped.

    It may have been a secret, such as a host key.
    """
    with opened(path, writable=True, editing=True) as image:  # as debugfs left it
        for place, count in owners.items():
            _share(image, place, count)
        free = [block for extent in freed for block in _still_free(image, extent)]
        for block in free:
            os.pwrite(image.descriptor, bytes(image.geometry.block_size), block * image.geometry.block_size)


def _share(image: Image, place: int, count: int) -> None:
    """Let so many inodes share an attribute block; with none left it is given back."""
    if count <= 0:
        editor.free_block(image, place)
        return
    seed = image.seed if image.has_checksums else None
    block = xattr.with_owners(image.block(place), place, count, seed)
    os.pwrite(image.descriptor, block, place * image.geometry.block_size)


def _still_free(image: Image, extent: Extent) -> Iterator[int]:
    """Yield the blocks of a run that the bitmaps say are free."""
    bitmaps: dict[int, bytes] = {}
    for block in range(extent.physical, extent.physical + extent.length):
        group, bit = image.geometry.bitmap_bit(block)
        if group not in bitmaps:
            bitmaps[group] = image.block(image.descriptors[group].bg_block_bitmap)
        if not bitmaps[group][bit >> 3] & 1 << (bit & 7):
            yield block
