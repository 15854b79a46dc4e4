"""One layer: from the blob that arrives in pieces to the plain tar in the cache, in one pass.

Each piece is hashed as it came, decompressed, hashed again and written. The tar gets its name only when the blob's
size and digest, the end of its compression, and the tar's diff_id are all right.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple, Protocol, Self

from banger_tools import console, errors, identify, manifest, sizes
from banger_tools.oci import compression, limits, resume
from banger_tools.oci import digest as digests
from banger_tools.oci.behind import Behind
from banger_tools.oci.cache import Cache
from banger_tools.oci.cancel import Cancel
from banger_tools.oci.documents import Blob

PIECE = 256 << 10


class Source(Protocol):
    """A place that blobs come from; `remote` ones are kept, so that nothing crosses a network twice."""

    remote: bool

    def chunks(self, blob: Blob, start: int, cancel: Cancel) -> Iterator[bytes]:
        """Yield a blob's bytes from `start` on."""
        ...


class Task(NamedTuple):
    """What all layers of one fetch share."""

    cache: Cache
    source: Source
    cancel: Cancel
    limits: limits.Limits
    total: console.Progress
    thorough: bool = False


class Tar:
    """The plain tar of a layer while it is written, behind: hashed, and held against the limits."""

    def __init__(self, file: IO[bytes], behind: Behind, layer_limit: int, what: str, like: str | None) -> None:
        self._file = file
        self._behind = behind
        self._limit = layer_limit
        self._what = what
        self._hasher = digests.hasher(like)
        self._head = b""
        self.size = 0
        self.blob_bytes = 0

    @property
    def diff_id(self) -> str:
        """The digest of what was written; it stands when the work behind has been done."""
        return digests.text(self._hasher)

    def write(self, data: bytes) -> None:
        """Take the next bytes of the tar.

        Raises BadInput if they are too many, Corrupt if the first of them begin no tar.
        """
        self.size += len(data)
        if self.size > self._limit:
            raise errors.BadInput(
                f"{self._what} is larger than {sizes.show(self._limit)}", "allow more with --max-layer"
            )
        if self.size > limits.RATIO_FROM and self.size > limits.RATIO * max(self.blob_bytes, 1):
            raise errors.BadInput(f"{self._what} is a bomb: {self.blob_bytes} bytes grow to more than {self.size}")
        if len(self._head) < compression.HEAD:
            self._look_at(data)
        self._behind.put(self._take, data)

    def _take(self, data: bytes) -> None:
        self._hasher.update(data)
        resume.write_all(self._file, data)

    def _look_at(self, data: bytes) -> None:
        self._head += data[: compression.HEAD - len(self._head)]
        if len(self._head) == compression.HEAD:
            self.check_head()

    def check_head(self) -> None:
        """Raise Corrupt if this is no tar. A tar without entries is all zeros, and a layer may be no bytes at all."""
        kind = identify.kind_of_bytes(self._head)
        if kind != identify.TAR and self._head.strip(b"\0"):
            found = "" if kind == identify.UNKNOWN else f", but of the format '{kind}'"
            raise compression.Corrupt(f"it is no tar{found}")


def fetch(task: Task, blob: Blob, diff_id: str | None, what: str) -> manifest.Layer:
    """Return a layer whose verified tar is in the cache, fetching what is missing.

    Raises BadInput for a layer that is not what its digests say, and what the source raises.
    """
    size = _cached_size(task, blob, diff_id)
    if size is None:
        diff_id, size = _make(task, blob, diff_id, what)
    else:
        task.total.update(blob.size or 0)
    assert diff_id is not None
    path = str(task.cache.layer_path(diff_id))
    return manifest.Layer(diff_id, path, size, blob.digest, blob.media_type or None, blob.size)


def _cached_size(task: Task, blob: Blob, diff_id: str | None) -> int | None:
    """Return the size of the tar if it is in the cache; then what it came out of is in use with it.

    None as well, if all is to be hashed again and what it came out of is damaged: so that it is fetched again.
    """
    size = None if diff_id is None else task.cache.layer_size(diff_id, task.cancel, thorough=task.thorough)
    if size is None or blob.digest is None:
        return size
    task.cache.has_blob(blob.digest, blob.size)
    must_be_right = task.thorough and task.source.remote
    return None if must_be_right and task.cache.is_damaged(blob.digest, task.cancel) else size


def _make(task: Task, blob: Blob, diff_id: str | None, what: str) -> tuple[str, int]:
    """Make the tar while holding the claim to it, unless another process made it meanwhile."""
    key = blob.digest or diff_id
    if key is None:
        return unpack(task, task.source.chunks(blob, 0, task.cancel), blob, None, what)
    with task.cache.claim(key, task.cancel) as partial:
        size = _cached_size(task, blob, diff_id)
        if size is not None and diff_id is not None:
            task.total.update(blob.size or 0)
            return diff_id, size
        with console.progress(what, blob.size, digest=key, cached=False) as bar, _Shown(bar, task.total) as shown:
            if blob.digest is None or not task.source.remote:
                return unpack(task, shown.all(task.source.chunks(blob, 0, task.cancel)), blob, diff_id, what)
            return _download(task, blob, diff_id, partial, shown, what)


