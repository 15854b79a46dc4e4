"""A folder of an ext4 image as the entries of a tree, whose data stays in the image."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from banger_tools import console, errors, tree
from banger_tools.ext4 import structures as s
from banger_tools.ext4.image import Image
from banger_tools.ext4.structures import Inode
from banger_tools.ext4.walk import Node, quoted, refuse_encrypted, walk
from banger_tools.tree import Entry


def entries(image: Image, number: int) -> list[Entry]:
    """Return everything below the folder with inode `number`, itself as the root, in tree order.

    Data is in source 0, the image. Sockets are left out with a warning. Raises BadInput if the image is damaged.
    """
    found: list[Entry] = []
    first_names: dict[int, bytes] = {}
    claimed = 0
    for node in sorted(walk(image, number), key=lambda node: tree.order(node[0])):
        path, inode_number, mode = node[:3]
        kind = image.kind_of(mode)
        if kind == "socket":
            console.warning(f"left out {quoted(path)}: a socket has no place in a tree")
        elif kind != "dir" and inode_number in first_names:
            found.append(_hardlink(path, first_names[inode_number]))
        else:
            first_names[inode_number] = path
            found.append(_entry(image, node, kind))
            claimed += sum(length for _, _, length in found[-1].segments or ())
            # Files that share blocks could make a seed of exabytes out of a small image.
            if claimed > image.geometry.blocks * image.geometry.block_size:
                raise image.broken(f"{quoted(path)} shares blocks with other files")
    return found


def _hardlink(path: bytes, first: bytes) -> Entry:
    entry = tree.new_entry(path, "hardlink")
    entry.target, entry.target_b64 = tree.text_of(first)
    return entry


def _entry(image: Image, node: Node, kind: str) -> Entry:
    path, number, mode, uid, gid = node
    inode = image.inode(number)
    refuse_encrypted(image, path, inode)
    entry = tree.new_entry(path, kind)
    entry.mode = f"{mode & 0o7777:04o}"
    entry.uid, entry.gid, entry.mtime = uid, gid, inode.mtime
    try:
        _fill(image, inode, entry)
    except errors.BadInput as error:
        raise errors.BadInput(f"{quoted(path)}: {error.message}", error.hint) from error
    return entry


def _fill(image: Image, inode: Inode, entry: Entry) -> None:
    """Set what is in the inode's blocks: attributes, data, target, device numbers."""
    xattrs = image.xattrs(inode)
    if xattrs:
        entry.xattrs = {name: base64.b64encode(xattrs[name]).decode() for name in sorted(xattrs)}
    if entry.type == "file":
        entry.size = inode.i_size
        if entry.size:
            entry.data, entry.segments = (0, 0), image.segments(inode)
    elif entry.type == "symlink":
        target = image.read(inode, s.MAX_SYMLINK)
        if not target:
            raise image.broken("a symlink without a target")
        entry.target, entry.target_b64 = tree.text_of(target)
    elif entry.type in ("char", "block"):
        entry.rdev = _rdev(inode)


def _rdev(inode: Inode) -> tuple[int, int]:
    """Return the numbers of a device: the old encoding in the first word, else the new one in the second."""
    old = int.from_bytes(inode.i_block[:4], "little")
    if old:
        return old >> 8 & 0xFF, old & 0xFF
    new = int.from_bytes(inode.i_block[4:8], "little")
    return new >> 8 & 0xFFF, new & 0xFF | new >> 12 & 0xFFF00


def without_nested(found: Sequence[Entry], name: bytes) -> list[Entry]:
    """Return a tree with what the folder `name` at its top holds lifted up, and that folder gone; again, if need be.

    The root and folders that both have take the nested folder's place in all but the name. Raises BadInput for any
    other name that both have.
    """
    by_path = {tree.path_bytes(entry): entry for entry in found}
    nested = b"/" + name
    while nested in by_path and by_path[nested].type == "dir":
        by_path = _lifted(by_path, nested)
    return [by_path[path] for path in sorted(by_path, key=tree.order)]


def _lifted(by_path: dict[bytes, Entry], nested: bytes) -> dict[bytes, Entry]:
    inside = nested + b"/"
    kept = {path: entry for path, entry in by_path.items() if path != nested and not path.startswith(inside)}
    for path, entry in by_path.items():
        if path != nested and not path.startswith(inside):
            continue
        new_path = path[len(nested) :] or b"/"
        other = kept.get(new_path)
        if other is not None and not other.type == entry.type == "dir":
            raise errors.BadInput(
                f"{quoted(new_path)} and {quoted(path)} of the home are two: neither can take the other's place",
                "remove or rename one of them, or do without --flatten-nested",
            )
        entry.path, entry.path_b64 = tree.text_of(new_path)
        kept[new_path] = entry
    for entry in kept.values():
        target = tree.target_bytes(entry)
        if entry.type == "hardlink" and target.startswith(inside):
            entry.target, entry.target_b64 = tree.text_of(target[len(nested) :])
    return kept
