"""Making the empty filesystem: its size, its geometry, and mke2fs itself, which always gives the same bytes."""

from __future__ import annotations

import hashlib
import os
import uuid
from pathlib import Path
from typing import NamedTuple

from banger_tools import process
from banger_tools.ext4 import allocator
from banger_tools.ext4.plan import BLOCK, FIRST_FREE_INO, INODE_SIZE

GROUP_BYTES = BLOCK * BLOCK * 8
BYTES_PER_INODE = 16384
MIB = 1 << 20
LEAST_JOURNAL = 4 * MIB
LEAST_SIZE, LEAST_SIZE_WITHOUT_JOURNAL = 8 * MIB, 1 * MIB
# How mke2fs says that a size is too small for the inodes and all else
_TOO_SMALL = (b"Not enough space to build", b"requested number of inodes", b"too big for a", b"Could not allocate")


class Format(NamedTuple):
    """How to make an empty filesystem: everything that mke2fs would else take from its host or the clock.

    journal: its size in bytes; None for what mke2fs finds right for the size.
    """

    size: int
    inodes: int
    journal: int | None
    features: tuple[str, ...]
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
    """Return about how large a filesystem must be that has room for `blocks` and `inodes`, with a usual journal."""
    size = (blocks + -(-inodes * INODE_SIZE // BLOCK)) * BLOCK + MIB
    groups = -(-size // GROUP_BYTES) + 1
    bitmaps_and_rounding = groups * 3 * BLOCK
    descriptors = _copies(groups) * _descriptors(groups, size) * BLOCK
    return size + bitmaps_and_rounding + descriptors + _journal(max(size, LEAST_SIZE))


def _copies(groups: int) -> int:
    """Return how many groups hold a copy of the superblock: 0, 1, and the powers of 3, 5 and 7."""
    powers = {int(base**exponent) for base in (3, 5, 7) for exponent in range(12)}
    return 1 + sum(power < groups for power in powers)


def _descriptors(groups: int, size: int) -> int:
    """Return the blocks of a superblock, the descriptors, and the room for those of a filesystem grown 1,024-fold."""
    return 1 + -(-groups * 64 // BLOCK) + min(BLOCK // 4, 1024 * size // GROUP_BYTES * 64 // BLOCK + 1)


def _journal(size: int) -> int:
    """Return the size of the journal that mke2fs chooses (ext2fs_default_journal_size)."""
    blocks = size // BLOCK
    steps = ((2048, 0), (32768, 1024), (256 << 10, 4096), (512 << 10, 8192), (4096 << 10, 16384), (8192 << 10, 32768))
    return next((journal for limit, journal in steps if blocks < limit), 65536 if blocks < 16 << 20 else 262144) * BLOCK


def default_inodes(needed: int, size: int) -> int:
    """Return how many inodes to make: the usual one per 16 KiB, and at least a quarter more than are needed."""
    return max(needed + needed // 4 + FIRST_FREE_INO, size // BYTES_PER_INODE)


def small_journal(size: int) -> int | None:
    """Return the size of the smallest journal, for a filesystem that would get a larger one; else None."""
    return LEAST_JOURNAL if _journal(size) > LEAST_JOURNAL else None


def make(path: Path, form: Format) -> None:
    """Make an empty filesystem in a new file at `path`.

    Raises allocator.Full if the size is too small for what stands in any filesystem, Unavailable if mke2fs is
    missing or fails.
    """
    journaled = "has_journal" in form.features
    if form.size < (LEAST_SIZE if journaled else LEAST_SIZE_WITHOUT_JOURNAL):
        raise allocator.Full  # mke2fs would leave out the journal and say so only to people
    with open(path, "xb") as file:
        file.truncate(form.size)
    extended = f"hash_seed={form.hash_seed},lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0"
    journal = ["-J", f"size={form.journal // MIB}"] if form.journal and journaled else []
    argv = [
        "mke2fs", "-q", "-F", "-t", "ext4", "-b", str(BLOCK), "-I", str(INODE_SIZE), "-m", "0", "-e", "continue",
        "-N", str(form.inodes), "-U", str(form.uuid), "-L", form.label, "-O", ",".join(["none", *form.features]),
        *journal, "-E", extended, str(path),
    ]  # fmt: skip
    # An empty configuration: the host's mke2fs.conf must not shape the image.
    env = {"MKE2FS_CONFIG": os.devnull, "E2FSPROGS_FAKE_TIME": str(form.time)}
    result = process.run(argv, env=env, check=False)
    if any(words in result.stderr for words in _TOO_SMALL):
        raise allocator.Full
    if result.status != 0:
        raise process.explain(argv[0], result)
