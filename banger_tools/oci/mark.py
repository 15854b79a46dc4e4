"""The mark of a verified file: a modification time made from its digest.

Whoever writes to the file changes the time, so a file that carries its mark still is what it was when it was hashed.
"""

from __future__ import annotations

import os
from pathlib import Path

from banger_tools.oci import digest as digests


def put(path: Path, digest: str) -> None:
    """Mark a file whose bytes have this digest."""
    os.utime(path, ns=(os.stat(path).st_atime_ns, _time(digest)))


def stands(found: os.stat_result, digest: str) -> bool:
    """Tell from its status whether a file carries the mark of a digest."""
    return found.st_mtime_ns == _time(digest)


def _time(digest: str) -> int:
    """Return the time of a digest in ns: of the first years of Unix, so all filesystems can keep it."""
    return int(digests.split(digest)[1][:7], 16) * 1_000_000_000
