"""What a tree becomes in ext4: inode numbers, link counts, directories, attributes, and the blocks they take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from banger_tools import console, errors, tree
from banger_tools.ext4 import directory, extents, xattr
from banger_tools.ext4 import structures as s
from banger_tools.tree import Entry

BLOCK = 4096
INODE_SIZE = 256
XATTR_ROOM = INODE_SIZE - s.GOOD_OLD_INODE_SIZE - s.EXTRA_ISIZE
FIRST_FREE_INO = s.LOST_FOUND_INO + 1
LOST_FOUND_BLOCKS = 4
MAX_FILE = ((1 << 32) - 1) * BLOCK  # block numbers in a file have 32 bits, and the last one means the end
LOST_FOUND = b"/lost+found"


class Item:
    """One inode to be written, from the entry that describes it."""

    __slots__ = ("acl", "blocks", "children", "entry", "links", "number", "parent", "room", "runs", "target")

    def __init__(self, entry: Entry, number: int, parent: int) -> None:
        self.entry = entry
        self.number = number
        self.parent = parent
        self.links = 1
        self.blocks = 0  # of content: data, directory or long symlink
        self.runs: list[tuple[int, int]] | None = None  # of a sparse file: (first block in the file, blocks)
        self.children: list[tuple[bytes, int, int]] = []
        self.target = b""
        self.room: bytes | None = None  # what follows the fields of the inode: attributes
        self.acl: list[xattr.Attribute] | None = None  # the attributes of its block


class Plan(NamedTuple):
    """All inodes in the order of their numbers, and what they need.

    blocks: an upper bound. data: the bytes in blocks that files and symlinks have for their content.
    """

    items: list[Item]
    inodes: int
    blocks: int
    data: int


def plan(entries: Sequence[Entry]) -> Plan:
    """Lay out a tree whose entries are in tree order and whose hardlinks come with their targets.

    Raises BadInput naming the entry that ext4 cannot hold.
    """
    items: list[Item] = []
    folders: dict[bytes, Item] = {}
    targets: dict[bytes, Item | None] = {tree.target_bytes(e): None for e in entries if e.type == "hardlink"}
    links: list[tuple[bytes, Entry]] = []
    number = FIRST_FREE_INO
    for entry in entries:
        path = tree.path_bytes(entry)
        if entry.type == "hardlink":
            links.append((path, entry))
            continue
        if path == b"/":
            item = Item(entry, s.ROOT_INO, s.ROOT_INO)
        else:
            folder, _, name = path.rpartition(b"/")
            parent = folders[folder]
            if path == LOST_FOUND:
                item = Item(entry, s.LOST_FOUND_INO, s.ROOT_INO)
            else:
                item = Item(entry, number, parent.number)
                number += 1
            parent.children.append((name, item.number, s.FT[entry.type]))
        _measure(item, path, folders)
        if path in targets:
            targets[path] = item
        items.append(item)
    _add_lost_found(items, folders)
    for path, entry in links:
        _link(path, entry, targets, folders)
    for item in folders.values():
        _measure_folder(item)
    blocks = sum(item.blocks + (item.acl is not None) for item in items) + _tree_blocks(items)
    data = sum(item.blocks for item in items if item.entry.type != "dir") * BLOCK
    return Plan(sorted(items, key=lambda i: i.number), number - 1, blocks, data)


def _measure(item: Item, path: bytes, folders: dict[bytes, Item]) -> None:
    """Find out what an inode needs besides itself."""
    entry = item.entry
    kind = entry.type
    if entry.xattrs:
        _measure_xattrs(item)
    if kind == "dir":
        folders[path if path != b"/" else b""] = item
        item.links = 2
    elif path == LOST_FOUND:
        raise errors.BadInput(f"'/lost+found' is a {kind}, and ext4 needs a folder of that name")
    elif kind == "file":
        if entry.segments is None:
            item.blocks = -(-entry.size // BLOCK)
        else:
            item.runs = _covered(entry.segments)
            item.blocks = sum(length for _, length in item.runs)
        if entry.size > MAX_FILE:
            raise errors.BadInput(f"'{entry.path}' has {entry.size} bytes, more than an ext4 file can have")
    elif kind == "symlink":
        item.target = tree.target_bytes(entry)
        if len(item.target) >= BLOCK:
            raise errors.BadInput(f"the target of symlink '{entry.path}' has {len(item.target)} bytes, 4095 at most")
        item.blocks = int(len(item.target) >= s.MAX_SYMLINK_INLINE)
    else:
        tree.check_device(entry)


def _measure_xattrs(item: Item) -> None:
    try:
        found, refused = xattr.attributes(tree.xattr_values(item.entry))
    except errors.BadInput as error:
        raise errors.BadInput(f"'{item.entry.path}': {error.message}") from None
    for name in refused:
        console.warning(f"'{item.entry.path}': ext4 cannot hold the xattr '{name}'; it is left out")
    inside, outside = xattr.split(found, XATTR_ROOM)
    if inside:
        item.room = xattr.encode_in_inode(inside, XATTR_ROOM)
    if outside:
        if xattr.block_bytes(outside) > BLOCK:
            raise errors.BadInput(f"'{item.entry.path}' has more xattrs than fit into one block of {BLOCK} bytes")
        item.acl = outside


def _covered(segments: Sequence[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """Return the runs of blocks that the data of a sparse file touches."""
    runs: list[tuple[int, int]] = []
    for offset, _, length in segments:
        first, end = offset // BLOCK, -(-(offset + length) // BLOCK)
        if runs and first <= sum(runs[-1]):
            runs[-1] = (runs[-1][0], max(end, sum(runs[-1])) - runs[-1][0])
        else:
            runs.append((first, end - first))
    return runs


def _add_lost_found(items: list[Item], folders: dict[bytes, Item]) -> None:
    if LOST_FOUND in folders:
        return
    root = folders[b""]
    entry = Entry("/lost+found", "dir", mode="0700", mtime=root.entry.mtime)
    item = folders[LOST_FOUND] = Item(entry, s.LOST_FOUND_INO, s.ROOT_INO)
    item.links = 2
    root.children.append((b"lost+found", item.number, s.FT["dir"]))
    items.append(item)


def _link(path: bytes, entry: Entry, targets: dict[bytes, Item | None], folders: dict[bytes, Item]) -> None:
    item = targets.get(tree.target_bytes(entry))
    if item is None:
        raise errors.BadInput(f"'{entry.path}' is a hardlink to '{entry.target}', which is not in the tree")
    item.links += 1
    if item.links > s.LINK_MAX:
        raise errors.BadInput(
            f"'{item.entry.path}' has more than {s.LINK_MAX} links, which is the most that ext4 allows"
        )
    folder, _, name = path.rpartition(b"/")
    folders[folder].children.append((name, item.number, s.FT[item.entry.type]))


def _measure_folder(item: Item) -> None:
    """Count a folder's links and blocks; the blocks of an indexed one are an upper bound."""
    subfolders = sum([child[2] == s.FT["dir"] for child in item.children])
    item.links = 2 + subfolders if 2 + subfolders <= s.LINK_MAX else 1
    used = 24 + sum([8 + len(child[0]) + 3 & ~3 for child in item.children])
    item.blocks = 1 if used <= directory.USABLE else _indexed_blocks(used)
    if item.blocks > directory.MAX_LEAVES:
        raise errors.BadInput(f"'{item.entry.path}' has {len(item.children)} names, more than an ext4 folder can index")
    if item.number == s.LOST_FOUND_INO:
        item.blocks = max(item.blocks, LOST_FOUND_BLOCKS)


def _indexed_blocks(used: int) -> int:
    leaves = -(-used // (directory.USABLE - 263)) + 1  # the last entry that does not fit may be the longest
    return 1 + leaves + (-(-leaves // directory.NODE_LIMIT) if leaves > directory.ROOT_LIMIT else 0)


def _tree_blocks(items: Sequence[Item]) -> int:
    """Return an upper bound of the blocks of extent trees: a file may be cut at each border of a flex group."""
    total = 0
    for item in items:
        if item.blocks > 1 or item.runs:
            pieces = len(item.runs or ()) + item.blocks // 8192 + 2
            total += extents.tree_blocks(pieces)
    return total
