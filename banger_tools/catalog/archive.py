"""A bundle's tar taken apart while it arrives: `rootfs.ext4` and `manifest.json`, in any order, and nothing else.

Both must be regular files. Nothing is extracted by name: the one goes into a file that was opened before, its blocks of
zeros as holes, and the other into memory.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import IO, TypeVar

from banger_tools import errors, sizes, tar
from banger_tools.oci import limits
from banger_tools.oci.compression import Corrupt

ROOTFS, MANIFEST = "rootfs.ext4", "manifest.json"
HINT = "a bundle is made so: tar -C DIR -c rootfs.ext4 manifest.json | zstd >NAME.tar.zst"

PIECE = 256 << 10
_PAX_LIMIT = 64 << 10
_HOLE = 4096
_KINDS = {
    b"1": "a hardlink",
    b"2": "a symlink",
    b"3": "a device",
    b"4": "a device",
    b"5": "a folder",
    b"6": "a fifo",
    b"S": "stored sparse",
}

T = TypeVar("T")
Steps = Generator[None, bytes, T]


class Archive:
    """The tar of a bundle on its way: `write` takes the next bytes, `finish` tells that there are no more.

    `manifest` are the bytes of manifest.json, `size` is that of the root filesystem.
    """

    def __init__(self, image: IO[bytes], limit: int, what: str) -> None:
        self._image = _Sparse(image)
        self._limit = limit
        self._what = what
        self._rest = memoryview(b"")
        self._ended = False
        self._steps = self._members()
        next(self._steps)
        self.manifest: bytes | None = None
        self.size: int | None = None

    @property
    def written(self) -> int:
        """Bytes of the root filesystem that are not holes, so far."""
        return self._image.written

    def write(self, data: bytes) -> None:
        """Take the next bytes.

        Raises BadInput for anything but the two files, Corrupt for what is no tar.
        """
        self._steps.send(data)

    def finish(self) -> None:
        """Raise Corrupt if the end is missing, BadInput if a file is."""
        if not self._ended:
            raise Corrupt("the tar is cut: its end is missing")
        for name, found in ((ROOTFS, self.size), (MANIFEST, self.manifest)):
            if found is None:
                raise errors.BadInput(f"{self._what} has no '{name}'", HINT)

    def _some(self, most: int) -> Steps[memoryview]:
        """Return the next bytes, at least one and at most so many."""
        while not self._rest:
            self._rest = memoryview((yield))
        piece, self._rest = self._rest[:most], self._rest[most:]
        return piece

    def _exactly(self, count: int) -> Steps[bytes]:
        data = bytearray()
        while len(data) < count:
            data += yield from self._some(count - len(data))
        return bytes(data)

    def _members(self) -> Steps[None]:
        records: dict[str, bytes] = {}
        while (header := (yield from self._exactly(tar.BLOCK))).strip(b"\0"):
            kind, name, size = _read_header(header)
            if kind == b"x":
                records = yield from self._records(size)
                continue
            size = _decimal(records["size"]) if records.get("size") else size
            name = records.get("path") or name
            is_sparse = any(key.startswith("GNU.sparse.") for key in records)
            yield from self._member(b"S" if is_sparse else kind, name, size)
            records = {}
        self._ended = True
        while True:
            if bytes((yield from self._some(PIECE))).strip(b"\0"):
                raise Corrupt("the tar is followed by something else")

    def _records(self, size: int) -> Steps[dict[str, bytes]]:
        """Read a PAX header."""
        if size > _PAX_LIMIT:
            raise Corrupt(f"an extended header of {size} bytes is too large")
        body = yield from self._exactly(size)
        yield from self._exactly(-size % tar.BLOCK)
        return dict(tar.pax_records(body, 0, None))

    def _member(self, kind: bytes, raw_name: bytes, size: int) -> Steps[None]:
        name = raw_name.decode("utf-8", "backslashreplace").removeprefix("./")
        if kind not in (b"0", b"\0") or name not in (ROOTFS, MANIFEST):
            found = f", which is {_KINDS[kind]}" if kind in _KINDS else ""
            raise errors.BadInput(f"{self._what} holds '{name}'{found}: only two regular files may be in it", HINT)
        if (self.size if name == ROOTFS else self.manifest) is not None:
            raise errors.BadInput(f"{self._what} holds '{name}' twice", HINT)
        if name == MANIFEST:
            if size > limits.DOCUMENT:
                raise errors.BadInput(f"{self._what}: a '{name}' of {size} bytes is too large")
            self.manifest = yield from self._exactly(size)
        else:
            yield from self._rootfs(size)
        yield from self._exactly(-size % tar.BLOCK)

    def _rootfs(self, size: int) -> Steps[None]:
        if size > self._limit:
            hint = "allow more with --max-image"
            raise errors.BadInput(f"{self._what}: its image is larger than {sizes.show(self._limit)}", hint)
        left = size
        while left:
            piece = yield from self._some(left)
            self._image.write(piece)
            left -= len(piece)
        self._image.finish()
        self.size = size


def _read_header(header: bytes) -> tuple[bytes, bytes, int]:
    """Return the type, the name and the size that a header states.

    Raises Corrupt.
    """
    import tarfile

    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise Corrupt(f"it is no tar, or a damaged one: {error}") from error
    if info.size < 0:
        raise Corrupt("a tar header states a negative size")
    return info.type, info.name.encode("utf-8", "surrogateescape"), info.size


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 18:
        raise Corrupt("an extended header states a size that is no number")
    return int(text)


class _Sparse:
    """Writes a file from front to back, leaving blocks of zeros out."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._buffer = bytearray()
        self._position = 0
        self.written = 0

    def write(self, data: memoryview) -> None:
        """Take the next bytes."""
        self._buffer += data
        if len(self._buffer) >= PIECE:
            whole = len(self._buffer) // _HOLE * _HOLE
            with memoryview(self._buffer) as view:
                self._flush(bytes(view[:whole]))
            del self._buffer[:whole]

    def finish(self) -> None:
        """Write what is left, and give the file its size."""
        self._flush(bytes(self._buffer))
        self._buffer.clear()
        self._file.truncate(self._position)

    def _flush(self, data: bytes) -> None:
        view = memoryview(data)
        for start, end in _filled(data):
            self._file.seek(self._position + start)
            self._file.write(view[start:end])
            self.written += end - start
        self._position += len(data)


def _filled(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the runs of blocks that are not all zeros."""
    if not data.strip(b"\0"):
        return
    begin = None
    zeros = bytes(_HOLE)
    for at in range(0, len(data), _HOLE):
        block = data[at : at + _HOLE]
        if block == zeros[: len(block)]:
            if begin is not None:
                yield begin, at
            begin = None
        elif begin is None:
            begin = at
    if begin is not None:
        yield begin, len(data)
