"""The driver's one progress for a whole pipe: on a terminal, and for machines."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from pathlib import Path

import pytest

from banger_tools import overview
from tests import support
from tests.terminals import SECONDS, Terminal
from tests.test_driver import busybox_layers, oci_layout
from tests.webserver import Handler, serve

PROGRAMS = ["bg-fetch", "bg-flatten", "bg-mkext4"]


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The busybox image as an OCI layout."""
    return oci_layout(tmp_path_factory.mktemp("oci") / "layout", busybox_layers())


def run_on_terminal(*words: str) -> tuple[int, str]:
    """Run the driver on a terminal; return its status and all that was on the screen, without colours."""
    with Terminal(columns=100) as terminal:
        terminal.start("banger", *words)
        status = terminal.wait_ended()
        return status, re.sub(r"\x1b\[\d*m", "", terminal.screen.decode())


def left_on_screen(text: str) -> list[str]:
    """Return the lines that stay on a terminal, blank ones left out: what follows a carriage return is written over."""
    lines = []
    for line in text.replace("\r\n", "\n").split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.strip())
    return [line for line in lines if line]


def test_terminal_shows_one_bar_for_all_stages(layout: Path, tmp_path: Path) -> None:
    status, shown = run_on_terminal("build", "--to=mkext4", "-C", str(tmp_path), f"oci:{layout}")
    assert status == 0, shown
    bars = re.findall(r"banger build: (\d) of (\d), (\S+) +(\d+)%\|", shown)
    assert [f"{number} of {count}" for number, count, *_ in dict.fromkeys(bar[:2] for bar in bars)] == [
        "1 of 3",
        "2 of 3",
        "3 of 3",
    ]
    assert {program for _, _, program, _ in bars} == set(PROGRAMS)
    percents = [int(percent) for *_, percent in bars]
    assert percents == sorted(percents)
    assert percents[0] == 0
    assert not re.search(r"bg-\w+: [^\r]*%\|", shown)  # no bar of a stage's own
    timed = [line for line in left_on_screen(shown) if re.fullmatch(r"banger build: bg-\w+ +\d+\.\d\d s", line)]
    assert [line.split()[2] for line in timed] == PROGRAMS


def test_what_stages_say_is_whole_above_the_bar(tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(b"no tar at all" * 100)
    status, shown = run_on_terminal("build", "-C", str(tmp_path), f"rootfs:{tmp_path}/noise")
    assert status == 65
    lines = left_on_screen(shown)
    assert [line for line in lines if line.startswith("bg-fetch: error: ")]
    assert lines[-1] == "banger build: error: 'bg-fetch' failed with status 65"


def test_machines_are_told_how_long_each_stage_took(layout: Path, tmp_path: Path) -> None:
    done = support.run("banger", "build", "--progress=json", "--to=mkext4", "-C", tmp_path, f"oci:{layout}")
    lines = [json.loads(line) for line in done.stderr.decode().splitlines() if line.startswith("{")]
    ended = [line for line in lines if line["program"] == "banger build"]
    assert [line["what"] for line in ended] == PROGRAMS
    assert all(line["finished"] and line["unit"] == "stage" and line["seconds"] >= 0 for line in ended)
    assert {line["program"] for line in lines} > {"banger build"}  # the stages' own progress is passed on


def test_without_a_terminal_there_is_no_bar(layout: Path, tmp_path: Path) -> None:
    done = support.run("banger", "build", "--to=flatten", "-C", tmp_path, f"oci:{layout}")
    assert re.fullmatch(rb"(banger build: bg-\w+ +\d+\.\d\d s\n){2}", done.stderr)


def test_quiet_says_nothing(layout: Path, tmp_path: Path) -> None:
    done = support.run("banger", "build", "-q", "--to=flatten", "-C", tmp_path, f"oci:{layout}")
    assert (done.returncode, done.stderr) == (0, b"")


def test_interrupted_pull_takes_its_bar_away_and_leaves_nothing(tmp_path: Path, banger_home: Path) -> None:
    released = threading.Event()

    def holds_back(_: Handler) -> bool:
        return released.wait(SECONDS)

    with serve(holds_back) as site, Terminal(columns=100) as terminal:
        terminal.start("banger", "image", "pull", "--name=held", site.url("held.tar.zst"))
        terminal.wait_for(b"1 of 3, bg-fetch")
        deadline = time.monotonic() + SECONDS
        while not site.seen:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        terminal.type(b"\x03")
        assert terminal.wait_ended() == 130
        released.set()
        shown = terminal.screen.decode()
    assert left_on_screen(shown) in ([], ["^C"]), shown
    assert not list(banger_home.rglob("*.tmp"))


def test_what_is_no_progress_comes_out_as_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    with overview.Overview("all", ["one", "two"]) as shown:
        reader, writer = shown.join("one")
        told = {"program": "one", "what": "x", "done": 3, "total": 4, "unit": "B", "finished": False}
        for part in (b'{"half": ', b"1}\n{not json\n[1]\n", json.dumps(told).encode() + b"\n", b"the end"):
            os.write(writer, part)
            assert shown.read(reader)
        os.close(writer)
        assert not shown.read(reader)
        shown.draw()
    said = capfd.readouterr().err
    assert [line for line in left_on_screen(said) if "|" not in line] == ['{"half": 1}', "{not json", "[1]", "the end"]
    assert "all: 1 of 2, one  38%|" in said  # three quarters of the first of two
