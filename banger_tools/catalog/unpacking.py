"""A bundle on its way through decompression and its archive into files, checked to the last byte."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import msgspec

from banger_tools import errors, identify, manifest, sizes
from banger_tools.catalog import archive
from banger_tools.ext4 import described
from banger_tools.manifest import Manifest
from banger_tools.oci import compression, limits
from banger_tools.oci import digest as digests
from banger_tools.oci.behind import Behind
from banger_tools.oci.cache import Cache
from banger_tools.oci.cancel import Cancel
from banger_tools.oci.pull import Wants
from banger_tools.oci.reference import Bundle

_MAGIC = 4  # bytes that tell a zstd stream


class Content(Protocol):
    """What a bundle is unpacked into: `begin` gives where its members go, anew for each attempt.

    `check` raises BadInput for what is wrong with them when all bytes are right; `hint` says how a bundle is made.
    """

    hint: str

    def begin(self) -> AbstractContextManager[archive.Contents]: ...

    def check(self, what: str) -> None: ...


class Task(NamedTuple):
    """What is to be fetched, its compressed bytes if they are known, and what it is unpacked into."""

    ref: Bundle
    size: int | None
    cache: Cache
    wants: Wants
    content: Content
    cancel: Cancel

    @property
    def what(self) -> str:
        """What errors call it."""
        return f"the bundle '{self.ref.location}'"

    @property
    def name(self) -> str:
        """What its progress is called."""
        return self.ref.location.rpartition("/")[2]


def unpack(task: Task, chunks: Iterable[bytes], digest: str | None, size: int | None = None) -> str:
    """Unpack a bundle, checking the compressed bytes and what is in them; return their digest.

    Raises digest.Mismatch if they are not what they must be, BadInput for everything else that is wrong with them:
    if there is a digest only after it proved right, since otherwise the bytes and not the bundle are wrong.
    """
    try:
        with task.content.begin() as contents, _Stream(contents, task) as stream:
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
            stream.finish()
    except OSError as error:
        raise errors.os_error(error, f"cannot unpack {task.what}") from error
    task.content.check(task.what)
    return found


class _Stream:
    """A bundle's bytes on their way through decompression into its archive; remembers what was wrong with them."""

    def __init__(self, contents: archive.Contents, task: Task) -> None:
        self.taken = 0
        self._limit = task.wants.limits.image
        self._what = task.what
        self._hint = task.content.hint
        self._contents = contents
        self._archive = archive.Archive(contents)
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
            self._wrong = errors.BadInput(f"{self._what}: {error.message}", self._hint)
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
        written = self._contents.written
        if written > limits.RATIO_FROM and written > limits.RATIO * self.taken:
            raise errors.BadInput(f"{self._what} is a bomb: {self.taken} bytes grow to more than {written}")

    def check(self) -> None:
        """Raise BadInput for what was wrong so far."""
        if self._wrong is not None:
            raise self._wrong

    def finish(self) -> None:
        """Raise BadInput for what was wrong with the bytes that were taken, or if their end is missing."""
        with self._noted():
            if self._decompressor is None:
                raise compression.Corrupt("it is empty")
            self._decompressor.finish()
            self._behind.settle()
            self._archive.finish()
        self.check()


class Image:
    """An image file that a bundle is unpacked into; `manifest` is its own, once it is checked."""

    hint = archive.HINT

    def __init__(self, path: Path, limit: int, what: str) -> None:
        self._path = path
        self._limit = limit
        self._what = what
        self._text = b""
        self.manifest = Manifest()

    @contextlib.contextmanager
    def begin(self) -> Iterator[archive.ImageFiles]:
        """Begin the image file anew."""
        with open(self._path, "wb") as file:
            contents = archive.ImageFiles(file, self._limit, self._what)
            yield contents
            self._text = contents.manifest

    def check(self, what: str) -> None:
        """Read the manifest, and look at the image; raises BadInput."""
        self.manifest = manifest.loads(self._text, f"the '{archive.MANIFEST}' of {what}")
        _describe_image(self.manifest, self._path, what)


def _describe_image(own: Manifest, image: Path, what: str) -> None:
    """Check that a bundle's image is a clean ext4 filesystem of the stated size, and set what the manifest says of it.

    Raises BadInput.
    """
    stated = own.get("rootfs", manifest.Rootfs)
    size = image.stat().st_size
    if stated.size != size:
        raise errors.BadInput(f"{what}: its image has {size} bytes, and its manifest says {stated.size}")
    try:
        true = described.rootfs(image)
    except errors.BadInput as error:
        message = error.message.replace(f"'{image}'", f"'{archive.ROOTFS}'")
        raise errors.BadInput(f"{what}: {message}") from error
    own.raw["rootfs"] = {**own.raw["rootfs"], **msgspec.to_builtins(true), "path": stated.path}
