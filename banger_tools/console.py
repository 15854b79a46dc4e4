"""What a program says to people, all of it on stderr: errors, warnings, hints, steps, commands, progress.

There is one console a process, set up once by `cli.run`; libraries call its functions and never print.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

QUIET, NORMAL, STEPS, COMMANDS = -1, 0, 1, 2
PROGRESS_WORDS = ("auto", "always", "never", "json")

_RED, _YELLOW, _CYAN, _DIM, _END = "\033[31m", "\033[33m", "\033[36m", "\033[2m", "\033[0m"


class _Settings:
    """The console of this process: its program's name, how much it says, and how it shows progress."""

    program = "banger"
    verbosity = NORMAL
    progress = "auto"


_settings = _Settings()


def configure(program: str, verbosity: int = NORMAL, progress: str = "auto") -> None:
    """Set the program's name, its verbosity (-1 quiet … 2 commands) and how progress is shown."""
    _settings.program, _settings.verbosity, _settings.progress = program, verbosity, progress


def program() -> str:
    """Return the name of this program."""
    return _settings.program


def passed_on() -> list[str]:
    """Return the options that make another program of the suite speak as this one does."""
    verbose = ["-q"] if _settings.verbosity < 0 else ["-v"] * _settings.verbosity
    return verbose + ([f"--progress={_settings.progress}"] if _settings.progress != "auto" else [])


def printable(text: str) -> str:
    """Return text that cannot drive a terminal: control characters and undecodable bytes are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _say(kind: str, colour: str, text: str) -> None:
    coloured = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    label = f"{colour}{kind}{_END}" if coloured and kind else kind
    parts = [_settings.program, *([label] if label else []), text]
    with contextlib.suppress(OSError, ValueError):  # a closed stderr must not hide the exit status
        sys.stderr.write(": ".join(parts) + "\n")
        sys.stderr.flush()


def error(text: str) -> None:
    """Print an error; always."""
    _say("error", _RED, printable(text))


def warning(text: str) -> None:
    """Print a warning, unless quiet."""
    if _settings.verbosity >= NORMAL:
        _say("warning", _YELLOW, printable(text))


def hint(text: str) -> None:
    """Print a hint that follows an error or a warning, unless quiet."""
    if _settings.verbosity >= NORMAL:
        _say("hint", _CYAN, "\n".join(map(printable, text.split("\n"))))


def note(text: str) -> None:
    """Print a line of information, unless quiet."""
    if _settings.verbosity >= NORMAL:
        _say("", "", printable(text))


def detail(text: str) -> None:
    """Print a line for those who want to know more, at -v."""
    if _settings.verbosity >= STEPS:
        _say("", "", printable(text))


def command(text: str) -> None:
    """Print a program that is about to be run, pasteable, at -vv."""
    if _settings.verbosity >= COMMANDS:
        _say("run", _DIM, printable(text))


def pipe(text: str) -> None:
    """Print the programs that are about to be run as one pipe, pasteable, at -v."""
    if _settings.verbosity >= STEPS:
        _say("run", _DIM, printable(text))


def lines(text: str) -> None:
    """Print lines as they are but safe for a terminal, such as a traceback; always."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write("".join(f"{printable(line)}\n" for line in text.splitlines()))


@contextlib.contextmanager
def step(text: str) -> Iterator[None]:
    """Time a step and print it with its seconds at -v."""
    start = time.monotonic()
    yield
    if _settings.verbosity >= STEPS:
        _say("", "", f"{printable(text)} ({time.monotonic() - start:.2f} s)")


@contextlib.contextmanager
def stage(what: str) -> Iterator[None]:
    """Show what is being done as long as it lasts, where progress is shown; machines are told its seconds at the end.

    At -v the lines of `step` tell of the same.
    """
    if _settings.progress == "json":
        start = time.monotonic()
        lines = _JsonLines(what, 1, "stage", {})
        lines.write(finished=False)
        yield
        lines.done, lines.fields["seconds"] = 1, round(time.monotonic() - start, 3)
        lines.write(finished=True)
    elif shows_bars() and _settings.verbosity < STEPS:
        _status_line(f"{_settings.program}: {printable(what)} ...")
        try:
            yield
        finally:
            _status_line("")
    else:
        yield


def _status_line(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


class Progress(Protocol):
    """A thing that is told how much more was done."""

    def update(self, amount: int) -> object: ...


class _Silent:
    def update(self, amount: int) -> None:
        pass


class _JsonLines:
    """Progress as one JSON object a line, at most ten a second."""

    def __init__(self, what: str, total: int | None, unit: str, more: Mapping[str, object]) -> None:
        self.fields = {**more, "program": _settings.program, "what": what, "total": total, "unit": unit}
        self.done = 0
        self.last = 0.0

    def update(self, amount: int) -> None:
        self.done += amount
        if time.monotonic() - self.last >= 0.1:
            self.write(finished=False)

    def write(self, *, finished: bool) -> None:
        self.last = time.monotonic()
        line = {**self.fields, "done": self.done, "finished": finished}
        sys.stderr.write(json.dumps(line, sort_keys=True) + "\n")
        sys.stderr.flush()


def shows_bars() -> bool:
    """Tell whether progress bars are drawn: asked for, or stderr is a terminal and nobody said quiet."""
    if _settings.progress == "auto":
        return _settings.verbosity >= NORMAL and sys.stderr.isatty()
    return _settings.progress == "always"


@contextlib.contextmanager
def progress(what: str, total: int | None = None, unit: str = "B", **more: object) -> Iterator[Progress]:
    """Show the progress of one task; update() the result with amounts done, in `unit`. Machines are told `more`."""
    if _settings.progress == "json":
        lines = _JsonLines(what, total, unit, more)
        yield lines
        lines.write(finished=True)
    elif shows_bars():
        from tqdm import tqdm

        scaled = unit == "B"
        description = f"{_settings.program}: {printable(what)}"
        with tqdm(total=total, desc=description, unit=unit, unit_scale=scaled, unit_divisor=1024, leave=False) as bar:
            yield bar
    else:
        yield _Silent()


def done_already(what: str, total: int, unit: str = "B", **more: object) -> None:
    """Tell machines of a task that needs nothing to be done."""
    if _settings.progress == "json":
        lines = _JsonLines(what, total, unit, more)
        lines.done = total
        lines.write(finished=True)


def ended(what: str, seconds: float, **more: object) -> None:
    """Tell machines that one of several steps has ended, and how long it took."""
    done_already(what, 1, "stage", seconds=round(seconds, 3), **more)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as aligned columns, one line a row, safe for a terminal."""
    shown = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in shown) for column in range(len(shown[0]))] if shown else []
    return "".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() + "\n" for row in shown)
