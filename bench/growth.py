"""What twice as much costs: entries in many folders, in one folder, and bytes. A straight line is what one hopes for.

What counts is the time for each: the ratios are of that, so a way that grows as its input does keeps its ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from banger_tools.tree import Entry
from bench import ext4, inputs, timing
from bench.scale import Scale
from bench.timing import Point, Run, Table, Way

Made = Callable[[int], Iterator[Entry]]


class Sizes:
    """The same files as tree, tar and folder, and the ways to read them, for a number of sizes."""

    def __init__(self, scale: Scale, unit: str, made: Made) -> None:
        self.scale, self.unit, self.made = scale, unit, made
        self.ways: dict[str, Way] = {}

    def tree(self, amount: int) -> Path:
        return inputs.written(self.scale, self.made(amount), str(amount))

    def tar(self, amount: int) -> Path:
        path = self.scale.fresh(f"tar-{amount}") / "files.tar"
        inputs.as_tar(self.tree(amount), path)
        return path

    def add(self, series: str, amount: int, once: Callable[[], Run], *needs: str) -> None:
        self.ways[f"{series}, {amount} {self.unit}"] = Way(once, needs, Point(series, self.unit, amount))

    def add_mkfs(self, amount: int, tar: Path) -> None:
        folder = inputs.extracted(self.scale, tar, f"folder-{amount}")
        once = partial(ext4.mkfs, self.scale, folder, ext4.mebibytes(folder))
        self.add("mkfs.ext4 -d", amount, once, "mkfs.ext4")


def flat(scale: Scale) -> Table:
    """Compare one folder of many files."""
    sizes = Sizes(scale, "entries", inputs.flat_folder)
    for amount in scale.flat:
        sizes.add("bg-mkext4", amount, partial(ext4.ours, scale, sizes.tree(amount)))
        sizes.add_mkfs(amount, sizes.tar(amount))
    title, reference = f"up to {scale.flat[-1]} files in one folder", f"bg-mkext4, {scale.flat[-1]} entries"
    return timing.compare("flat", title, sizes.ways, scale.rounds, reference=reference)


def million(scale: Scale) -> Table:
    """Compare many small files, a hundred a folder; the largest trees are ours alone."""
    sizes = Sizes(scale, "entries", inputs.small_files)
    for amount in scale.entries:
        tar = sizes.tar(amount)
        sizes.add("bg-flatten", amount, partial(flatten, scale, tar))
        sizes.add("bg-mkext4", amount, partial(ext4.ours, scale, sizes.tree(amount)))
        if amount <= scale.peer_entries:
            sizes.add("tar -x", amount, partial(extract, scale, tar))
            sizes.add_mkfs(amount, tar)
    title = f"up to {scale.entries[-1]} small files, a hundred a folder"
    reference = f"bg-mkext4, {scale.entries[len(scale.entries) // 2]} entries"
    return timing.compare("million", title, sizes.ways, scale.rounds, reference=reference)


def data(scale: Scale) -> Table:
    """Compare files of a mebibyte, up to so many, with a plain copy as the floor."""
    sizes = Sizes(scale, "MiB", inputs.large_files)
    for amount in scale.mebibytes:
        tar = sizes.tar(amount)
        sizes.add("cat", amount, partial(copy, scale, tar))
        sizes.add("bg-flatten", amount, partial(flatten, scale, tar))
        sizes.add("bg-mkext4", amount, partial(ext4.ours, scale, tar))
        sizes.add_mkfs(amount, tar)
    title = f"up to {scale.mebibytes[-1]} MiB in files of one"
    reference = f"bg-mkext4, {scale.mebibytes[-1]} MiB"
    return timing.compare("bytes", title, sizes.ways, scale.rounds, reference=reference)


def flatten(scale: Scale, tar: Path) -> Run:
    tree = scale.fresh("ours") / "tree.jsonl"
    return timing.run([inputs.program("bg-flatten"), "-q", "--path", "-o", tree, tar])


def extract(scale: Scale, tar: Path) -> Run:
    return timing.run(["tar", "-C", scale.fresh("theirs"), "--numeric-owner", "-xpf", tar])


def copy(scale: Scale, tar: Path) -> Run:
    with open(scale.fresh("theirs") / "copy", "wb") as target:
        return timing.run(["cat", tar], stdout=target)
