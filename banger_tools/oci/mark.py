"""The mark of a verified file: a modification time made from its digest and from this boot of the machine.

Whoever writes to the file changes the time, so a file that carries its mark still is what it was when it was hashed.
After the next boot it is hashed once more before it is trusted: only a crash can have lost what was never flushed to
the disk, and so nothing that can be made again needs to be flushed.
"""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path

from banger_tools.oci import digest as digests

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # proc(5)
_SECOND = 1_000_000_000


def put(path: Path, digest: str) -> None:
    """Mark a file whose bytes have this digest."""
    os.utime(path, ns=(os.stat(path).st_atime_ns, _time(digest)))


def stands(found: os.stat_result, digest: str) -> bool:
    """Tell from its status whether a file carries the mark of a digest."""
    return found.st_mtime_ns == _time(digest)


def _time(digest: str) -> int:
    """Return the time of a digest in ns: of the first years of Unix, so all filesystems can keep the seconds."""
    return int(digests.split(digest)[1][:7], 16) * _SECOND + boot()


@cache
def boot() -> int:
    """Return a number below a second's nanoseconds that stands for this boot."""
    try:
        boot_id = _BOOT_ID.read_bytes()
    except OSError:  # no /proc: no mark of another process is ever trusted
        boot_id = os.urandom(16)
    return int.from_bytes(hashlib.sha256(boot_id).digest()[:8]) % _SECOND
