"""Cost against entries and bytes as an SVG, both axes logarithmic, so that a bend would be seen.

One column of panels a comparison that grows, time above and memory below. A whisker goes from the least to the most;
the dashed line is what grows just as its input does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from bench import timing
from bench.timing import Run, Table

WIDTH, HEIGHT, MARGIN, LEGEND, NAME = 420, 300, 60, 40, 110
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # told apart by everybody
MEASURES: Mapping[str, Callable[[Run], float]] = {"seconds": lambda run: run.wall, "peak MiB": lambda run: run.peak}


class Mark(NamedTuple):
    """One size of a series: how much, and the least, the median and the most that it cost."""

    amount: float
    least: float
    middle: float
    most: float


class Axis(NamedTuple):
    """A logarithmic axis: the decades where it begins and ends, and the pixels there."""

    low: float
    high: float
    first: float
    last: float

    def at(self, value: float) -> float:
        return self.first + (math.log10(value) - self.low) / (self.high - self.low) * (self.last - self.first)

    def ticks(self) -> Iterator[float]:
        """Yield the powers of ten on the axis, and what is between where there are few of them."""
        steps = (1, 2, 5) if self.high - self.low < 2 else (1,)
        powers = range(math.floor(self.low), math.ceil(self.high))
        found = (step * 10.0**power for power in powers for step in steps)
        return (tick for tick in found if self.low <= math.log10(tick) <= self.high)


Series = Mapping[str, Sequence[Mark]]


def svg(tables: Sequence[Table]) -> str:
    """Return the plot of all tables that have points."""
    growing = [table for table in tables if table.points]
    names = list(dict.fromkeys(point.series for table in growing for point in table.points.values()))
    colours = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}
    width, height = max(1, len(growing)) * WIDTH, len(MEASURES) * HEIGHT + LEGEND
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        *_legend(colours, width),
    ]
    for column, table in enumerate(growing):
        for row, measure in enumerate(MEASURES):
            parts.append(f'<g transform="translate({column * WIDTH} {row * HEIGHT + LEGEND})">')
            parts += [*_panel(table, measure, colours), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _legend(colours: Mapping[str, str], width: int) -> Iterator[str]:
    """Return the names of the series, in as many rows as they need."""
    a_row = (width - MARGIN) // NAME
    for number, (name, colour) in enumerate(colours.items()):
        left, top = MARGIN + number % a_row * NAME, 14 + number // a_row * 16
        yield f'<circle cx="{left}" cy="{top - 4}" r="4" fill="{colour}"/>'
        yield _text(left + 8, top, name)


def _panel(table: Table, measure: str, colours: Mapping[str, str]) -> Iterator[str]:
    series = _series(table, MEASURES[measure])
    x, y = _axes(series)
    unit = next(iter(table.points.values())).unit
    yield _text(WIDTH / 2, MARGIN / 2 - 6, f"{table.slug}: {measure} against {unit}", 'text-anchor="middle"')
    yield from _grid(x, y)
    yield _guide(series[table.points[table.reference].series], x, y)
    for name, marks in series.items():
        yield from _curve(marks, x, y, colours[name])


def _series(table: Table, cost: Callable[[Run], float]) -> Series:
    """Return the marks of each series, smallest amount first."""
    found: dict[str, list[Mark]] = {}
    for name, point in table.points.items():
        costs = [cost(run) for run in table.runs[name]]
        mark = Mark(point.amount, min(costs), cost(timing.median(table.runs[name])), max(costs))
        found.setdefault(point.series, []).append(mark)
    return {name: sorted(marks) for name, marks in found.items()}


def _axes(series: Series) -> tuple[Axis, Axis]:
    marks = [mark for one in series.values() for mark in one]
    x = _axis([mark.amount for mark in marks], MARGIN, WIDTH - MARGIN / 3)
    y = _axis([value for mark in marks for value in (mark.least, mark.most)], HEIGHT - MARGIN * 2 / 3, MARGIN / 2)
    return x, y


def _axis(values: Sequence[float], first: float, last: float) -> Axis:
    """Return an axis of at least a decade with a little room at both ends."""
    low, high = math.log10(min(values)) - 0.1, math.log10(max(values)) + 0.1
    lack = max(0.0, 1 - (high - low)) / 2
    return Axis(low - lack, high + lack, first, last)


def _grid(x: Axis, y: Axis) -> Iterator[str]:
    yield f'<path d="M{x.first:.1f} {y.last:.1f}V{y.first:.1f}H{x.last:.1f}" fill="none" stroke="black"/>'
    for tick in x.ticks():
        yield f'<path d="M{x.at(tick):.1f} {y.first:.1f}V{y.last:.1f}" stroke="#ddd"/>'
        yield _text(x.at(tick), y.first + 14, f"{tick:,.10g}", 'text-anchor="middle"')
    for tick in y.ticks():
        yield f'<path d="M{x.first:.1f} {y.at(tick):.1f}H{x.last:.1f}" stroke="#ddd"/>'
        yield _text(x.first - 4, y.at(tick) + 4, f"{tick:,.10g}", 'text-anchor="end"')


def _guide(marks: Sequence[Mark], x: Axis, y: Axis) -> str:
    """Return a line through the largest mark along which cost grows just as the amount does."""
    start, end = marks[0].amount, marks[-1].amount
    low = max(marks[-1].middle * start / end, 10**y.low)
    start = low / marks[-1].middle * end
    line = f"M{x.at(start):.1f} {y.at(low):.1f}L{x.at(end):.1f} {y.at(marks[-1].middle):.1f}"
    return f'<path d="{line}" stroke="#888" stroke-dasharray="4 3"/>'


def _curve(marks: Sequence[Mark], x: Axis, y: Axis, colour: str) -> Iterator[str]:
    points = " ".join(f"{x.at(mark.amount):.1f},{y.at(mark.middle):.1f}" for mark in marks)
    yield f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
    for mark in marks:
        left = x.at(mark.amount)
        yield f'<path d="M{left:.1f} {y.at(mark.least):.1f}V{y.at(mark.most):.1f}" stroke="{colour}"/>'
        yield f'<circle cx="{left:.1f}" cy="{y.at(mark.middle):.1f}" r="3" fill="{colour}"/>'


def _text(left: float, top: float, text: str, attributes: str = "") -> str:
    return f'<text x="{left:.1f}" y="{top:.1f}" {attributes}>{escape(text)}</text>'
