"""Running commands against the clock, in turns, and what comes of it: medians, spread, ratios."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

PAGE_KIB = 1024

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # programs that are installed are compiled already


class Run(NamedTuple):
    """One run: seconds of the clock and of all its processors, and the largest resident set of one process, in MiB."""

    wall: float
    cpu: float
    peak: float


def run(argv: Sequence[str], **options: Any) -> Run:
    """Run a command that must succeed."""
    start = time.monotonic()
    process = subprocess.Popen(argv, **options)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, argv)
    wall = time.monotonic() - start
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / PAGE_KIB)


def together(runs: Sequence[Run]) -> Run:
    """Return what several runs, one after the other, took."""
    return Run(sum(r.wall for r in runs), sum(r.cpu for r in runs), max(r.peak for r in runs))


Way = Callable[[], Run]


def in_turns(ways: Mapping[str, Way], rounds: int) -> dict[str, list[Run]]:
    """Run each way once a round, with the disk quiet before, so that what disturbs one disturbs all."""
    found: dict[str, list[Run]] = {name: [] for name in ways}
    for number in range(rounds):
        order = list(ways.items())
        for name, way in order if number % 2 == 0 else reversed(order):
            subprocess.run(["sync"], check=True)
            found[name].append(way())
    return found


def report(found: Mapping[str, Sequence[Run]], reference: str) -> str:
    """Return a table, with the ratio of each way to the way `reference`: the median of the ratios of the rounds."""
    lines = [
        f"| what | median s | min | max | cpu s | peak MiB | times '{reference}' |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, runs in found.items():
        walls = [r.wall for r in runs]
        ratio = statistics.median(r.wall / base.wall for r, base in zip(runs, found[reference], strict=True))
        cells = [f"{statistics.median(walls):.2f}", f"{min(walls):.2f}", f"{max(walls):.2f}"]
        cells += [f"{statistics.median(r.cpu for r in runs):.2f}", f"{max(r.peak for r in runs):.0f}", f"{ratio:.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def drop_caches() -> None:
    """Let nothing be in the page cache, where root may say so, nor on its way to the disk: whoever ran before pays."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError as error:
        raise SystemExit(f"cold caches need root: {error}") from error
