"""A bundle on its way through decompression and its archive into an image file, checked to the last byte."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple, Self

from banger_tools import errors, identify, manifest, sizes
from banger_tools.catalog import archive
from banger_tools.ext4.image import opened
from banger_tools.manifest import Manifest
from banger_tools.oci import compression, limits
from banger_tools.oci import digest as digests
from banger_tools.oci.behind import Behind
from banger_tools.oci.cache import Cache
from banger_tools.oci.cancel import Cancel
from banger_tools.oci.pull import Wants
from banger_tools.oci.reference import Bundle

_MAGIC = 4  # bytes that tell a zstd stream


class Task(NamedTuple):
    """What is to be fetched, its compressed bytes if they are known, and the file that its image goes to."""

    ref: Bundle
    size: int | None
    cache: Cache
    wants: Wants
    image: Path
    cancel: Cancel

    @property
    def what(self) -> str:
        """What errors call it."""
        return f"the bundle '{self.ref.location}'"

    @property
    def name(self) -> str:
        """What its progress is called."""
        return self.ref.location.rpartition("/")[2]


class Unpacked(NamedTuple):
    """A bundle whose image is laid out: its own manifest, and its digest."""

    manifest: Manifest
    digest: str


def unpack(task: Task, chunks: Iterable[bytes], digest: str | None, size: int | None = None) -> Unpacked:
    """Lay a bundle's image out, checking the compressed bytes and what is in them.

    Raises digest.Mismatch if they are not what they must be, BadInput for everything else that is wrong with them:
    if there is a digest only after it proved right, since otherwise the bytes and not the bundle are wrong.
    """
    try:
        with open(task.image, "wb") as file, _Stream(file, task) as stream:
            hasher = digests.hasher(digest)
            for chunk in chunks:
                task.cancel.check()
                hasher.update(chunk)
                stream.feed(chunk)
                if digest is None:
                    stream.check()
            found = digests.text(hasher)
            if size not in (None, stream.taken):
                raise digests.Mismatch(f"{task.what} must have {size} bytes, and has {stream.taken}")
            if digest not in (None, found):
                raise digests.Mismatch(f"{task.what}: the digest must be {digest}, and is {found}")
            text = stream.finish()
    except OSError as error:
        raise errors.os_error(error, f"cannot write the image of {task.what}") from error
    own = manifest.loads(text, f"the '{archive.MANIFEST}' of {task.what}")
    _describe_image(own, task)
    return Unpacked(own, found)


class _Stream:
    """A bundle's bytes on their way through decompression into its archive; remembers what was wrong with them."""

    def __init__(self, file: IO[bytes], task: Task) -> None:
        self.taken = 0
        self._limit = task.wants.limits.image
        self._what = task.what
        self._archive = archive.Archive(file, self._limit, task.what)
        self._head = b""
        self._decompressor: compression.Decompressor | None = None
        self._wrong: errors.BadInput | None = None
        self._behind = Behind()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._behind.__exit__(kind)

    def feed(self, chunk: bytes) -> None:
        """Take the next compressed bytes.

        Raises BadInput if they never end.
        """
        self.taken += len(chunk)
        if self.taken > self._limit:
            hint = "allow more with --max-image"
            raise errors.BadInput(f"{self._what} is larger than {sizes.show(self._limit)}", hint)
        if self._wrong is None:
            with self._noted():
                self._feed(chunk)

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except compression.Corrupt as error:
            self._wrong = errors.BadInput(f"{self._what}: {error.message}", archive.HINT)
        except errors.BadInput as error:
            self._wrong = error

    def _feed(self, chunk: bytes) -> None:
        if self._decompressor is None:
            self._head += chunk
            if len(self._head) < _MAGIC:
                return
            if identify.kind_of_bytes(self._head) != "zstd":
                raise compression.Corrupt("it is not compressed with zstd")
            self._decompressor = compression.open_stream(self._head, self._take)
            chunk = self._head
        self._decompressor.feed(chunk)

    def _take(self, data: bytes) -> None:
        """Pass the next bytes of the tar on.

        Raises BadInput for a bomb. Zeros cost no disk and do not count: images are full of them.
        """
        self._behind.put(self._archive.write, data)
        written = self._archive.written
        if written > limits.RATIO_FROM and written > limits.RATIO * self.taken:
            raise errors.BadInput(f"{self._what} is a bomb: {self.taken} bytes grow to more than {written}")

    def check(self) -> None:
        """Raise BadInput for what was wrong so far."""
        if self._wrong is not None:
            raise self._wrong

    def finish(self) -> bytes:
        """Return the manifest.json when all bytes were taken.

        Raises BadInput for what was wrong with them, or if their end is missing.
        """
        with self._noted():
            if self._decompressor is None:
                raise compression.Corrupt("it is empty")
            self._decompressor.finish()
            self._behind.settle()
            self._archive.finish()
        self.check()
        assert self._archive.manifest is not None
        return self._archive.manifest


def _describe_image(own: Manifest, task: Task) -> None:
    """Check that a bundle's image is a clean ext4 filesystem of the stated size, and set what the manifest says of it.

    Raises BadInput.
    """
    stated = own.get("rootfs", manifest.Rootfs)
    size = task.image.stat().st_size
    if stated.size != size:
        raise errors.BadInput(f"{task.what}: its image has {size} bytes, and its manifest says {stated.size}")
    try:
        with opened(task.image) as found:
            free = found.superblock.s_free_blocks_count * found.geometry.block_size
            true = {
                "uuid": str(uuid.UUID(bytes=found.superblock.s_uuid)),
                "label": found.superblock.s_volume_name,
                "free_bytes": free,
                "free_inodes": found.superblock.s_free_inodes_count,
            }
    except errors.BadInput as error:
        message = error.message.replace(f"'{task.image}'", f"'{archive.ROOTFS}'")
        raise errors.BadInput(f"{task.what}: {message}") from error
    own.raw["rootfs"] = {**own.raw["rootfs"], **true}
