"""A folder of an ext4 image as the entries of a tree, whose data stays in the image."""

from __future__ import annotations

import base64

from banger_tools import console, tree
from banger_tools.ext4.image import Image
from banger_tools.ext4.structures import Inode
from banger_tools.tree import Entry

MAX_SYMLINK = 4096
MAX_DEPTH = 1000


def entries(image: Image, number: int) -> list[Entry]:
    """Return everything below the folder with inode `number`, itself as the root, in tree order.

    Data is in source 0, the image. Sockets are left out with a warning. Raises BadInput if the image is damaged.
    """
    found: list[Entry] = []
    first_names: dict[int, bytes] = {}
    stack: list[tuple[bytes, int]] = [(b"/", number)]
    while stack:
        path, inode_number = stack.pop()
        inode = image.inode(inode_number)
        kind = image.kind(inode)
        if kind in ("socket", "unknown"):
            console.warning(f"left out '{path.decode(errors='replace')}': a {kind} has no place in a tree")
            continue
        if kind != "dir" and inode_number in first_names:
            found.append(_hardlink(path, first_names[inode_number]))
            continue
        first_names.setdefault(inode_number, path)
        found.append(_entry(image, path, kind, inode))
        if kind == "dir":
            if path.count(b"/") > MAX_DEPTH or (path != b"/" and inode_number == number):
                raise image.broken("its folders go round in a circle")
            prefix = path.rstrip(b"/") + b"/"
            names = sorted(image.names(inode), reverse=True)
            stack += [(prefix + entry.name, entry.inode) for entry in names]
    return found


def _hardlink(path: bytes, first: bytes) -> Entry:
    entry = tree.new_entry(path, "hardlink")
    entry.target, entry.target_b64 = tree.text_of(first)
    return entry


def _entry(image: Image, path: bytes, kind: str, inode: Inode) -> Entry:
    entry = tree.new_entry(path, kind)
    entry.mode = f"{inode.i_mode & 0o7777:04o}"
    entry.uid, entry.gid, entry.mtime = inode.i_uid, inode.i_gid, inode.mtime
    xattrs = image.xattrs(inode)
    if xattrs:
        entry.xattrs = {name: base64.b64encode(xattrs[name]).decode() for name in sorted(xattrs)}
    if kind == "file":
        entry.size = inode.i_size
        if entry.size:
            entry.data, entry.segments = (0, 0), image.segments(inode)
    elif kind == "symlink":
        entry.target, entry.target_b64 = tree.text_of(image.read(inode, MAX_SYMLINK))
    elif kind in ("char", "block"):
        entry.rdev = _rdev(inode)
    return entry


def _rdev(inode: Inode) -> tuple[int, int]:
    """Return the numbers of a device: the old encoding in the first word, else the new one in the second."""
    old = int.from_bytes(inode.i_block[:4], "little")
    if old:
        return old >> 8 & 0xFF, old & 0xFF
    new = int.from_bytes(inode.i_block[4:8], "little")
    return new >> 8 & 0xFFF, new & 0xFF | new >> 12 & 0xFFF00
