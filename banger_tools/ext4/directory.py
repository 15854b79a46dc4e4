"""The blocks of a directory: one linear block, or a hash index over leaves when the names need more than one.

Source: kernel documentation, filesystems/ext4, "Directory Entries" and "Hash Tree Directories".
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from crc32c import crc32c

from banger_tools.ext4.checksum import final
from banger_tools.ext4.dirhash import half_md4
from banger_tools.ext4.structures import FT, FT_CHECKSUM

BLOCK = 4096
_TAIL = 12
USABLE = BLOCK - _TAIL
_DIRENT = struct.Struct("<IHBB")
_TAIL_STRUCT = struct.Struct("<IHBBI")
_HALF_MD4 = 1
ROOT_LIMIT = 507  # (4096 - two entries, 24 - dx_root_info, 8 - tail, 8) / 8
NODE_LIMIT = 510  # (4096 - fake entry, 8 - tail, 8) / 8
MAX_LEAVES = ROOT_LIMIT * NODE_LIMIT  # two levels; a third one asks for large_dir, and for 60 million names

Child = tuple[bytes, int, int]  # name, inode number, file type
HashSeed = tuple[int, int, int, int]


def record_length(name: bytes) -> int:
    """Return the bytes that an entry takes."""
    return 8 + len(name) + 3 & ~3


def build(number: int, parent: int, children: Sequence[Child], seed: int | None, hash_seed: HashSeed) -> list[bytes]:
    """Return the blocks of the directory with inode `number`; `seed` is that inode's checksum seed, or None
    where the filesystem has no checksums: then the room for them in leaves stays, as an unused entry.

    They must not need more than MAX_LEAVES leaves.
    """
    if 24 + sum([8 + len(child[0]) + 3 & ~3 for child in children]) <= USABLE:
        entries = [(b".", number, FT["dir"]), (b"..", parent, FT["dir"]), *children]
        return [_leaf(entries, seed)]
    return _indexed(number, parent, children, seed, hash_seed)


def linear(number: int, parent: int, children: Sequence[Child], seed: int | None, count: int) -> list[bytes]:
    """Return at least so many blocks of a directory without an index, those at the end without entries."""
    blocks: list[bytes] = []
    pending: list[Child] = [(b".", number, FT["dir"]), (b"..", parent, FT["dir"])]
    used = 24
    for child in children:
        length = record_length(child[0])
        if used + length > USABLE:
            blocks.append(_leaf(pending, seed))
            pending, used = [], 0
        pending.append(child)
        used += length
    blocks.append(_leaf(pending, seed))
    return blocks + [_empty_leaf(seed)] * (count - len(blocks))


def _empty_leaf(seed: int | None) -> bytes:
    return _sealed(_DIRENT.pack(0, USABLE, 0, 0).ljust(USABLE, b"\0"), seed)


def _leaf(entries: Sequence[Child], seed: int | None) -> bytes:
    pack = _DIRENT.pack
    parts = []
    used = 0
    for name, inode, kind in entries[:-1]:
        length = 8 + len(name) + 3 & ~3
        parts.append(pack(inode, length, len(name), kind) + name.ljust(length - 8, b"\0"))
        used += length
    name, inode, kind = entries[-1]
    parts.append(pack(inode, USABLE - used, len(name), kind) + name)
    return _sealed(b"".join(parts).ljust(USABLE, b"\0"), seed)


def _sealed(body: bytes, seed: int | None) -> bytes:
    if seed is None:
        return body + _TAIL_STRUCT.pack(0, _TAIL, 0, 0, 0)
    return body + _TAIL_STRUCT.pack(0, _TAIL, 0, FT_CHECKSUM, final(crc32c(body, seed)))


def _indexed(number: int, parent: int, children: Sequence[Child], seed: int | None, hash_seed: HashSeed) -> list[bytes]:
    hashes = half_md4([child[0] for child in children], hash_seed)
    order = sorted(range(len(children)), key=hashes.__getitem__)
    leaves, firsts = _pack_leaves(children, hashes, order, seed)
    if len(leaves) <= ROOT_LIMIT:
        root = _root(number, parent, 0, list(zip(firsts, range(1, len(leaves) + 1), strict=True)), seed)
        return [root, *leaves]
    nodes = -(-len(leaves) // NODE_LIMIT)
    pairs = list(zip(firsts, range(1 + nodes, 1 + nodes + len(leaves)), strict=True))
    chunks = [pairs[n : n + NODE_LIMIT] for n in range(0, len(pairs), NODE_LIMIT)]
    root = _root(number, parent, 1, [(chunk[0][0], 1 + n) for n, chunk in enumerate(chunks)], seed)
    return [root, *(_node(chunk, seed) for chunk in chunks), *leaves]


def _pack_leaves(
    children: Sequence[Child], hashes: list[int], order: list[int], seed: int | None
) -> tuple[list[bytes], list[int]]:
    """Fill leaves in the order of the hashes; return them and the first hash of each."""
    leaves: list[bytes] = []
    firsts: list[int] = []
    pending: list[Child] = []
    used = 0
    first = previous = 0
    for index in order:
        length = record_length(children[index][0])
        if used + length > USABLE:
            leaves.append(_leaf(pending, seed))
            firsts.append(first)
            # The lowest bit says that the same hash stands at the end of the leaf before.
            first = hashes[index] | (hashes[index] == previous)
            pending, used = [], 0
        pending.append(children[index])
        used += length
        previous = hashes[index]
    return [*leaves, _leaf(pending, seed)], [*firsts, first]


def _root(number: int, parent: int, levels: int, pairs: list[tuple[int, int]], seed: int | None) -> bytes:
    dot = _DIRENT.pack(number, 12, 1, FT["dir"]) + b".\0\0\0"
    dotdot = _DIRENT.pack(parent, BLOCK - 12, 2, FT["dir"]) + b"..\0\0"
    info = struct.pack("<IBBBB", 0, _HALF_MD4, 8, levels, 0)
    return _index_block(dot + dotdot + info, pairs, ROOT_LIMIT, seed)


def _node(pairs: list[tuple[int, int]], seed: int | None) -> bytes:
    return _index_block(_DIRENT.pack(0, BLOCK, 0, 0), pairs, NODE_LIMIT, seed)


def _index_block(head: bytes, pairs: list[tuple[int, int]], limit: int, seed: int | None) -> bytes:
    """Return a block of the index; the first pair's hash is implied, and its place holds limit and count."""
    # Without checksums the format has one pair more in the place of the tail.
    count = struct.pack("<HHI", limit + (seed is None), len(pairs), pairs[0][1])
    body = head + count + b"".join(struct.pack("<II", *pair) for pair in pairs[1:])
    if seed is None:
        return body.ljust(BLOCK, b"\0")
    checksum = final(crc32c(bytes(8), crc32c(body, seed)))
    return body.ljust(len(head) + 8 * limit, b"\0") + struct.pack("<II", 0, checksum)
