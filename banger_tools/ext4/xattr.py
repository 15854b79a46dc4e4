"""Extended attributes as ext4 keeps them: in the inode's spare room, and in one block.

ACLs have a form of their own on disk. Source: kernel documentation, filesystems/ext4, "Extended Attributes";
fs/ext4/acl.h for the ACLs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from banger_tools import errors
from banger_tools.ext4 import structures as s
from banger_tools.ext4.structures import Inode

_ENTRY = struct.Struct("<BBHIII")
_REFCOUNT = struct.Struct("<I")
_PREFIXES = ((1, "user."), (4, "trusted."), (6, "security."), (7, "system."))
_WHOLE = {"system.posix_acl_access": 2, "system.posix_acl_default": 3}
_NAMES = {2: "system.posix_acl_access", 3: "system.posix_acl_default"}
_INLINE_DATA = (7, b"data")
BLOCK_HEADER = 32

# POSIX ACLs: entries with these tags carry an id
_ACL_WITH_ID = (0x02, 0x08)
_ACL_NO_ID = 0xFFFFFFFF


def index_of(name: str) -> tuple[int, bytes] | None:
    """Return the index and the rest of a name, or None if ext4 has no place for its namespace."""
    if name in _WHOLE:
        return _WHOLE[name], b""
    for index, prefix in _PREFIXES:
        if name.startswith(prefix) and len(name) > len(prefix):
            return index, name.removeprefix(prefix).encode("utf-8", "surrogateescape")
    return None


def acl_to_disk(value: bytes) -> bytes:
    """Turn an ACL as getxattr(2) gives it (version 2, 8 bytes an entry) into ext4's (version 1, short entries)."""
    if len(value) < 4 or len(value) % 8 != 4 or struct.unpack_from("<I", value)[0] != 2:
        raise errors.BadInput("a POSIX ACL is malformed")
    parts = [struct.pack("<I", 1)]
    for tag, permissions, number in struct.iter_unpack("<HHI", value[4:]):
        parts.append(struct.pack("<HH", tag, permissions))
        if tag in _ACL_WITH_ID:
            parts.append(struct.pack("<I", number))
    return b"".join(parts)


def acl_from_disk(value: bytes) -> bytes:
    """Turn an ACL of ext4 into the form of getxattr(2)."""
    parts = [struct.pack("<I", 2)]
    at = 4
    while at + 4 <= len(value):
        tag, permissions = struct.unpack_from("<HH", value, at)
        at += 4
        number = _ACL_NO_ID
        if tag in _ACL_WITH_ID and at + 4 <= len(value):
            number = struct.unpack_from("<I", value, at)[0]
            at += 4
        parts.append(struct.pack("<HHI", tag, permissions, number))
    return b"".join(parts)


Attribute = tuple[int, bytes, bytes]  # index, rest of the name, value


def attributes(values: dict[str, bytes]) -> tuple[list[Attribute], list[str]]:
    """Return the attributes in the order of the format, and the names that ext4 cannot hold."""
    found: list[Attribute] = []
    refused: list[str] = []
    for name, value in values.items():
        place = index_of(name)
        if place is None or len(place[1]) > 255:
            refused.append(name)
        else:
            found.append((*place, acl_to_disk(value) if name in _WHOLE else value))
    return sorted(found, key=lambda a: (a[0], len(a[1]), a[1])), refused


def _entry_size(attribute: Attribute) -> int:
    return _round(_ENTRY.size + len(attribute[1]))


def _round(size: int) -> int:
    return (size + 3) & ~3


def split(found: list[Attribute], inode_room: int) -> tuple[list[Attribute], list[Attribute]]:
    """Divide attributes between the inode, which has `inode_room` bytes, and the block."""
    inside: list[Attribute] = []
    room = inode_room - 4 - 4  # the magic before, four zero bytes after the entries
    for attribute in found:
        size = _entry_size(attribute) + _round(len(attribute[2]))
        if size <= room:
            inside.append(attribute)
            room -= size
    return inside, [attribute for attribute in found if attribute not in inside]


def block_bytes(found: list[Attribute]) -> int:
    """Return how many bytes of a block attributes take."""
    return BLOCK_HEADER + 4 + sum(_entry_size(a) + _round(len(a[2])) for a in found)


def _lay_out(found: list[Attribute], area: bytearray, start: int, base: int, *, hashed: bool) -> list[int]:
    """Write entries from `start` on and values from the end back; offsets count from `base`. Return the hashes."""
    at, end = start, len(area)
    hashes = []
    for index, name, value in found:
        end -= _round(len(value))
        area[end : end + len(value)] = value
        entry_hash = _hash(name, value) if hashed else 0
        hashes.append(entry_hash)
        offset = end - base if value else 0
        _ENTRY.pack_into(area, at, len(name), index, offset, 0, len(value), entry_hash)
        area[at + _ENTRY.size : at + _ENTRY.size + len(name)] = name
        at += _round(_ENTRY.size + len(name))
    return hashes