class _Shown:
    """Reports passing bytes to the layer's bar and to the total; what an attempt in vain reported is taken back."""

    def __init__(self, *bars: console.Progress) -> None:
        self._bars = bars
        self._done = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, errors.BangerError):  # another place may follow
            self._count(-self._done)

    def all(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the chunks of one attempt."""
        self._count(-self._done)
        for chunk in chunks:
            self._count(len(chunk))
            yield chunk

    def _count(self, amount: int) -> None:
        self._done += amount
        for bar in self._bars:
            bar.update(amount)


def _download(task: Task, blob: Blob, diff_id: str | None, partial: Path, shown: _Shown, what: str) -> tuple[str, int]:
    """Unpack a blob from the cache if it is there, else from its source, going on where a partial file ends.

    Bytes that prove wrong are thrown away, and fetched once more if part of them came from an earlier run
    or another place than the source.
    """
    assert blob.digest is not None
    if task.cache.has_blob(blob.digest, blob.size):
        with contextlib.suppress(digests.Mismatch):
            return unpack(task, shown.all(_file_chunks(task.cache.blob_path(blob.digest))), blob, diff_id, what)
        console.warning(f"{what}: the copy in the cache is damaged; fetching it again")
    if partial.stat().st_size > 0:
        with contextlib.suppress(digests.Mismatch):
            return _transfer(task, blob, diff_id, partial, shown, what)
        console.warning(f"{what}: what an earlier run left is damaged; fetching it anew")
    return _transfer(task, blob, diff_id, partial, shown, what)


def _transfer(task: Task, blob: Blob, diff_id: str | None, partial: Path, shown: _Shown, what: str) -> tuple[str, int]:
    assert blob.digest is not None
    try:
        chunks = resume.kept(partial, blob.size, lambda start: task.source.chunks(blob, start, task.cancel))
        result = unpack(task, shown.all(chunks), blob, diff_id, what)
    except errors.BadInput:
        os.truncate(partial, 0)  # wrong bytes must not be resumed from
        raise
    task.cache.keep_blob(partial, blob.digest)
    return result


def _file_chunks(path: Path) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(PIECE):
            yield chunk


def unpack(task: Task, chunks: Iterable[bytes], blob: Blob, diff_id: str | None, what: str) -> tuple[str, int]:
    """Write a blob's bytes as a verified plain tar into the cache, and return its diff_id and size.

    Raises digest.Mismatch if the blob is not what its digest says, BadInput for everything else that is wrong with it.
    """
    name = "-".join(digests.split(blob.digest or diff_id or f"stream:{secrets.token_hex(8)}")) + ".tar"
    temporary = task.cache.partial / name
    try:
        with open(temporary, "wb", buffering=0) as file:
            with Behind() as behind:
                tar = Tar(file, behind, task.limits.layer, what, diff_id)
                _pour(task.cancel, chunks, blob, tar, behind, what)
        if diff_id is not None and tar.diff_id != diff_id:
            raise errors.BadInput(f"{what}: its tar must have the diff_id {diff_id}, and has {tar.diff_id}")
        task.cache.keep_layer(temporary, tar.diff_id)
        return tar.diff_id, tar.size
    except OSError as error:
        raise errors.os_error(error, f"cannot write '{temporary}'") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def _pour(cancel: Cancel, chunks: Iterable[bytes], blob: Blob, tar: Tar, behind: Behind, what: str) -> None:
    """Decompress all chunks into the tar, checking the blob's size and digest.

    Damage found by the decompressor is reported only if the digest is right: otherwise the digest is the better
    news, because it says that the bytes, and not the image, are wrong.
    """
    hasher = digests.hasher(blob.digest)
    stream = _Stream(tar, what)
    for chunk in chunks:
        cancel.check()
        behind.put(hasher.update, chunk)
        tar.blob_bytes += len(chunk)
        stream.feed(chunk)
    behind.settle()
    if blob.size is not None and tar.blob_bytes != blob.size:
        raise digests.Mismatch(f"{what} must have {blob.size} bytes, and has {tar.blob_bytes}")
    if blob.digest is not None and digests.text(hasher) != blob.digest:
        raise digests.Mismatch(f"{what}: the digest must be {blob.digest}, and is {digests.text(hasher)}")
    stream.finish()


class _Stream:
    """A blob on its way into a tar: gathers the head, then decompresses; remembers what was wrong."""

    def __init__(self, tar: Tar, what: str) -> None:
        self._tar = tar
        self._what = what
        self._head = b""
        self._decompressor: compression.Decompressor | None = None
        self._wrong: errors.BadInput | None = None

    def feed(self, chunk: bytes) -> None:
        """Take the next piece of the blob."""
        if self._wrong is not None:
            return
        if self._decompressor is None:
            self._head += chunk
            if len(self._head) < compression.HEAD:
                return
            chunk = self._begin()
        assert self._decompressor is not None
        try:
            self._decompressor.feed(chunk)
        except compression.Corrupt as error:
            self._wrong = errors.BadInput(f"{self._what}: {error.message}")

    def _begin(self) -> bytes:
        self._decompressor = compression.open_stream(self._head, self._tar.write)
        head, self._head = self._head, b""
        return head

    def finish(self) -> None:
        """Raise BadInput for what was wrong with the stream, its end, or a tar too short for a look."""
        if self._decompressor is None and self._head:
            self.feed(self._begin())
        if self._wrong is not None:
            raise self._wrong
        try:
            if self._decompressor is not None:
                self._decompressor.finish()
            self._tar.check_head()
        except compression.Corrupt as error:
            raise errors.BadInput(f"{self._what}: {error.message}") from error
