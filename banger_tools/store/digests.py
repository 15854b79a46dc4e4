"""What a disk in the store holds, as one digest that its holes take no time for."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from banger_tools import files

PIECE = 1 << 16
_ZEROS = bytes(PIECE)


def of_disk(path: Path) -> str:
    """Return the digest of a disk's content: SHA-256 over its size and each piece that is not all zeros.

    The size in bytes and before each piece its number are 8 bytes, little-endian; a piece has 64 KiB, the last one is
    filled up with zeros. So a copy has the same digest wherever its holes are. Raises OSError.
    """
    with open(path, "rb") as file:
        descriptor = file.fileno()
        size = os.fstat(descriptor).st_size
        whole, done = hashlib.sha256(size.to_bytes(8, "little")), 0
        for start, end in files.data_ranges(descriptor, 0, size):
            for number in range(max(start // PIECE, done), -(-end // PIECE)):
                piece = os.pread(descriptor, PIECE, number * PIECE).ljust(PIECE, b"\0")
                if piece != _ZEROS:
                    whole.update(number.to_bytes(8, "little"))
                    whole.update(piece)
                done = number + 1
    return f"sha256:{whole.hexdigest()}"
