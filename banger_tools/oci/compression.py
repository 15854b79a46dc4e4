"""Decompression of what arrives in pieces, told by its first bytes and never by what a manifest claims.

Output leaves through a sink in bounded pieces, so a bomb costs no memory. A stream that is cut, or followed by
anything else, is Corrupt: a layer is all of its blob or nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from banger_tools import errors

HEAD = 2048
"""Bytes of a stream's beginning that are enough to tell what it is."""

PIECE = 256 << 10
SLICE = 64 << 10  # a slice of input holds few members: what follows one is copied for the next
WINDOW = 128 << 20  # what zstd itself accepts without being asked

Sink = Callable[[bytes], object]


class Corrupt(errors.BadInput):
    """A compressed stream is cut, damaged, or followed by something else."""


class Decompressor(Protocol):
    """Takes a stream piece by piece."""

    def feed(self, data: bytes) -> None: ...

    def finish(self) -> None: ...


def open_stream(head: bytes, sink: Sink) -> Decompressor:
    """Return what decompresses a stream that begins with `head`; unknown beginnings pass through as they are."""
    from banger_tools import identify

    match identify.kind_of_bytes(head):
        case "zstd":
            from banger_tools.oci import zstd

            return zstd.Zstd(sink)
        case "gzip" | "xz" | "bzip2" as kind:
            return Members(kind, sink)
        case _:
            return Plain(sink)


class Plain:
    """A stream that is not compressed."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink

    def feed(self, data: bytes) -> None:
        """Pass the next piece on."""
        self.sink(data)

    def finish(self) -> None:
        """Nothing can be missing here that a digest does not find."""


class _Stream(Protocol):
    """What the decompressors of isal, lzma and bz2 have in common."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class Members:
    """A gzip, xz or bzip2 stream of one or more members, one after the other."""

    def __init__(self, kind: str, sink: Sink) -> None:
        self.kind = kind
        self.sink = sink
        self.open = _opener(kind)
        self.stream: _Stream | None = None
        self.members = 0
        self.padding = 0

    def feed(self, data: bytes) -> None:
        """Decompress the next piece."""
        view = memoryview(data)
        for start in range(0, len(view), SLICE):
            self._feed_slice(bytes(view[start : start + SLICE]))

    def _feed_slice(self, data: bytes) -> None:
        while data:
            if self.stream is None:
                data = self._skip_padding(data)
                if not data:
                    return
                self.stream = self.open()
                self.members += 1
            data = self._feed_member(self.stream, data)

    def _feed_member(self, stream: _Stream, data: bytes) -> bytes:
        """Decompress into the current member, and return what follows its end."""
        self.sink(self._decompress(stream, data))
        while not stream.eof and not stream.needs_input:
            self.sink(self._decompress(stream, b""))
        if not stream.eof:
            return b""
        self.stream = None
        return bytes(stream.unused_data)

    def _decompress(self, stream: _Stream, data: bytes) -> bytes:
        try:
            return stream.decompress(data, PIECE)
        except MemoryError:
            raise
        except Exception as error:  # isal, lzma and bz2 each have error classes of their own
            raise Corrupt(f"the {self.kind} stream is damaged{self._where()}: {error}") from error

    def _skip_padding(self, data: bytes) -> bytes:
        """Return data without the zero bytes that the xz format allows behind a stream, in fours."""
        if self.kind != "xz" or not self.members:
            return data
        rest = data.lstrip(b"\0")
        self.padding += len(data) - len(rest)
        if rest:
            self._check_padding()
        return rest

    def _check_padding(self) -> None:
        if self.padding % 4:
            raise Corrupt("the xz stream is followed by something else")

    def _where(self) -> str:
        return "" if self.members == 1 else f" (or something follows its end) in member {self.members}"

    def finish(self) -> None:
        """Raise Corrupt if the last member is not complete."""
        if self.stream is not None or not self.members:
            raise Corrupt(f"the {self.kind} stream is cut{self._where()}: its end is missing")
        self._check_padding()


def _opener(kind: str) -> Callable[[], _Stream]:
    if kind == "gzip":
        from isal import igzip_lib

        return lambda: igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    if kind == "xz":
        import lzma

        return lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=WINDOW)
    import bz2

    return bz2.BZ2Decompressor
