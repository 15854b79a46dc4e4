"""From a tree to a finished ext4 file: choose a size, let mke2fs format, fill."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from banger_tools import collection, console, errors, files, sizes
from banger_tools.ext4 import allocator, features, mke2fs, writer
from banger_tools.ext4.mke2fs import Format
from banger_tools.ext4.plan import BLOCK, Plan, plan
from banger_tools.tree import Tree

MIB = 1 << 20
DEFAULT_LEAST = 1 << 30
GROWTH = 1.25
KERNEL_RESERVE = 4096  # blocks, or a fiftieth of all, that the kernel keeps back for metadata (s_resv_clusters)


class Wanted(NamedTuple):
    """What an image is to be like; None means: as follows from the tree.

    At most one of size, free (bytes that are to be left) and minimal is set.
    """

    size: int | None = None
    label: str = ""
    uuid: uuid.UUID | None = None
    least: int = DEFAULT_LEAST
    free: int | None = None
    minimal: bool = False
    inodes: int | None = None
    features: tuple[str, ...] = features.USUAL


class Built(NamedTuple):
    """What was built."""

    size: int
    uuid: str
    label: str
    free_bytes: int
    free_inodes: int


def build(path: Path, tree: Tree, wanted: Wanted) -> Built:
    """Make the ext4 image of a tree in a new file at `path`.

    Raises BadUsage naming the least size, or number of inodes, when the one wanted is too small; BadInput for what
    ext4 cannot hold.
    """
    with collection.paused(), console.step("planned the filesystem"):
        laid_out = plan(tree.entries)
    if wanted.inodes is not None and wanted.inodes < laid_out.inodes:
        raise errors.BadUsage(f"{wanted.inodes} inodes are too few: this tree needs {laid_out.inodes}")
    search = Search(path, laid_out, wanted, tree.identity)
    for form in search.forms():
        filled = _attempt(path, laid_out, form, tree)
        if filled is not None:
            return Built(form.size, str(form.uuid), form.label, filled.free_blocks * BLOCK, filled.free_inodes)
    raise _too_small(search, form.size)


def _attempt(path: Path, laid_out: Plan, form: Format, tree: Tree) -> writer.Filled | None:
    try:
        with console.step("made the empty filesystem"):
            mke2fs.make(path, form)
        with collection.paused(), console.step("filled the filesystem"):
            return writer.fill(path, laid_out, tree.sources)
    except allocator.Full:
        path.unlink(missing_ok=True)
        return None


def _too_small(search: Search, size: int) -> errors.BadUsage:
    given, least = sizes.exact(size), sizes.exact(search.least_size(search.tight, above=size))
    return errors.BadUsage(f"a filesystem of {given} is too small: this tree needs {least} at least", f"--size={least}")


class Search:
    """The formats that a wish allows, best first; `beside` is where empty filesystems may be tried."""

    def __init__(self, beside: Path, laid_out: Plan, wanted: Wanted, identity: str) -> None:
        self.beside = beside
        self.laid_out = laid_out
        self.wanted = wanted
        self.uuid = wanted.uuid or mke2fs.derived_uuid(identity, "filesystem")
        self.hash_seed = mke2fs.derived_uuid(identity, "hash seed")

    def forms(self) -> Iterator[Format]:
        """Yield the formats to be tried in turn."""
        if self.wanted.minimal:
            yield self.tight(self.least_size(self.tight))
        elif self.wanted.free is not None:
            yield self.roomy(self.least_size(self.roomy, spare=self.wanted.free))
        else:
            size = self.default_size() if self.wanted.size is None else self.wanted.size
            yield self.roomy(size)
            yield self.tight(size)
            if self.wanted.size is None:  # very many inodes make groups small, and what each of them takes adds up
                yield self.roomy(self.least_size(self.roomy, above=size))

    def default_size(self) -> int:
        """Return what the tree needs and a quarter more, in whole MiB."""
        needed = mke2fs.estimate(self.laid_out.blocks, self.inodes())
        return max(-(-int(needed * GROWTH) // MIB) * MIB, self.wanted.least)

    def inodes(self) -> int:
        return self.wanted.inodes or self.laid_out.inodes

    def roomy(self, size: int) -> Format:
        """Return the format of a filesystem that is used for something: spare inodes, a journal as usual."""
        inodes = self.wanted.inodes or mke2fs.default_inodes(self.laid_out.inodes, size)
        return self._format(size, inodes, journal=None)

    def tight(self, size: int) -> Format:
        """Return the format that leaves most room for the tree itself."""
        return self._format(size, self.inodes(), journal=mke2fs.small_journal(size))

    def _format(self, size: int, inodes: int, *, journal: int | None) -> Format:
        wanted = self.wanted
        size = size // BLOCK * BLOCK
        return Format(
            size, inodes, journal, wanted.features, wanted.label, self.uuid, self.hash_seed, mke2fs.build_time()
        )

    def least_size(self, form: Callable[[int], Format], *, above: int = 0, spare: int = 0) -> int:
        """Return the smallest size in whole MiB, larger than `above`, that holds the tree and `spare` free bytes.

        It is found by trying: what mke2fs takes for itself does not follow from the size alone.
        """
        low = max(self.laid_out.data + spare, above) // MIB + 1
        high = max(low, -(-(mke2fs.estimate(self.laid_out.blocks, self.inodes()) + spare) // MIB))
        while not self.holds(form(high * MIB), spare):
            low, high = high + 1, 2 * high
        while low < high:
            middle = (low + high) // 2
            if self.holds(form(middle * MIB), spare):
                high = middle
            else:
                low = middle + 1
        return high * MIB

    def holds(self, form: Format, spare: int) -> bool:
        """Tell whether a filesystem holds the tree and leaves `spare` bytes that the kernel gives to anybody."""
        blocks = -(-spare // BLOCK) + min(form.size // BLOCK // 50, KERNEL_RESERVE) if spare else 0
        trial = files.temporary_name(self.beside)
        try:
            mke2fs.make(trial, form)
            return writer.fits(trial, self.laid_out, blocks)
        except allocator.Full:
            return False
        finally:
            files.discard(trial)
