"""Where the content of a tree's files is: the layers and folders that its entries name, opened once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from banger_tools import errors
from banger_tools.tree import Entry, Segments, SourceFile

if TYPE_CHECKING:
    from banger_tools.folder import Opener


@contextlib.contextmanager
def opened_sources(sources: Sequence[SourceFile], used: Collection[int]) -> Iterator[list[int]]:
    """Open the sources with these numbers, files of the size that the tree says and folders; -1 stands for the others.

    Raises NoInput, Denied or BadInput.
    """
    with contextlib.ExitStack() as stack:
        descriptors = []
        for number, source in enumerate(sources):
            descriptor = _open(source) if number in used else -1
            if descriptor >= 0:
                stack.callback(os.close, descriptor)
                _check_size(descriptor, source)
            descriptors.append(descriptor)
        yield descriptors


def _open(source: SourceFile) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC | (os.O_DIRECTORY if source.folder else 0)
    try:
        return os.open(source.path, flags)
    except OSError as error:
        raise errors.os_error(error, f"cannot read '{source.path}', which holds data of the tree") from error


def _check_size(descriptor: int, source: SourceFile) -> None:
    size = os.fstat(descriptor).st_size
    if source.size is not None and size != source.size:
        raise errors.BadInput(f"'{source.path}' has {size} bytes, and the tree says {source.size}")


class Contents:
    """The content of files, by their entries."""

    def __init__(self, sources: Sequence[SourceFile], descriptors: Sequence[int]) -> None:
        self.descriptors = descriptors
        folders = {number: source.path for number, source in enumerate(sources) if source.folder}
        self.openers = {number: _opener(descriptors[number], path) for number, path in folders.items()}

    @contextlib.contextmanager
    def file(self, entry: Entry) -> Iterator[tuple[int, Segments]]:
        """Yield a descriptor, and which of its bytes are the file's: (offset in the file, offset there, length).

        Raises BadInput, at the end too, if a file of a folder is not what the tree says.
        """
        if entry.data is None:
            yield -1, []
            return
        source, offset = entry.data
        segments = entry.segments if entry.segments is not None else [(0, offset, entry.size)]
        if entry.origin is None:
            yield self.descriptors[source], segments
            return
        opener = self.openers[source]
        descriptor = opener.open(entry.origin, entry.size)
        try:
            yield descriptor, segments
            opener.check(descriptor, entry.origin, entry.size)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Close the folders that are still open."""
        for opener in self.openers.values():
            opener.leave()


def _opener(descriptor: int, path: str) -> Opener:
    from banger_tools import folder  # most trees need none

    return folder.Opener(descriptor, path)


@contextlib.contextmanager
def opened(sources: Sequence[SourceFile], entries: Sequence[Entry]) -> Iterator[Contents]:
    """Open what the data of these entries comes from."""
    used = {entry.data[0] for entry in entries if entry.data is not None}
    with opened_sources(sources, used) as descriptors:
        contents = Contents(sources, descriptors)
        try:
            yield contents
        finally:
            contents.close()
