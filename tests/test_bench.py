"""The benchmarks' own test: they list themselves, and a tiny run gives tables, JSON and a plot that others can read.

No time is looked at: what a run measures here says nothing.
"""

from __future__ import annotations

import itertools
import json
import re
import statistics
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from banger_tools import files
from bench import plot, report, timing
from bench.timing import Point, Run, Table, Way
from tests.support import ROOT, environment

SVG = "{http://www.w3.org/2000/svg}"
ASKED = ("flat", "start")


def bench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the suite as a user does."""
    argv = [sys.executable, "-P", "-m", "bench", *map(str, arguments)]
    env = environment({"PYTHONPATH": str(ROOT)})
    return subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, env=env, timeout=300)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what a tiny run of two comparisons wrote; its work folder stands beside."""
    folder = tmp_path_factory.mktemp("bench")
    files = [f"--{kind}={folder / kind}" for kind in ("markdown", "json", "plot")]
    done = bench("--tiny", "--rounds=2", f"--work={folder / 'work'}", *files, *ASKED)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "stdout").write_text(done.stdout)
    return folder


def found(results: Path) -> dict[str, Any]:
    value = json.loads((results / "json").read_text())
    assert isinstance(value, dict)
    return value


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_comparisons_are_listed_without_running_any() -> None:
    done = bench("--list")
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert done.returncode == 0 and len(names) == len(set(names))
    wanted = "pull flatten ext4 owners chain flat million bytes seed publish publish-reflink start boot at-once"
    assert set(wanted.split()) < set(names)


def test_a_comparison_that_is_not_there_is_a_usage_error() -> None:
    done = bench("flat", "nothing")
    assert done.returncode == 2
    assert "nothing" in done.stderr and "--list" in done.stderr


def test_json_holds_every_run_and_what_was_measured_where(results: Path) -> None:
    value = found(results)
    assert value["schema"] == report.SCHEMA
    assert value["versions"]["Python"] and value["versions"]["e2fsprogs"]
    assert {"processors", "memory", "kernel", "filesystem"} <= value["machine"].keys()
    assert [table["slug"] for table in value["tables"]] == list(ASKED)
    for table in value["tables"]:
        assert not table["failed"], table
        assert table["reference"] in [way["name"] for way in table["ways"]]
        for way in table["ways"]:
            walls = [run["wall"] for run in way["runs"]]
            assert len(walls) == 2 and min(walls) > 0
            assert way["seconds"] == {"median": statistics.median(walls), "min": min(walls), "max": max(walls)}


def test_markdown_has_a_row_for_each_way_as_wide_as_its_head(results: Path) -> None:
    text = (results / "markdown").read_text()
    assert text.strip() == (results / "stdout").read_text().strip()
    rows = [cells(line) for line in text.splitlines() if line.startswith("|")]
    for table in found(results)["tables"]:
        head = next(row for row in rows if table["reference"] in row[-2])
        mine = [next(row for row in rows if row[0] == way["name"]) for way in table["ways"]]
        assert {len(row) for row in [head, *mine]} == {len(head)}
        assert all(re.fullmatch(r"[\d.]+", row[1]) for row in mine)


def test_plot_shows_every_size_once_for_time_and_once_for_memory(results: Path) -> None:
    root = ElementTree.parse(results / "plot").getroot()
    assert root.tag == f"{SVG}svg"
    flat = found(results)["tables"][0]
    sizes = {way["point"]["amount"] for way in flat["ways"]}
    series = {way["point"]["series"] for way in flat["ways"]}
    assert len(sizes) > 1 and "bg-mkext4" in series
    circles = [one for one in root.iter(f"{SVG}circle") if one.get("r") == "3"]
    assert len(circles) == 2 * len(flat["ways"])
    assert len(list(root.iter(f"{SVG}polyline"))) == 2 * len(series)


def test_nothing_of_the_runs_is_kept(results: Path) -> None:
    assert not (results / "work/runs").exists()


def test_two_runs_do_not_share_a_work_folder(tmp_path: Path) -> None:
    with files.locked_folder(tmp_path, wait=0, what="it"):
        done = bench("--tiny", f"--work={tmp_path}", "start")
    assert done.returncode == 75 and f"'{tmp_path}' is in use" in done.stderr
    assert not done.stdout and not list(tmp_path.iterdir())


def test_a_straight_line_is_drawn_straight_and_a_bend_bends() -> None:
    amounts = (10, 100, 1000)
    costs: Mapping[str, Callable[[int], float]] = {"straight": lambda n: 0.01 * n, "bent": lambda n: 0.0001 * n * n}
    runs = {f"{name} {n}": [Run(cost(n), 0, 8)] for name, cost in costs.items() for n in amounts}
    points = {f"{name} {n}": Point(name, "entries", n) for name in costs for n in amounts}
    drawn = ElementTree.fromstring(plot.svg([Table("a<b", "both", "straight 10", runs, points)]))
    lines = [one.attrib["points"] for one in drawn.iter(f"{SVG}polyline")]
    slopes = [_slopes(line) for line in lines[:2]]
    assert slopes[0][0] == pytest.approx(slopes[0][1], rel=0.02)
    assert slopes[1][0] == pytest.approx(2 * slopes[0][0], rel=0.02)


def _slopes(line: str) -> list[float]:
    marks = [tuple(map(float, pair.split(","))) for pair in line.split()]
    return [(b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.pairwise(marks)]


def test_ratio_is_the_median_of_the_rounds_and_for_each_of_what_was_done() -> None:
    runs = {"ours": [Run(1, 1, 8), Run(2, 1, 8), Run(10, 1, 8)], "theirs": [Run(3, 1, 8), Run(4, 1, 8), Run(40, 1, 8)]}
    assert timing.ratios(Table("x", "x", "ours", runs), "theirs") == [3, 2, 4]
    points = {"ours": Point("ours", "entries", 10), "theirs": Point("theirs", "entries", 20)}
    assert timing.ratios(Table("x", "x", "ours", runs, points), "theirs") == [1.5, 1, 2]


def refuse(why: str) -> Run:
    raise timing.Missing(why)


def test_ways_take_turns_and_one_that_fails_is_told_of() -> None:
    order: list[str] = []

    def once(name: str) -> Run:
        order.append(name)
        return timing.run(["true"])

    bad = Way(lambda: timing.run(["sh", "-c", "echo no such luck >&2; exit 3"]))
    unable = Way(partial(refuse, "no mounts here"))
    absent = Way(lambda: timing.run(["true"]), ["no-such-program"])
    ways = {"a": Way(partial(once, "a")), "b": Way(partial(once, "b")), "bad": bad, "unable": unable, "absent": absent}
    table = timing.compare("x", "x", ways, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert set(table.runs) == {"a", "b"}
    assert "no-such-program" in table.notes[0] and "unable: no mounts here" in table.notes[1]
    assert len(table.failures) == 1 and "ended with 3: no such luck" in table.failures[0]


def test_peak_is_that_of_the_command_and_not_of_who_started_it() -> None:
    ballast = b"x" * (200 << 20)
    holder = [sys.executable, "-I", "-S", "-c", f"held = b'x' * {100 << 20}"]
    assert timing.run(["true"]).peak < len(ballast) >> 21
    assert 100 < timing.run(holder).peak < len(ballast) >> 20
