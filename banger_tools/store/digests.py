"""What a disk in the store holds, as one digest that its holes take no time for."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from banger_tools import files

BLOCK, _CHUNK = 4096, 1 << 20
_ZEROS = bytes(BLOCK)


def of_disk(path: Path) -> str:
    """Return the digest of a disk's content: SHA-256 over its size and each block that is not all zeros.

    The size in bytes and before each block its number are 8 bytes, little-endian; a block has 4096 bytes, the last one
    is filled up with zeros. So a copy has the same digest wherever its holes are. Raises OSError.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        whole, done = hashlib.sha256(size.to_bytes(8, "little")), 0
        for start, end in files.data_ranges(file.fileno(), 0, size):
            start = max(start - start % BLOCK, done)  # of filesystems whose holes begin within a block
            while start < end:
                data = os.pread(file.fileno(), _CHUNK, start)
                if not data:  # it became shorter
                    break
                whole.update(_present(data, start // BLOCK))
                start = done = start + _CHUNK
    return f"sha256:{whole.hexdigest()}"


def _present(data: bytes, number: int) -> bytes:
    """Return the blocks of a piece of a disk that are not all zeros, each after its number."""
    pieces = []
    for offset in range(0, len(data), BLOCK):
        block = data[offset : offset + BLOCK].ljust(BLOCK, b"\0")
        if block != _ZEROS:
            pieces += [(number + offset // BLOCK).to_bytes(8, "little"), block]
    return b"".join(pieces)
