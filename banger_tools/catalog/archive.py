"""A bundle's tar taken apart while it arrives; who reads it says what may be in it, and where that goes.

Of an image that is `rootfs.ext4` and `manifest.json`, in any order, and nothing else. Both must be regular files.
Nothing is extracted by name: the one goes into a file that was opened before, its blocks of zeros as holes, and the
other into memory.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import IO, Protocol, TypeVar

from banger_tools import errors, sizes, tar
from banger_tools.extensions import pax_records
from banger_tools.oci import limits
from banger_tools.oci.compression import Corrupt

ROOTFS, MANIFEST = "rootfs.ext4", "manifest.json"
HINT = "a bundle is made so: bg-publish --bundle=NAME.tar.zst MANIFEST; banger-catalog(5) says what is in it"

PIECE = 256 << 10
_EXTENSION_LIMIT = 64 << 10
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


class Sink(Protocol):
    """Where the content of one member goes, piece by piece."""

    def write(self, data: memoryview) -> None: ...

    def finish(self) -> None: ...


class Contents(Protocol):
    """What may be in a tar: `member` returns where one goes, or raises BadInput; `written` are bytes but holes."""

    @property
    def written(self) -> int: ...

    def member(self, kind: bytes, name: str, size: int) -> Sink: ...

    def finish(self) -> None: ...


class Archive:
    """A tar on its way: `write` takes the next bytes, `finish` tells that there are no more."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._rest = memoryview(b"")
        self._ended = False
        self._steps = self._members()
        next(self._steps)

    def write(self, data: bytes) -> None:
        """Take the next bytes.

        Raises BadInput for what may not be in it, Corrupt for what is no tar.
        """
        self._steps.send(data)

    def finish(self) -> None:
        """Raise Corrupt if the end is missing, BadInput if a file is."""
        if not self._ended:
            raise Corrupt("the tar is cut: its end is missing")
        self._contents.finish()

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
            if kind in (b"x", b"L"):
                body = yield from self._extension(size)
                records |= dict(pax_records(body, 0, None)) if kind == b"x" else {"path": body.split(b"\0", 1)[0]}
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

    def _extension(self, size: int) -> Steps[bytes]:
        """Read what says more of the next member: a PAX header, or GNU tar's long name."""
        if size > _EXTENSION_LIMIT:
            raise Corrupt(f"an extended header of {size} bytes is too large")
        body = yield from self._exactly(size)
        yield from self._exactly(-size % tar.BLOCK)
        return body

    def _member(self, kind: bytes, raw_name: bytes, size: int) -> Steps[None]:
        name = raw_name.decode("utf-8", "backslashreplace").removeprefix("./")
        sink = self._contents.member(kind, name, size)
        left = size
        while left:
            piece = yield from self._some(left)
            sink.write(piece)
            left -= len(piece)
        sink.finish()
        yield from self._exactly(-size % tar.BLOCK)


def is_file(kind: bytes) -> bool:
    """Tell whether a member of this type is a regular file."""
    return kind in (b"0", b"\0")


def worded(kind: bytes) -> str:
    """Return what a member of a type is that is not wanted, as in ", which is a device"; nothing for a file."""
    return f", which is {_KINDS[kind]}" if kind in _KINDS else ""


class ImageFiles:
    """The two files of an image: its root filesystem goes into `file`, and `manifest` are the bytes of the other."""

    def __init__(self, file: IO[bytes], limit: int, what: str) -> None:
        self._image = Sparse(file)
        self._limit = limit
        self._what = what
        self._memory = _Memory()
        self._seen: set[str] = set()

    @property
    def written(self) -> int:
        """Bytes of the root filesystem that are not holes, so far."""
        return self._image.written

    @property
    def manifest(self) -> bytes:
        """The bytes of manifest.json, as soon as all of it came."""
        return bytes(self._memory.data)

    def member(self, kind: bytes, name: str, size: int) -> Sink:
        """Return where a member goes; raises BadInput for all but the two files, each once."""
        if not is_file(kind) or name not in (ROOTFS, MANIFEST):
            found = f"{self._what} holds '{name}'{worded(kind)}"
            raise errors.BadInput(f"{found}: only two regular files may be in it", HINT)
        if name in self._seen:
            raise errors.BadInput(f"{self._what} holds '{name}' twice", HINT)
        self._seen.add(name)
        if name == MANIFEST and size > limits.DOCUMENT:
            raise errors.BadInput(f"{self._what}: a '{name}' of {size} bytes is too large")
        if name == ROOTFS and size > self._limit:
            hint = "allow more with --max-image"
            raise errors.BadInput(f"{self._what}: its image is larger than {sizes.show(self._limit)}", hint)
        return self._memory if name == MANIFEST else self._image

    def finish(self) -> None:
        """Raise BadInput if a file is missing."""
        for name in (ROOTFS, MANIFEST):
            if name not in self._seen:
                raise errors.BadInput(f"{self._what} has no '{name}'", HINT)


class _Memory:
    """Keeps a small file."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: memoryview) -> None:
        self.data += data

    def finish(self) -> None:
        pass


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


class Sparse:
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
