"""Bundles: finished images as `.tar.zst`, of files or URLs, whose ext4 image is laid out while its digest is checked.

What came from a URL is kept compressed in the cache: `bundles/<algorithm>/<hex>`; and `bundles/urls/<hex>.json` says
what a URL without a digest turned out to be. Nothing of a bundle that is not right to the last byte stays.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, Self

import msgspec
from msgspec import Struct

from banger_tools import console, errors, files, identify, lease, manifest, sizes
from banger_tools.catalog import archive
from banger_tools.catalog.lookup import Found
from banger_tools.ext4.image import opened
from banger_tools.manifest import Manifest
from banger_tools.oci import compression, container, documents, limits, resume, web
from banger_tools.oci import digest as digests
from banger_tools.oci.behind import Behind
from banger_tools.oci.cache import Cache
from banger_tools.oci.cancel import Cancel
from banger_tools.oci.http import Transport
from banger_tools.oci.pull import Wants
from banger_tools.oci.reference import Bundle

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

_MAGIC = 4  # bytes that tell a zstd stream

# Sections that name files of the machine that made a bundle. Here they would name other files, or somebody's secrets.
OF_ANOTHER_MACHINE = ("layers", "tree", "work_seed", "work_seed_reason", "kernel", "published", "vm")


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


class _Remembered(Struct, frozen=True):
    """What a URL was when it was fetched."""

    url: str
    digest: manifest.Digest
    etag: str | None = None


def fetch(ref: Bundle, size: int | None, wants: Wants, cache: Cache, image: Path) -> Unpacked:
    """Lay a bundle's image out at `image`, a name that nobody else uses; return its own manifest and its digest.

    `size` is that of the compressed bytes, if it is known. Raises BadInput for what is no bundle, or not the
    one that the digest stands for, NoInput, Denied, Unavailable, Retry.
    """
    task = Task(ref, size, cache, wants, image, Cancel())
    with console.step(f"fetch {task.what}"):
        unpacked = _from_url(task) if ref.is_url else _from_file(task)
    _check_platform(unpacked.manifest, task)
    return unpacked


def is_cached(ref: Bundle, cache: Cache) -> bool:
    """Tell whether a bundle behind a URL can be had without a network."""
    return _cached(ref, cache) is not None


def adopt(own: Manifest, found: Found, digest: str, image: Path) -> Manifest:
    """Return a bundle's manifest as that of an image on this machine; what it was made from becomes its `origin`."""
    raw = {key: value for key, value in own.raw.items() if key not in OF_ANOTHER_MACHINE}
    if "source" in raw:
        raw.setdefault("origin", raw["source"])
    raw["rootfs"] = {**raw["rootfs"], "path": str(image)}
    adopted = Manifest(raw)
    adopted.name = found.name
    architecture = own.image.get("architecture")
    platform = manifest.Platform(architecture) if isinstance(architecture, str) else None
    adopted.put("source", manifest.Source(found.requested, "bundle", str(found.ref), digest, platform))
    return adopted


# Files


def _from_file(task: Task) -> Unpacked:
    extent = container.whole_file(Path(task.ref.location))
    with console.progress(task.name, extent.size) as bar:
        return _unpack(task, _shown(extent.chunks(0, task.cancel), bar), task.ref.digest)


def _shown(chunks: Iterable[bytes], bar: console.Progress) -> Iterator[bytes]:
    for chunk in chunks:
        bar.update(len(chunk))
        yield chunk


# URLs


def _path(digest: str, cache: Cache) -> Path:
    """Return where a bundle stands in the cache once it is verified."""
    return cache.root.joinpath("bundles", *digests.split(digest))


def _memory(ref: Bundle, cache: Cache) -> Path:
    """Return where it is remembered what a URL without a digest turned out to be."""
    return cache.root / "bundles" / "urls" / f"{_url_key(ref)}.json"


def _url_key(ref: Bundle) -> str:
    return hashlib.sha256(ref.location.encode()).hexdigest()


def _remembered(ref: Bundle, cache: Cache) -> _Remembered | None:
    try:
        found = msgspec.json.decode(_memory(ref, cache).read_bytes(), type=_Remembered)
    except (OSError, msgspec.DecodeError):
        return None
    return found if found.url == ref.location else None


def _cached(ref: Bundle, cache: Cache) -> Path | None:
    """Return the file in the cache of what a reference stands for, by its digest or as its URL was before."""
    before = _remembered(ref, cache) if ref.digest is None else None
    digest = before.digest if before else ref.digest
    path = _path(digest, cache) if digest else None
    return path if path is not None and lease.use(path) is not None else None


def _from_url(task: Task) -> Unpacked:
    task.cache.prepare()
    with web.opened(task.ref.location, task.wants.settings, task.cancel) as transport:
        transfer = _Transfer(task, transport)
        if task.ref.digest or task.wants.settings.offline or task.wants.pull != "always" or transfer.is_unchanged():
            found = _from_cache(task)
            if found is not None:
                return found
        if task.wants.settings.offline:
            hint = "fetch it once with --pull=missing and without --offline"
            raise errors.Unavailable(f"{task.what} is not in the cache", hint)
        with task.cache.claim(task.ref.digest or f"url:{_url_key(task.ref)}", task.cancel) as part:
            # Another process may have fetched it while this one waited.
            found = _from_cache(task) if task.ref.digest or task.wants.pull != "always" else None
            return found or _download(task, transfer, part)


