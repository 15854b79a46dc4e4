"""What machines take of the host: processor time, memory, disk space, all from proc(5) and stat(2)."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

from banger_tools.vmm import holder
from banger_tools.vmm import spec as specs

_TICKS = os.sysconf("SC_CLK_TCK")


class Usage(NamedTuple):
    """What a monitor's process has used: seconds of processor time and since its start, resident bytes."""

    cpu_seconds: float
    up: float
    resident: int


def of_process(pid: int) -> Usage | None:
    """Return what a process has used, None if there is none (proc(5): stat, fields 14, 15, 22 and 24)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    up = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / _TICKS
    resident = int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    return Usage((int(fields[11]) + int(fields[12])) / _TICKS, max(up, 0.0), resident)


def of_record(record: specs.Record, folder: Path) -> Usage | None:
    """Return what a machine's monitor has used, None if it does not run."""
    process = record.process
    if process is None or not holder.is_alive(folder) or holder.start_time(process.pid) != process.start_time:
        return None
    return of_process(process.pid)


def disk(folder: Path) -> int:
    """Return the bytes that a machine's files take on the disk; those that others have, too, are not counted.

    What they share with an image by reflink cannot be told apart.
    """
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.lstat(os.path.join(place, name))
            except FileNotFoundError:
                continue
            total += status.st_blocks * 512 if status.st_nlink == 1 else 0
    return total


def shown_time(seconds: float | None) -> str:
    """Return a time for people: 42s, 17m, 5h, 12d."""
    if seconds is None:
        return "-"
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f}{unit}"
    return f"{seconds:.0f}s"
