"""Zstandard streams of one or more frames (RFC 8878), walked beside the library that decompresses them.

The library's push interface bounds memory, and does not say whether the last frame was complete: the walk over
frame and block headers does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, cast

from banger_tools.oci import compression

_MAGIC = 0xFD2FB528
_SKIPPABLE = 0x184D2A50  # and the fifteen numbers after it


class Zstd:
    """A zstd stream that arrives in pieces."""

    def __init__(self, sink: compression.Sink) -> None:
        import zstandard

        self._error = zstandard.ZstdError
        self._frames = Frames()
        decompressor = zstandard.ZstdDecompressor(max_window_size=compression.WINDOW)
        target = cast("IO[bytes]", _Target(sink))
        self._writer = decompressor.stream_writer(target, write_size=compression.PIECE, closefd=False)

    def feed(self, data: bytes) -> None:
        """Decompress the next piece."""
        self._frames.feed(data)
        try:
            self._writer.write(data)
        except self._error as error:
            raise compression.Corrupt(f"the zstd stream is damaged: {error}") from error

    def finish(self) -> None:
        """Raise Corrupt if the last frame is not complete."""
        if not self._frames.complete:
            raise compression.Corrupt("the zstd stream is cut: its end is missing")


class _Target:
    """The sink in the shape that zstandard writes to."""

    def __init__(self, sink: compression.Sink) -> None:
        self._sink = sink

    def write(self, data: bytes) -> int:
        self._sink(data)
        return len(data)


class Frames:
    """Where a zstd stream stands: fields that must be read whole, and bodies that are skipped."""

    def __init__(self) -> None:
        self._field = b""
        self._wanted = 4
        self._skip = 0
        self._next: Callable[[bytes], None] = self._magic
        self._checksum = False
        self._ended = False

    @property
    def complete(self) -> bool:
        """Whether the stream stands right behind a frame."""
        return self._ended and not self._skip and not self._field

    def feed(self, data: bytes) -> None:
        """Walk over the next piece.

        Raises Corrupt if something that is no frame follows one.
        """
        position = 0
        while position < len(data):
            if self._skip:
                step = min(self._skip, len(data) - position)
                self._skip -= step
            else:
                step = min(self._wanted - len(self._field), len(data) - position)
                self._take(data[position : position + step])
            position += step

    def _take(self, data: bytes) -> None:
        self._field += data
        if len(self._field) == self._wanted:
            field, self._field = self._field, b""
            self._next(field)

    def _expect(self, wanted: int, then: Callable[[bytes], None]) -> None:
        self._wanted, self._next = wanted, then

    def _magic(self, field: bytes) -> None:
        number = int.from_bytes(field, "little")
        self._ended = False
        if number == _MAGIC:
            self._expect(1, self._descriptor)
        elif number & ~0xF == _SKIPPABLE:
            self._expect(4, self._skippable)
        else:
            raise compression.Corrupt("the zstd stream is followed by something else")

    def _skippable(self, field: bytes) -> None:
        self._skip = int.from_bytes(field, "little")
        self._end_frame()

    def _descriptor(self, field: bytes) -> None:
        """RFC 8878, 3.1.1.1.1: the descriptor says how long the rest of the frame header is."""
        flags = field[0]
        single_segment = bool(flags & 0x20)
        size_bytes = (1 if single_segment else 0, 2, 4, 8)[flags >> 6]
        dictionary_bytes = (0, 1, 2, 4)[flags & 3]
        self._checksum = bool(flags & 4)
        self._skip = size_bytes + dictionary_bytes + (0 if single_segment else 1)
        self._expect(3, self._block)

    def _block(self, field: bytes) -> None:
        """RFC 8878, 3.1.1.2: last-block flag, type, size; a run-length block has a body of one byte."""
        header = int.from_bytes(field, "little")
        last, kind, size = header & 1, header >> 1 & 3, header >> 3
        self._skip = 1 if kind == 1 else size
        if last:
            self._skip += 4 if self._checksum else 0
            self._end_frame()

    def _end_frame(self) -> None:
        self._ended = True
        self._expect(4, self._magic)
