"""One progress for a whole pipe: its programs tell how far they are in JSON lines, and one bar shows them all.

What else they say on their stderr comes out as it is, above the bar.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from banger_tools import console

_PIECE = 64 << 10
_REDRAW_SECONDS = 0.1
_FORMAT = "{desc} {percentage:3.0f}%|{bar}| {elapsed}"


class Overview:
    """The bar of a pipe, and the reading ends of its programs' stderr; `names` are the programs in their order."""

    def __init__(self, what: str, names: Sequence[str]) -> None:
        from tqdm import tqdm

        self.what = what
        self.names = names
        self.ended = 0
        self._readers: dict[int, str] = {}
        self._pending: dict[int, bytes] = {}
        self._tasks: dict[str, dict[str, tuple[int, int]]] = {}
        self._drawn = 0.0
        self._bar = tqdm(total=len(names), bar_format=_FORMAT, leave=False, file=sys.stderr)

    def __enter__(self) -> Self:
        self.draw()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for reader in list(self._readers):
            self._end(reader)
        self._bar.close()

    def join(self, name: str) -> tuple[int, int]:
        """Return the two ends of a pipe for a program's stderr: ours, which does not block, and the program's."""
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        self._readers[reader], self._pending[reader] = name, b""
        return reader, writer

    def read(self, reader: int) -> bool:
        """Take what a program said meanwhile; tell whether more may come."""
        while True:
            try:
                data = os.read(reader, _PIECE)
            except BlockingIOError:
                return True
            if not data:
                self._end(reader)
                return False
            *lines, self._pending[reader] = (self._pending[reader] + data).split(b"\n")
            for line in lines:
                self._take(self._readers[reader], line)

    def _end(self, reader: int) -> None:
        """Show the rest of what a program said, and hear it no more."""
        name = self._readers.pop(reader)
        with contextlib.suppress(BlockingIOError):
            while data := os.read(reader, _PIECE):
                self._pending[reader] += data
        os.close(reader)
        for line in self._pending.pop(reader).splitlines():
            self._take(name, line)

    def _take(self, name: str, line: bytes) -> None:
        task = _task(line)
        if task is None:
            with self.aside():
                sys.stderr.buffer.write(line + b"\n")
                sys.stderr.flush()
            return
        what, done, total = task
        self._tasks.setdefault(name, {})[what] = (done, total)
        if time.monotonic() - self._drawn >= _REDRAW_SECONDS:
            self.draw()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Take the bar away while something else is said."""
        self._bar.clear()
        yield
        self.draw()

    def succeeded(self) -> None:
        """Count one more program that has done its work."""
        self.ended += 1
        self.draw()

    def draw(self) -> None:
        """Show how far the pipe is."""
        self._drawn = time.monotonic()
        place = min(self.ended, len(self.names) - 1)
        self._bar.n = min(self.ended + self._fraction(self.names[place]), len(self.names))
        self._bar.set_description_str(
            f"{self.what}: {place + 1} of {len(self.names)}, {self.names[place]}", refresh=False
        )
        self._bar.refresh()

    def _fraction(self, name: str) -> float:
        """Return how much of a program's tasks is done, as far as it said how much there is."""
        tasks = self._tasks.get(name, {}).values()
        there = sum(total for _, total in tasks)
        return sum(done for done, _ in tasks) / there if there else 0.0


def _task(line: bytes) -> tuple[str, int, int] | None:
    """Return what a line of progress tells: the task, how much of it is done, how much there is; None for any other."""
    if not line.startswith(b"{"):
        return None
    try:
        found = json.loads(line)
        done, total = int(found["done"]), int(found["total"] or 0)
        return str(found["what"]), min(done, total), total
    except (ValueError, KeyError, TypeError):
        return None


@contextlib.contextmanager
def of(names: Sequence[str]) -> Iterator[Overview | None]:
    """Give the overview of a pipe where progress is drawn; None where none is, or there is no program."""
    if not names or not console.shows_bars():
        yield None
        return
    with Overview(console.program(), names) as overview:
        yield overview
