"""The seal of an image: what bg-mkext4 says of the owners in it, which holds as long as nobody writes to the file.

It is an extended attribute of the file, with the time of the last write and this boot of the machine: what a crash has
lost must not be believed to be there. The mark of the cache, a time of 1970, would not do: make(1) goes by the times of
artifacts. Where attributes cannot be kept there is no seal, and all owners are compared.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from banger_tools.oci import mark

ATTRIBUTE = "user.banger.owners"


def put(path: Path, digest: str, inodes: int) -> None:
    """Say that so many inodes, all that it has, are what the tree of a digest says."""
    found = os.stat(path)
    # The time of a write stands still for milliseconds: a nanosecond less, and any write to come will change it.
    written = found.st_mtime_ns - 1
    with contextlib.suppress(OSError):
        os.setxattr(path, ATTRIBUTE, _text(digest, inodes, found.st_size, written).encode())
        os.utime(path, ns=(found.st_atime_ns, written))


def inodes(path: Path, digest: str) -> int | None:
    """Return how many inodes are what the tree of a digest says; None if nobody said that of the file as it is."""
    try:
        found = os.stat(path)
        said = os.getxattr(path, ATTRIBUTE).decode()
    except (OSError, UnicodeDecodeError):
        return None
    count = said.partition(" ")[0]
    if not count.isdecimal() or said != _text(digest, int(count), found.st_size, found.st_mtime_ns):
        return None
    return int(count)


def _text(digest: str, inodes: int, size: int, written: int) -> str:
    return f"{inodes} {digest} {size} {written} {mark.boot()}"
