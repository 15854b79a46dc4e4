"""How much is measured: all of it, what fits into two minutes, or so little that it says nothing of speed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

WORK = Path(__file__).resolve().parent / ".work"
LARGE = "include=build-essential,git,vim,python3-dev,cmake,golang-src,linux-headers-amd64"  # 850 MB, 50,000 entries
SMALL = "variant=essential&packages=base-files"  # what dpkg itself needs


class Scale(NamedTuple):
    """The sizes of what is measured, how often, and where it is made.

    query: what follows apt:bookworm? in the reference of the image that most comparisons read; None is an image made
    here, of nothing but numbered files. flat, entries, mebibytes: what the comparisons of growth go through.
    peer_entries: the most entries that others than ours are given there. home: files in the home folder of a seed.
    builds: how many run at once. starts: how often a program is started for one run. cold: whether caches are dropped
    where that counts. machines: whether a way that boots a machine to write a file is tried.
    """

    rounds: int
    query: str | None
    flat: tuple[int, ...]
    entries: tuple[int, ...]
    peer_entries: int
    mebibytes: tuple[int, ...]
    home: int
    builds: tuple[int, ...]
    starts: int
    cold: bool = True
    machines: bool = False
    work: Path = WORK

    def fresh(self, name: str) -> Path:
        """Return an empty folder, which `clear` removes."""
        folder = self.work / "runs" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def clear(self) -> None:
        """Remove what the runs of a comparison left; inputs that take long to make stay."""
        shutil.rmtree(self.work / "runs", ignore_errors=True)


SCALES: Mapping[str, Scale] = {
    "full": Scale(
        rounds=5,
        query=LARGE,
        flat=(2_500, 5_000, 10_000, 20_000, 40_000),
        entries=(1_000, 10_000, 50_000, 200_000, 1_000_000),
        peer_entries=200_000,
        mebibytes=(32, 128, 512, 2048),
        home=20_000,
        builds=(1, 4, 16),
        starts=20,
        machines=True,
    ),
    "quick": Scale(
        rounds=1,
        query=SMALL,
        flat=(500, 1_000, 2_000),
        entries=(1_000, 4_000, 16_000),
        peer_entries=4_000,
        mebibytes=(16, 64),
        home=500,
        builds=(1, 2),
        starts=1,
    ),
    "tiny": Scale(
        rounds=1,
        query=None,
        flat=(20, 40),
        entries=(20, 40),
        peer_entries=20,
        mebibytes=(1, 2),
        home=20,
        builds=(1, 2),
        starts=1,
        cold=False,
    ),
}
