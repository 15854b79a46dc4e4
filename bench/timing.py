"""Running commands against the clock, in turns, and what comes of it: runs, medians, ratios."""

from __future__ import annotations

import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

KIB = 1024
TAIL, LINES = 2000, 3  # of stderr, what a failure is told with: bytes to look at, and lines of them
LAUNCHER = Path(__file__).with_name("launch.py")

Words = list[str | Path]  # a command line


class Missing(Exception):
    """A comparison cannot be made on this machine; the text says what it lacks."""


class Failed(Exception):
    """A command that was to be measured went wrong."""

    def __init__(self, argv: Sequence[str | Path], status: int, errors: str) -> None:
        lines = [line.strip() for line in errors.strip().splitlines()] or ["it said nothing"]
        super().__init__(f"'{shlex.join(map(str, argv))}' ended with {status}: {'; '.join(lines[-LINES:])}")


class Run(NamedTuple):
    """One run: seconds of the clock and of all its processors, and the largest resident set of one process, in MiB."""

    wall: float
    cpu: float
    peak: float


class Point(NamedTuple):
    """Where a way stands on the way up: so much of something, done by the same program as the others of its series."""

    series: str
    unit: str
    amount: float


class Way(NamedTuple):
    """A way to do what is compared: a function that does it once, and the programs that it needs besides ours."""

    once: Callable[[], Run]
    needs: Sequence[str] = ()
    point: Point | None = None


class Table(NamedTuple):
    """What a comparison found: the runs of each way, one a round, and which way the others are set against.

    notes: ways that were left out. failures: ways that went wrong, which have no runs.
    """

    slug: str
    title: str
    reference: str
    runs: Mapping[str, Sequence[Run]]
    points: Mapping[str, Point] = {}
    notes: Sequence[str] = ()
    failures: Sequence[str] = ()


def prepare() -> None:
    """Make the environment one in which all programs are found, and ours run as if they were installed."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # programs that are installed are compiled already
    os.environ["PATH"] += ":/usr/local/sbin:/usr/sbin:/sbin"  # where Debian keeps mkfs.ext4 and debugfs


def run(argv: Sequence[str | Path], **options: Any) -> Run:
    """Run a command that must succeed; what it says on stdout is dropped, if nothing else is said.

    Raises Failed with the end of what it said on stderr. The command is started by a small process, which holds the
    clock: what this one holds in memory would count as the peak of its children.
    """
    reader, writer = os.pipe()
    with open(reader, "rb") as answer, tempfile.TemporaryFile() as errors:
        words = [sys.executable, "-I", "-S", LAUNCHER, str(writer), *argv]
        process = subprocess.Popen(
            words, pass_fds=[writer], **{"stdout": subprocess.DEVNULL, "stderr": errors, **options}
        )
        os.close(writer)
        try:
            found = answer.read().split()
        finally:
            process.wait()  # after ^C, too: what is interrupted cleans up
        status, wall, cpu, peak = (float(value) for value in found or (127, 0, 0, 0))
        if status:
            errors.seek(max(0, errors.seek(0, os.SEEK_END) - TAIL))
            raise Failed(argv, int(status), errors.read().decode(errors="replace"))
    return Run(wall, cpu, peak / KIB)


def together(runs: Sequence[Run]) -> Run:
    """Return what several runs, one after the other, took."""
    return Run(sum(r.wall for r in runs), sum(r.cpu for r in runs), max(r.peak for r in runs))


def each(whole: Run, count: int) -> Run:
    """Return what one of so many took, which were done in one run."""
    return Run(whole.wall / count, whole.cpu / count, whole.peak)


def compare(
    slug: str,
    title: str,
    ways: Mapping[str, Way],
    rounds: int,
    *,
    reference: str | None = None,
) -> Table:
    """Run each way once a round, and set all against the reference, which is the first if no other is named.

    Raises Missing if the reference cannot run here, and the error of a reference that failed.
    """
    chosen = reference or next(iter(ways))
    lacking = {name: _lacking(way.needs) for name, way in ways.items()}
    if lacking[chosen]:
        raise Missing(f"not installed: {', '.join(lacking[chosen])}")
    found, errors = in_turns({name: way.once for name, way in ways.items() if not lacking[name]}, rounds)
    if chosen in errors:
        raise errors[chosen]
    points = {name: point for name in found if (point := ways[name].point)}
    notes = [f"{name}: not installed: {', '.join(programs)}" for name, programs in lacking.items() if programs]
    notes += [f"{name}: {error}" for name, error in errors.items() if isinstance(error, Missing)]
    failures = [f"{name}: {error}" for name, error in errors.items() if isinstance(error, Failed)]
    return Table(slug, title, chosen, found, points, notes, failures)


def _lacking(needs: Sequence[str]) -> list[str]:
    return [program for program in needs if shutil.which(program) is None]


def in_turns(
    ways: Mapping[str, Callable[[], Run]], rounds: int
) -> tuple[dict[str, list[Run]], Mapping[str, Exception]]:
    """Run each way once a round, with the disk quiet before, so that what disturbs one disturbs all.

    A way that fails, or that this machine cannot do, is not tried again, and what it took before does not count.
    """
    found: dict[str, list[Run]] = {name: [] for name in ways}
    failed: dict[str, Exception] = {}
    for number in range(rounds):
        for name in list(found) if number % 2 == 0 else reversed(list(found)):
            progress(f"round {number + 1} of {rounds}: {name}")
            os.sync()
            try:
                found[name].append(ways[name]())
            except (Failed, Missing) as error:
                failed[name] = error
                del found[name]
    return found, failed


def progress(text: str) -> None:
    """Say what is done now, to those who look on."""
    if sys.stderr.isatty():
        print(f"bench: {text}", file=sys.stderr)


def ratios(table: Table, name: str) -> list[float]:
    """Return what a way took beside the reference, round by round; for each entry or MiB, where both say how many."""
    one, other = table.points.get(name), table.points.get(table.reference)
    amount = other.amount / one.amount if one and other else 1.0
    return [
        run.wall / base.wall * amount for run, base in zip(table.runs[name], table.runs[table.reference], strict=True)
    ]


def median(runs: Sequence[Run]) -> Run:
    """Return the medians of time, and the highest peak."""
    walls, cpus = [r.wall for r in runs], [r.cpu for r in runs]
    return Run(statistics.median(walls), statistics.median(cpus), max(r.peak for r in runs))


def need_root(why: str) -> None:
    """Refuse a comparison that an ordinary user cannot make."""
    if os.geteuid() != 0:
        raise Missing(f"{why}: needs root")


def drop_caches() -> None:
    """Let nothing be in the page cache, where root may say so, nor on its way to the disk: whoever ran before pays."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError as error:
        raise Missing(f"cold caches: {error}") from error
