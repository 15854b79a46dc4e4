"""From a tree to a finished ext4 file: choose a size, let mke2fs format, fill."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import NamedTuple

from banger_tools import console, errors, files, sizes
from banger_tools.ext4 import allocator, mke2fs, writer
from banger_tools.ext4.mke2fs import Format
from banger_tools.ext4.plan import BLOCK, Plan, plan
from banger_tools.tree import Tree

MIB = 1 << 20
DEFAULT_LEAST = 1 << 30
GROWTH = 1.25


class Wanted(NamedTuple):
    """What an image is to be like; None means: as follows from the tree."""

    size: int | None = None
    label: str = ""
    uuid: uuid.UUID | None = None
    least: int = DEFAULT_LEAST


class Built(NamedTuple):
    """What was built."""

    size: int
    uuid: str
    label: str
    free_bytes: int
    free_inodes: int


def build(path: Path, tree: Tree, wanted: Wanted) -> Built:
    """Make the ext4 image of a tree in a new file at `path`.

    Raises BadUsage naming the least size when the one wanted is too small; BadInput for what ext4 cannot hold.
    """
    with writer.no_collection(), console.step("planned the filesystem"):
        laid_out = plan(tree.entries)
    form = _format(laid_out, wanted, tree.identity)
    if wanted.size is not None and laid_out.bytes > wanted.size:
        raise _too_small(path, laid_out, form)
    filled = _attempt(path, laid_out, form, tree)
    if filled is None:
        raise _too_small(path, laid_out, form)
    return Built(form.size, str(form.uuid), form.label, filled.free_blocks * BLOCK, filled.free_inodes)


def _format(laid_out: Plan, wanted: Wanted, identity: str) -> Format:
    size = wanted.size
    if size is None:
        size = max(int(mke2fs.estimate(laid_out.blocks, laid_out.inodes) * GROWTH), wanted.least)
    size = -(-size // MIB) * MIB if wanted.size is None else size // BLOCK * BLOCK
    return Format(
        size,
        mke2fs.default_inodes(laid_out.inodes, size),
        wanted.label,
        wanted.uuid or mke2fs.derived_uuid(identity, "filesystem"),
        mke2fs.derived_uuid(identity, "hash seed"),
        mke2fs.build_time(),
    )


def _attempt(path: Path, laid_out: Plan, form: Format, tree: Tree) -> writer.Filled | None:
    with console.step("made the empty filesystem"):
        mke2fs.make(path, form)
    try:
        with writer.no_collection(), console.step("filled the filesystem"):
            return writer.fill(path, laid_out, tree.sources)
    except allocator.Full:
        return None


def _too_small(path: Path, laid_out: Plan, form: Format) -> errors.BadUsage:
    least = least_size(path, laid_out, form)
    shown = sizes.show(form.size)
    return errors.BadUsage(
        f"a filesystem of {shown} is too small: this tree needs {least} bytes at least", f"--size={least}"
    )


def least_size(beside: Path, laid_out: Plan, form: Format) -> int:
    """Return the smallest size, in whole MiB, that holds the plan, found by trying."""
    low = max(laid_out.bytes, mke2fs.MIN_SIZE) // MIB
    high = -(-mke2fs.estimate(laid_out.blocks, laid_out.inodes) // MIB)
    while not _holds(beside, laid_out, form, high * MIB):
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        if _holds(beside, laid_out, form, middle * MIB):
            high = middle
        else:
            low = middle + 1
    return high * MIB


def _holds(beside: Path, laid_out: Plan, form: Format, size: int) -> bool:
    trial = files.temporary_name(beside)
    try:
        mke2fs.make(trial, form._replace(size=size, inodes=mke2fs.default_inodes(laid_out.inodes, size)))
        return writer.fits(trial, laid_out)
    finally:
        files.discard(trial)
