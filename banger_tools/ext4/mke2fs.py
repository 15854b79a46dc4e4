"""Making the empty filesystem: its size, its geometry, and mke2fs itself, which always gives the same bytes."""

from __future__ import annotations

import hashlib
import os
import uuid
from pathlib import Path
from typing import NamedTuple

from banger_tools import process
from banger_tools.ext4.plan import BLOCK, FIRST_FREE_INO, INODE_SIZE

GIB = 1 << 30
GROUP_BYTES = BLOCK * BLOCK * 8
FEATURES = (
    "has_journal", "ext_attr", "resize_inode", "dir_index", "filetype", "extent", "64bit", "flex_bg", "sparse_super",
    "large_file", "huge_file", "dir_nlink", "extra_isize", "metadata_csum",
)  # fmt: skip
BYTES_PER_INODE = 16384
MIN_SIZE = 8 << 20


class Format(NamedTuple):
    """How to make an empty filesystem: everything that mke2fs would else take from its host or the clock."""

    size: int
    inodes: int
    label: str
    uuid: uuid.UUID
    hash_seed: uuid.UUID
    time: int


def derived_uuid(identity: str, purpose: str) -> uuid.UUID:
    """Return a UUID that follows from a tree's identity, so that the same tree gives the same filesystem."""
    raw = bytearray(hashlib.sha256(f"{purpose}:{identity}".encode()).digest()[:16])
    raw[6] = raw[6] & 0x0F | 0x80  # version 8, RFC 9562: made as we like
    raw[8] = raw[8] & 0x3F | 0x80
    return uuid.UUID(bytes=bytes(raw))


def build_time() -> int:
    """Return the time that the filesystem claims to be made at: SOURCE_DATE_EPOCH, else the first second of 1970."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    return max(1, min(int(text), 0xFFFFFFFF)) if text.isdecimal() else 1  # zero would mean "now" to mke2fs


def estimate(blocks: int, inodes: int) -> int:
    """Return about how large a filesystem must be that has room for `blocks` and `inodes`: an upper bound."""
    size = (blocks + -(-inodes * INODE_SIZE // BLOCK)) * BLOCK + (4 << 20)
    groups = -(-size // GROUP_BYTES) + 1
    tables = groups * (2 + 1) * BLOCK + groups * BLOCK  # bitmaps, and the tables' rounding
    copies = 12 * (-(-groups * 64 // BLOCK) + 1024) * BLOCK if size > 64 << 20 else 2 << 20
    return size + tables + copies + _journal(size)


def _journal(size: int) -> int:
    """Return the size of the journal that mke2fs chooses (ext2fs_default_journal_size)."""
    blocks = size // BLOCK
    steps = ((2048, 0), (32768, 1024), (256 << 10, 4096), (512 << 10, 8192), (4096 << 10, 16384), (8192 << 10, 32768))
    return next((journal for limit, journal in steps if blocks < limit), 65536 if blocks < 16 << 20 else 262144) * BLOCK


def default_inodes(needed: int, size: int) -> int:
    """Return how many inodes to make: the usual one per 16 KiB, and at least a quarter more than are needed."""
    return max(needed + needed // 4 + FIRST_FREE_INO, size // BYTES_PER_INODE)


def make(path: Path, form: Format) -> None:
    """Make an empty filesystem in a new file at `path`.

    Raises Unavailable if mke2fs is missing or fails.
    """
    with open(path, "xb") as file:
        file.truncate(form.size)
    extended = f"hash_seed={form.hash_seed},lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0"
    argv = [
        "mke2fs", "-q", "-F", "-t", "ext4", "-b", str(BLOCK), "-I", str(INODE_SIZE), "-m", "0", "-e", "continue",
        "-N", str(form.inodes), "-U", str(form.uuid), "-L", form.label, "-O", ",".join(["none", *FEATURES]),
        "-E", extended, str(path),
    ]  # fmt: skip
    # An empty configuration: the host's mke2fs.conf must not shape the image.
    process.run(argv, env={"MKE2FS_CONFIG": os.devnull, "E2FSPROGS_FAKE_TIME": str(form.time)})