def encode_in_inode(found: list[Attribute], room: int) -> bytes:
    """Return the bytes that follow an inode's fields."""
    area = bytearray(room)
    struct.pack_into("<I", area, 0, s.XATTR_MAGIC)
    _lay_out(found, area, 4, 4, hashed=False)
    return bytes(area)


def encode_block(found: list[Attribute], block_size: int) -> bytearray:
    """Return an attribute block whose checksum is still zero (it covers the block's number)."""
    area = bytearray(block_size)
    hashes = _lay_out(found, area, BLOCK_HEADER, 0, hashed=True)
    total = 0
    for entry_hash in hashes:
        if entry_hash == 0:
            total = 0
            break
        total = (total << 16 ^ total >> 16 ^ entry_hash) & 0xFFFFFFFF
    struct.pack_into("<IIII", area, 0, s.XATTR_MAGIC, 1, 1, total)
    return area


def _hash(name: bytes, value: bytes) -> int:
    result = 0
    for byte in name:
        result = (result << 5 ^ result >> 27 ^ byte) & 0xFFFFFFFF
    for (word,) in struct.iter_unpack("<I", value.ljust(_round(len(value)), b"\0")):
        result = (result << 16 ^ result >> 16 ^ word) & 0xFFFFFFFF
    return result


def owners(block: bytes) -> int:
    """Return how many inodes share an attribute block (h_refcount)."""
    count: int = _REFCOUNT.unpack_from(block, 4)[0]
    return count


def with_owners(block: bytes, place: int, count: int, seed: int | None) -> bytes:
    """Return an attribute block shared by so many inodes; without checksums the filesystem's `seed` is None."""
    from banger_tools.ext4.checksum import attributes_checksum

    changed = bytearray(block)
    _REFCOUNT.pack_into(changed, 4, count)
    if seed is not None:
        _REFCOUNT.pack_into(changed, 16, 0)  # h_checksum
        _REFCOUNT.pack_into(changed, 16, attributes_checksum(seed, place, changed))
    return bytes(changed)


def in_inode(inode: Inode) -> Iterator[tuple[str, bytes]]:
    """Yield the attributes in an inode's spare room."""
    for index, name, value in _in_inode(inode):
        if (index, name) != _INLINE_DATA:
            yield _named(index, name, value)


def inline_data_place(inode: Inode) -> tuple[int, int]:
    """Return offset and length, in the inode, of the part of an inline file that is kept as an attribute."""
    start = s.GOOD_OLD_INODE_SIZE + inode.extra_isize + 4
    for _, index, name, offset, size in _headers(bytes(inode.raw[start - 4 :]), 4):
        if (index, name) == _INLINE_DATA:
            return start + offset, size
    return 0, 0


def _in_inode(inode: Inode) -> Iterator[Attribute]:
    start = s.GOOD_OLD_INODE_SIZE + inode.extra_isize
    area = bytes(inode.raw[start:])
    if len(area) > 4 and struct.unpack_from("<I", area)[0] == s.XATTR_MAGIC:
        yield from _entries(area, 4, 4)


def in_block(block: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the attributes in a block."""
    if struct.unpack_from("<I", block)[0] != s.XATTR_MAGIC:
        raise errors.BadInput("an xattr block is malformed")
    for index, name, value in _entries(block, BLOCK_HEADER, 0):
        yield _named(index, name, value)


def _headers(area: bytes, start: int) -> Iterator[tuple[int, int, bytes, int, int]]:
    """Yield the entries of an attribute area: place, index, rest of the name, offset and size of the value."""
    at = start
    while at + 4 <= len(area) and area[at : at + 4] != b"\0\0\0\0":
        if at + _ENTRY.size > len(area):
            raise errors.BadInput("an xattr entry is malformed")
        name_length, index, offset, value_inode, size, _ = _ENTRY.unpack_from(area, at)
        name = area[at + _ENTRY.size : at + _ENTRY.size + name_length]
        if value_inode:
            raise errors.BadInput("an xattr is kept in an inode of its own, which is not supported")
        if len(name) != name_length:
            raise errors.BadInput("an xattr entry is malformed")
        yield at, index, name, offset, size
        at += _round(_ENTRY.size + name_length)


def _entries(area: bytes, start: int, base: int) -> Iterator[Attribute]:
    for _, index, name, offset, size in _headers(area, start):
        if base + offset + size > len(area):
            raise errors.BadInput("an xattr value is malformed")
        yield index, name, area[base + offset : base + offset + size]


def _named(index: int, name: bytes, value: bytes) -> tuple[str, bytes]:
    if index in _NAMES:
        return _NAMES[index], acl_from_disk(value)
    prefix = next((prefix for known, prefix in _PREFIXES if known == index), f"unknown-{index}.")
    return prefix + name.decode("utf-8", "surrogateescape"), value
