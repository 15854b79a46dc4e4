"""Bundles: finished images as `.tar.zst`, of files or URLs, whose ext4 image is laid out while its digest is checked.

What came from a URL is kept compressed in the cache: `bundles/<algorithm>/<hex>`; and `bundles/urls/<hex>.json` says
what a URL without a digest turned out to be. Nothing of a bundle that is not right to the last byte stays.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec import Struct

from banger_tools import console, errors, files, lease, manifest
from banger_tools.catalog.lookup import Found
from banger_tools.catalog.unpacking import Image, Task, unpack
from banger_tools.manifest import Manifest, Platform
from banger_tools.oci import container, platforms, resume, web
from banger_tools.oci import digest as digests
from banger_tools.oci.cache import Cache
from banger_tools.oci.cancel import Cancel
from banger_tools.oci.http import Transport
from banger_tools.oci.pull import Wants
from banger_tools.oci.reference import Bundle

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

# Sections that name files of the machine that made a bundle. Here they would name other files, or somebody's secrets.
OF_ANOTHER_MACHINE = ("layers", "tree", "work_seed", "work_seed_reason", "kernel", "bundle", "published", "vm")


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
    content = Image(image, wants.limits.image, f"the bundle '{ref.location}'")
    task = Task(ref, size, cache, wants, content, Cancel())
    digest = obtain(task)
    _check_platform(content.manifest, task)
    return Unpacked(content.manifest, digest)


def obtain(task: Task) -> str:
    """Unpack a bundle from where it is, and return the digest of its compressed bytes; raises what `fetch` does."""
    with console.step(f"fetch {task.what}"):
        return _from_url(task) if task.ref.is_url else _from_file(task)


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


def _from_file(task: Task) -> str:
    extent = container.whole_file(Path(task.ref.location))
    with console.progress(task.name, extent.size) as bar:
        return unpack(task, _shown(extent.chunks(0, task.cancel), bar), task.ref.digest)


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


def _from_url(task: Task) -> str:
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


def _from_cache(task: Task) -> str | None:
    """Unpack a bundle from the cache if it is there; a damaged one is removed."""
    path = _cached(task.ref, task.cache)
    if path is None:
        return None
    digest = f"{path.parent.name}:{path.name}"
    if task.ref.digest is None:
        console.note(f"'{task.ref.location}' is {digest}, as fetched before")
    try:
        with console.progress(task.name, path.stat().st_size) as bar:
            return unpack(task, _shown(container.whole_file(path).chunks(0, task.cancel), bar), digest)
    except digests.Mismatch:
        console.warning(f"{task.what}: the copy in the cache is damaged; fetching it again")
        files.discard(path)
        return None


def _download(task: Task, transfer: _Transfer, part: Path) -> str:
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

    def unpacked(self, part: Path, *, ranged: bool = True) -> str:
        """Unpack what a partial file holds and the rest from the URL, and keep the whole in the cache.

        Not `ranged`, the server is not asked for parts, which some garble. Raises digest.Mismatch, and throws the
        partial file's bytes away, if they are wrong.
        """
        task = self._task
        body = resume.Body(self._transport, self._get, task.ref.location, task.what, task.size)
        try:
            with console.progress(task.name, task.size) as bar:
                chunks = resume.kept(part, task.size, partial(resume.chunks, body, ranged=ranged))
                found = unpack(task, _shown(chunks, bar), task.ref.digest, task.size)
        except errors.BadInput:
            os.truncate(part, 0)  # wrong bytes must not be resumed from
            raise
        self._keep(part, found)
        return found

    @contextlib.contextmanager
    def _get(self, headers: Mapping[str, str]) -> Iterator[BaseHTTPResponse]:
        self.is_pieced = self.is_pieced or "Range" in headers
        with self._asked(headers) as response:
            validator = (response.headers.get("ETag"), response.headers.get("Last-Modified"))
            if self._task.ref.digest is None and self._validator not in (None, validator) and response.status != 416:
                raise errors.Retry(f"{self._task.what} changed while it was fetched", "try again")
            self._validator = validator
            yield response

    def _asked(self, headers: Mapping[str, str]) -> contextlib.AbstractContextManager[BaseHTTPResponse]:
        ref = self._task.ref
        return web.get(self._transport, ref.location, headers, source=ref.named_by)

    def _keep(self, part: Path, digest: str) -> None:
        target = _path(digest, self._task.cache)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.is_file():
            files.discard(target)  # something else that came to stand there
        os.utime(part, ns=(time.time_ns(), os.stat(part).st_mtime_ns))  # its last use; `lease.use` would wait for us
        files.place(part, target, force=True)  # not flushed to the disk: whoever reads it checks its digest
        if self._task.ref.digest is None:
            memory = _memory(self._task.ref, self._task.cache)
            memory.parent.mkdir(parents=True, exist_ok=True)
            etag = self._validator[0] if self._validator else None
            record = _Remembered(self._task.ref.location, digest, etag)
            files.write_text(memory, msgspec.json.encode(record).decode() + "\n", force=True)

    def is_unchanged(self) -> bool:
        """Ask whether a URL still holds what it held when it was fetched."""
        before = _remembered(self._task.ref, self._task.cache)
        if before is None or before.etag is None or _cached(self._task.ref, self._task.cache) is None:
            return False
        headers = {"If-None-Match": before.etag}

        def once() -> bool:
            with self._asked(headers) as response:
                return response.status == 304

        return self._transport.patiently(self._task.what, once)


def _check_platform(own: Manifest, task: Task) -> None:
    """Raise NoInput for a bundle of another architecture than the one that was asked for; warn if none was."""
    wanted, stated = task.wants.platform, own.image.get("architecture")
    if wanted is not None and stated not in (None, wanted.architecture):
        raise errors.NoInput(f"{task.what} is for {stated}, and not for {platforms.show(wanted)}")
    platforms.warn_of_another(Platform(str(stated)) if stated else None, wanted, task.what)
