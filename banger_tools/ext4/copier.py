"""Copying the content of files into the image, in a process of its own beside the one that writes the metadata.

Small neighbours leave in one system call with the zeros between them, large files are copied inside the kernel.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from banger_tools import beside, errors, files
from banger_tools.contents import Contents
from banger_tools.tree import Entry

BLOCK = 4096
LARGE = 64 << 10
MAX_SLICES = 1000  # IOV_MAX is 1024
MAX_BATCH = 4 << 20
_ZEROS = bytes(BLOCK)
_CUT = "a layer became shorter while it was read"


class Copy(NamedTuple):
    """One run of bytes to be copied from a source into the image; a negative source is ~index of a loose file."""

    source: int
    offset: int
    length: int
    place: int


@contextlib.contextmanager
def copying(copies: Iterable[Copy], loose: Sequence[Entry], contents: Contents, target: int) -> Iterator[None]:
    """Copy in another process while the body runs; at the end wait for it.

    `copies` is run through there, too; `loose` holds the files of folders that it came upon so far. `target` is a
    descriptor. Raises the error that the copier met; stops it if the body fails.
    """
    with beside.running(lambda: _copy_all(copies, _Loose(loose, contents), target), _CUT) as wait:
        yield
        wait()


class _Loose:
    """The files of folders that are to be copied, one of them open at a time."""

    def __init__(self, entries: Sequence[Entry], contents: Contents) -> None:
        self.entries = entries
        self.contents = contents
        self.index = -1
        self.file = contextlib.ExitStack()
        self.descriptor = -1

    def open(self, index: int) -> int:
        """Return the descriptor of a file, which stays open until another is asked for."""
        if index != self.index:
            self.close()
            self.descriptor, _ = self.file.enter_context(self.contents.file(self.entries[index]))
            self.index = index
        return self.descriptor

    def close(self) -> None:
        """Close the file that is open; raise BadInput if it changed while it was read."""
        self.file.close()


def _copy_all(copies: Iterable[Copy], loose: _Loose, target: int) -> None:
    sources = loose.contents.descriptors
    views = [_view(descriptor) for descriptor in sources]
    sizes = [len(view) for view in views]
    batch: list[memoryview | bytes] = []
    start = end = 0
    for source, offset, length, place in copies:
        if source < 0:
            descriptor = loose.open(~source)
        elif offset + length > sizes[source]:
            raise errors.BadInput("a layer is shorter than its tree says")
        else:
            descriptor = sources[source]
        if length >= LARGE:
            _copy_large(descriptor, offset, target, place, length)
            continue
        gap = place - end
        if batch and (not 0 <= gap < BLOCK or len(batch) >= MAX_SLICES - 2 or end - start > MAX_BATCH):
            _write(target, batch, start)
            batch = []
        if not batch:
            start = place
        elif gap:
            batch.append(_ZEROS[:gap])
        piece = views[source][offset : offset + length] if source >= 0 else os.pread(descriptor, length, offset)
        if len(piece) < length:
            raise errors.BadInput("a file became shorter while it was read")
        batch.append(piece)
        end = place + length
    if batch:
        _write(target, batch, start)
    loose.close()


def _copy_large(source: int, offset: int, target: int, place: int, length: int) -> None:
    """Copy inside the kernel, and leave holes of the source as holes of the image's file, which is empty there."""
    for start, end in files.data_ranges(source, offset, offset + length):
        files.copy_range(source, start, target, place + start - offset, end - start)
    if os.fstat(source).st_size < offset + length:  # what is missing at the end looks like a hole
        raise errors.BadInput("a file became shorter while it was read")


def _view(descriptor: int) -> memoryview:
    info = os.fstat(descriptor) if descriptor >= 0 else None
    size = info.st_size if info and stat.S_ISREG(info.st_mode) else 0
    return memoryview(mmap.mmap(descriptor, size, prot=mmap.PROT_READ)) if size else memoryview(b"")


def _write(target: int, batch: list[memoryview | bytes], place: int) -> None:
    written = os.pwritev(target, batch, place)
    total = sum(map(len, batch))
    if written < total:  # a signal or a full disk: what is left goes slowly, and says why it cannot
        rest = b"".join(batch)[written:]
        while rest:
            place += written
            written = os.pwrite(target, rest, place)
            rest = rest[written:]
