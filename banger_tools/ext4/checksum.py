"""The checksums of ext4's metadata: crc32c as a raw register, seeded by the filesystem and the inode.

The library inverts the register at both ends as the common CRC-32C does; a seed here is in the library's form, and
`final` turns it into the form on disk. Source: kernel documentation, filesystems/ext4, "Checksums".
"""

from __future__ import annotations

import struct

from crc32c import crc32c

from banger_tools.ext4.structures import GroupDescriptor, Superblock

_PAIR = struct.Struct("<II")


def final(value: int) -> int:
    """Return a checksum as it stands on disk."""
    return value ^ 0xFFFFFFFF


def filesystem_seed(superblock: Superblock) -> int:
    """Return the seed of everything but the superblock."""
    if superblock.has("metadata_csum_seed"):
        return superblock.s_checksum_seed ^ 0xFFFFFFFF
    return crc32c(superblock.s_uuid)


def inode_seed(seed: int, number: int, generation: int) -> int:
    """Return the seed of an inode and of the blocks that belong to it."""
    return crc32c(_PAIR.pack(number, generation), seed)


def superblock_checksum(superblock: Superblock) -> int:
    return final(crc32c(superblock.raw[:0x3FC]))


def bitmap_checksum(seed: int, bitmap: bytes | bytearray | memoryview) -> int:
    """Return the checksum of a bitmap; pass only the bytes that count (blocks or inodes per group / 8)."""
    return final(crc32c(bitmap, seed))


def attributes_checksum(seed: int, place: int, block: bytes | bytearray) -> int:
    """Return h_checksum of an attribute block that stands at a place, and whose own field is zero."""
    return final(crc32c(block, crc32c(struct.pack("<Q", place), seed)))


def descriptor_checksum(superblock: Superblock, seed: int, group: int, descriptor: GroupDescriptor) -> int:
    """Return bg_checksum: crc32c with metadata_csum, crc16 with gdt_csum, else 0."""
    body = bytearray(descriptor.raw[: descriptor.length])
    if superblock.has("metadata_csum"):
        body[0x1E:0x20] = b"\0\0"
        return final(crc32c(body, crc32c(struct.pack("<I", group), seed))) & 0xFFFF
    if superblock.has("gdt_csum"):
        value = crc16(superblock.s_uuid + struct.pack("<I", group), 0xFFFF)
        return crc16(bytes(body[:0x1E] + body[0x20:]), value)
    return 0


def inode_is_sound(seed: int, raw: bytes | bytearray, number: int) -> bool:
    """Tell whether an inode has the checksum that it should have."""
    value = _whole_inode(seed, raw, number)
    stated = raw[0x7C:0x7E] + raw[0x82:0x84] if _has_high_half(raw) else raw[0x7C:0x7E]
    return value.startswith(stated)


def seal_inode(seed: int, raw: bytearray, number: int) -> None:
    """Set an inode's checksum: the low half always, the high half where the inode has room for it."""
    value = _whole_inode(seed, raw, number)
    raw[0x7C:0x7E] = value[:2]  # i_checksum_lo
    if _has_high_half(raw):
        raw[0x82:0x84] = value[2:]  # i_checksum_hi


def _has_high_half(raw: bytes | bytearray) -> bool:
    return len(raw) > 0x84 and (raw[0x80] >= 4 or raw[0x81] > 0)  # i_extra_isize


def _whole_inode(seed: int, raw: bytes | bytearray, number: int) -> bytes:
    """Return the checksum of an inode, whatever its checksum fields hold now: they count as zero."""
    blank = bytearray(raw)
    blank[0x7C:0x7E] = b"\0\0"
    if _has_high_half(raw):
        blank[0x82:0x84] = b"\0\0"
    value = final(crc32c(blank, crc32c(number.to_bytes(4, "little") + raw[0x64:0x68], seed)))
    return value.to_bytes(4, "little")


def crc16(data: bytes, value: int) -> int:
    """Return the CRC-16 (polynomial 0x8005, reflected) that gdt_csum uses."""
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0xA001 if value & 1 else 0)
    return value
