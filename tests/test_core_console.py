"""What a program says: where, when, and safe for a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from banger_tools import console

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    console.configure("bg-toy")
    yield
    console.configure("banger")


def said(capsys: Captured) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def say_everything() -> None:
    console.error("e")
    console.warning("w")
    console.hint("h")
    console.note("n")
    console.command("c")
    with console.step("s"):
        pass


@pytest.mark.parametrize(
    ("verbosity", "kinds"),
    [
        (console.QUIET, ["error: e"]),
        (console.NORMAL, ["error: e", "warning: w", "hint: h", "n"]),
        (console.STEPS, ["error: e", "warning: w", "hint: h", "n", "s"]),
        (console.COMMANDS, ["error: e", "warning: w", "hint: h", "n", "run: c", "s"]),
    ],
)
def test_how_much_is_said(verbosity: int, kinds: list[str], capsys: Captured) -> None:
    console.configure("bg-toy", verbosity)
    say_everything()
    lines = said(capsys)
    assert len(lines) == len(kinds)
    assert all(line.startswith(f"bg-toy: {kind}") for line, kind in zip(lines, kinds, strict=True))


def test_text_of_others_cannot_drive_the_terminal(capsys: Captured) -> None:
    console.error("a\x1b[2Jb\nc\r\udc80\u202e")
    (line,) = said(capsys)
    assert line == "bg-toy: error: a\\x1b[2Jb\\nc\\r\\udc80\\u202e"


def test_verbosity_is_passed_on_to_other_programs() -> None:
    for verbosity, progress, words in (
        (-1, "auto", ["-q"]),
        (0, "auto", []),
        (2, "json", ["-v", "-v", "--progress=json"]),
    ):
        console.configure("bg-toy", verbosity, progress)
        assert console.passed_on() == words


def test_progress_as_json_lines(capsys: Captured) -> None:
    console.configure("bg-toy", progress="json")
    with console.progress("layer", 100) as bar:
        bar.update(60)
        bar.update(40)
    lines = [json.loads(line) for line in said(capsys)]
    assert lines[-1] == {
        "program": "bg-toy", "what": "layer", "total": 100, "unit": "B", "done": 100, "finished": True
    }  # fmt: skip


@pytest.mark.parametrize(("word", "bars"), [("always", True), ("never", False), ("auto", False)])
def test_bars_are_drawn_when_asked_for_or_on_a_terminal(word: str, bars: bool, capsys: Captured) -> None:
    console.configure("bg-toy", progress=word)
    with console.progress("layer", 100) as bar:
        bar.update(100)
    assert ("layer" in capsys.readouterr().err) == bars


def test_table_is_aligned() -> None:
    assert console.table([("A", "LONG"), ("wide", "x")]) == "A     LONG\nwide  x\n"
    assert console.table([]) == ""