def _from_cache(task: Task) -> Unpacked | None:
    """Unpack a bundle from the cache if it is there; a damaged one is removed."""
    path = _cached(task.ref, task.cache)
    if path is None:
        return None
    digest = f"{path.parent.name}:{path.name}"
    if task.ref.digest is None:
        console.note(f"'{task.ref.location}' is {digest}, as fetched before")
    try:
        with console.progress(task.name, path.stat().st_size) as bar:
            return _unpack(task, _shown(container.whole_file(path).chunks(0, task.cancel), bar), digest)
    except digests.Mismatch:
        console.warning(f"{task.what}: the copy in the cache is damaged; fetching it again")
        files.discard(path)
        return None


def _download(task: Task, transfer: _Transfer, part: Path) -> Unpacked:
    """Unpack what an earlier run left in the partial file and what is missing of it."""
    if task.ref.digest is None:
        os.truncate(part, 0)  # nobody can tell whether those bytes are of the same bundle
    is_part = part.stat().st_size > 0
    try:
        return transfer.unpacked(part)
    except digests.Mismatch as error:
        if isinstance(error, resume.WrongSize) or not (is_part or transfer.is_pieced):
            raise
        console.warning(f"{error.message}; fetching all of it anew")
    return transfer.unpacked(part, ranged=False)


class _Transfer:
    """A bundle on its way from its URL, which must hold the same thing at every request."""

    def __init__(self, task: Task, transport: Transport) -> None:
        self._task = task
        self._transport = transport
        self._validator: tuple[str | None, str | None] | None = None
        self.is_pieced = False

    def unpacked(self, part: Path, *, ranged: bool = True) -> Unpacked:
        """Unpack what a partial file holds and the rest from the URL, and keep the whole in the cache.

        Not `ranged`, the server is not asked for parts, which some garble. Raises digest.Mismatch, and throws the
        partial file's bytes away, if they are wrong.
        """
        task = self._task
        body = resume.Body(self._transport, self._get, task.ref.location, task.what, task.size)
        try:
            with console.progress(task.name, task.size) as bar:
                chunks = resume.kept(part, task.size, partial(resume.chunks, body, ranged=ranged))
                found = _unpack(task, _shown(chunks, bar), task.ref.digest, task.size)
        except errors.BadInput:
            os.truncate(part, 0)  # wrong bytes must not be resumed from
            raise
        self._keep(part, found)
        return found

    @contextlib.contextmanager
    def _get(self, headers: Mapping[str, str]) -> Iterator[BaseHTTPResponse]:
        self.is_pieced = self.is_pieced or "Range" in headers
        with web.get(self._transport, self._task.ref.location, headers) as response:
            validator = (response.headers.get("ETag"), response.headers.get("Last-Modified"))
            if self._task.ref.digest is None and self._validator not in (None, validator) and response.status != 416:
                raise errors.Retry(f"{self._task.what} changed while it was fetched", "try again")
            self._validator = validator
            yield response

    def _keep(self, part: Path, found: Unpacked) -> None:
        target = _path(found.digest, self._task.cache)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.is_file():
            files.discard(target)  # something else that came to stand there
        os.utime(part, ns=(time.time_ns(), os.stat(part).st_mtime_ns))  # its last use; `lease.use` would wait for us
        files.place(part, target, force=True)  # not flushed to the disk: whoever reads it checks its digest
        if self._task.ref.digest is None:
            memory = _memory(self._task.ref, self._task.cache)
            memory.parent.mkdir(parents=True, exist_ok=True)
            etag = self._validator[0] if self._validator else None
            record = _Remembered(self._task.ref.location, found.digest, etag)
            files.write_text(memory, msgspec.json.encode(record).decode() + "\n", force=True)

    def is_unchanged(self) -> bool:
        """Ask whether a URL still holds what it held when it was fetched."""
        before = _remembered(self._task.ref, self._task.cache)
        if before is None or before.etag is None or _cached(self._task.ref, self._task.cache) is None:
            return False
        headers = {"If-None-Match": before.etag}

        def once() -> bool:
            with web.get(self._transport, self._task.ref.location, headers) as response:
                return response.status == 304

        return self._transport.patiently(self._task.what, once)


# Unpacking


def _unpack(task: Task, chunks: Iterable[bytes], digest: str | None, size: int | None = None) -> Unpacked:
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


# What came


def _check_platform(own: Manifest, task: Task) -> None:
    """Raise NoInput for a bundle of another architecture than the one that was asked for."""
    wanted, stated = task.wants.platform, own.image.get("architecture")
    if wanted is not None and stated not in (None, wanted.architecture):
        raise errors.NoInput(f"{task.what} is for {stated}, and not for {documents.show_platform(wanted)}")


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
