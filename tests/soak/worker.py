"""One who runs banger for a soak, and writes down how each run of it ended."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests import logins, support

PATIENCE = 600.0  # seconds that a program may take on a machine that does much else
ENDED = (130, 143, -signal.SIGINT, -signal.SIGTERM)  # a signal may come before a program has begun to heed it


class Operation(NamedTuple):
    """A program that ran: its kind, its words, how long it took, and what was wrong with how it ended."""

    kind: str
    words: Sequence[str]
    seconds: float
    trouble: str


class Broken(Exception):
    """An operation that did not do what it was to do; it is written down already."""


class Worker:
    """A worker with a folder of its own; what it did is in `done`, what fresh machines took of memory in `fresh`."""

    def __init__(self, folder: Path, seed: str, *, taps: bool) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.chance = random.Random(seed)
        self.taps = taps
        self.done: list[Operation] = []
        self.fresh: list[int] = []
        self.took: dict[str, float] = {}  # the seconds of the last operation of each kind

    def told(self) -> tuple[list[Operation], list[int]]:
        """Return what was done, and what fresh machines took, since this was asked last."""
        told = self.done, self.fresh
        self.done, self.fresh = [], []
        return told

    def banger(self, kind: str, *words: str, want: str | None = None, statuses: Sequence[int] = (0,)) -> str:
        """Run banger as an operation of a kind, and return what it printed, which has to be `want` if that is given.

        Raises Broken if it ends otherwise, or is not done in time.
        """
        began = time.monotonic()
        try:
            done = support.run("banger", *words, cwd=self.folder, timeout=PATIENCE)
            printed, trouble = done.stdout.decode(), ""
            if done.returncode not in statuses:
                trouble = f"status {done.returncode}: {done.stderr.decode(errors='replace').strip()}"
            elif want is not None and printed != want:
                trouble = f"it printed {printed!r}, not {want!r}"
        except subprocess.TimeoutExpired:
            printed, trouble = "", f"it is not done after {PATIENCE:.0f} seconds"
        self.note(kind, words, began, trouble)
        return printed

    def note(self, kind: str, words: Sequence[str], began: float, trouble: str) -> None:
        """Write down an operation that began at a time of the monotonic clock; raises Broken if it is in trouble."""
        self.took[kind] = time.monotonic() - began
        self.done.append(Operation(kind, words, self.took[kind], trouble))
        if trouble:
            raise Broken(trouble)

    def interrupted(self, kind: str, *words: str) -> None:
        """Run banger, and end it within the time that such a run took: by SIGTERM, or ^C, which all that it runs gets.

        Raises Broken if it ends in another way than it should then, or than by itself.
        """
        began, log = time.monotonic(), self.folder / "interrupted.log"
        with open(log, "wb") as said:
            process = subprocess.Popen(
                support.argv("banger", *words),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                cwd=self.folder,
                env=support.environment(),
                start_new_session=True,
            )
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(self.chance.uniform(0, self.took.get(kind, 2.0)))
        if process.poll() is None:
            if self.chance.random() < 0.5:
                process.terminate()
            else:
                os.killpg(process.pid, signal.SIGINT)
        status = process.wait(PATIENCE)
        self.note(
            f"{kind}, interrupted", words, began, "" if status in (0, *ENDED) else f"status {status}: {log.read_text()}"
        )

    def net(self) -> list[str]:
        """Return options for the network of a machine: a tap as often as not, where there are taps."""
        if self.taps and self.chance.random() < 0.5:
            more: list[str] = self.chance.choice(([], ["--nat"], ["--nat", f"--publish={logins.free_port()}:80"]))
            return ["--net=tap", *more]
        return [self.chance.choice(("--net=user", "--net=none"))]
