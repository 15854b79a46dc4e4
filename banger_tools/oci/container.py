"""Files that hold an image: a folder, or a tar of one, looked into by name and read by offset.

Nothing is extracted. Names in a tar may be links to other names in it, as `docker save` makes them.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from banger_tools import errors
from banger_tools.oci.cancel import Cancel

PIECE = 256 << 10
_LINKS = 8


class Extent(NamedTuple):
    """A run of bytes in a file."""

    path: Path
    offset: int
    size: int

    def read(self, limit: int, what: str) -> bytes:
        """Return all of it.

        Raises BadInput if it is larger than `limit` or ends early.
        """
        if self.size > limit:
            raise errors.BadInput(f"{what} of {self.size} bytes is too large: the limit is {limit}")
        return b"".join(self.chunks(0, Cancel()))

    def chunks(self, start: int, cancel: Cancel) -> Iterator[bytes]:
        """Yield the bytes from `start` on, fewer than promised only if the file ends."""
        position, left = self.offset + start, self.size - start
        descriptor = _open(self.path)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)  # the kernel reads further ahead
            while left > 0 and (data := os.pread(descriptor, min(PIECE, left), position)):
                cancel.check()
                position, left = position + len(data), left - len(data)
                yield data
        except OSError as error:
            raise errors.os_error(error, f"cannot read '{self.path}'") from error
        finally:
            os.close(descriptor)


class Container(Protocol):
    """A set of named files."""

    path: Path

    def find(self, name: str) -> Extent | None: ...


def _open(path: Path) -> int:
    """Open a regular file; a fifo must not block us.

    Raises NoInput, Denied.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise errors.os_error(error, f"cannot read '{path}'") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise errors.NoInput(f"cannot read '{path}': it is not a regular file")
    return descriptor


def whole_file(path: Path) -> Extent:
    """Return all of a file as an extent.

    Raises NoInput, Denied.
    """
    descriptor = _open(path)
    try:
        return Extent(path, 0, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


class Folder:
    """The files of a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_dir():
            raise errors.NoInput(f"'{path}' is not a folder" if path.exists() else f"'{path}' does not exist")

    def find(self, name: str) -> Extent | None:
        """Return a file, or None if there is none.

        Raises Denied if it cannot be read.
        """
        path = self.path / name
        return whole_file(path) if os.path.lexists(path) else None


class TarFile:
    """The files in an uncompressed tar."""

    def __init__(self, path: Path, shown: Path | None = None) -> None:
        self.path = shown or path
        self._file = path
        self._extents: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        self._scan()

    def _scan(self) -> None:
        import tarfile

        whole_file(self._file)
        try:
            with tarfile.open(self._file, "r:") as archive:
                for member in archive:
                    if member.size < 0:  # tarfile would go back by it, and read the same members for ever
                        raise ValueError(f"'{member.name}' has the size {member.size}")
                    self._add(member)
        except (tarfile.TarError, EOFError, ValueError) as error:
            raise errors.BadInput(f"'{self.path}' is not a tar archive: {error}") from error
        except OSError as error:
            raise errors.os_error(error, f"cannot read '{self.path}'") from error

    def _add(self, member: object) -> None:
        import tarfile

        assert isinstance(member, tarfile.TarInfo)
        name = posixpath.normpath(member.name)
        if member.isreg():
            self._extents[name] = (member.offset_data, member.size)
        elif member.issym():
            self._links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))
        elif member.islnk():
            self._links[name] = posixpath.normpath(member.linkname)

    def find(self, name: str) -> Extent | None:
        """Return a file, or None if there is none."""
        name = posixpath.normpath(name)
        for _ in range(_LINKS):
            if name in self._extents:
                return Extent(self._file, *self._extents[name])
            if name not in self._links:
                break
            name = self._links[name]
        return None
