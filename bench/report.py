"""What was found, as Markdown for people and as JSON for programs."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench import timing
from bench.timing import Table

SCHEMA = "banger-bench/1"
Head = Mapping[str, Mapping[str, str]]


def heading(head: Head) -> str:
    """Return what was measured where, as lists."""
    lines = ["# Benchmarks", ""]
    for section, facts in head.items():
        lines += [f"- {section}: " + ", ".join(f"{name} {value}" for name, value in facts.items())]
    lines += [
        "",
        "Times are medians, with the least and the most. A ratio is the median of the ratios of the rounds, in each of",
        "which every way ran once. The peak is the largest resident set of one process.",
    ]
    return "\n".join(lines) + "\n"


def markdown(table: Table) -> str:
    """Return a comparison as a table, with what was left out of it."""
    lines = [f"## {table.slug}: {table.title}", ""]
    if table.runs:
        lines += [*_rows(table), ""]
    lines += [f"- left out: {note}" for note in table.notes]
    lines += [f"- failed: {failure}" for failure in table.failures]
    return "\n".join(lines).rstrip() + "\n"


def _rows(table: Table) -> Iterator[str]:
    units = {point.unit for point in table.points.values()}
    growing = ["µs each"] if units else []
    columns = ["what", "median s", "min", "max", "cpu s", "peak MiB", *growing, f"times '{table.reference}'", "range"]
    yield _line(columns)
    yield "|---" + "|--:" * (len(columns) - 1) + "|"
    for name, runs in table.runs.items():
        middle, walls, ratios = timing.median(runs), [r.wall for r in runs], timing.ratios(table, name)
        cells = [name, *(f"{value:.3f}" for value in (middle.wall, min(walls), max(walls), middle.cpu))]
        cells.append(f"{middle.peak:.0f}")
        if units:
            cells.append(f"{middle.wall / table.points[name].amount * 1e6:.1f}" if name in table.points else "")
        yield _line([*cells, f"{statistics.median(ratios):.2f}", f"{min(ratios):.2f}–{max(ratios):.2f}"])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def as_json(head: Head, tables: Sequence[Table]) -> dict[str, Any]:
    """Return all of it, each run included."""
    return {"schema": SCHEMA, **head, "tables": [_table(table) for table in tables]}


def _table(table: Table) -> dict[str, Any]:
    return {
        "slug": table.slug,
        "title": table.title,
        "reference": table.reference,
        "ways": [_way(table, name) for name in table.runs],
        "left_out": list(table.notes),
        "failed": list(table.failures),
    }


def _way(table: Table, name: str) -> dict[str, Any]:
    runs, ratios = table.runs[name], timing.ratios(table, name)
    middle, point = timing.median(runs), table.points.get(name)
    return {
        "name": name,
        "seconds": {"median": middle.wall, "min": min(r.wall for r in runs), "max": max(r.wall for r in runs)},
        "cpu_seconds": middle.cpu,
        "peak_mebibytes": middle.peak,
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        "point": point and point._asdict(),
        "runs": [run._asdict() for run in runs],
    }
