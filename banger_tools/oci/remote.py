"""A registry as a source of images: the pull side of the OCI distribution specification 1.1.

Tags are resolved once and remembered in the cache; what mirrors have is asked of them first.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar
from urllib.parse import urlsplit

from banger_tools import console, errors
from banger_tools.manifest import Platform
from banger_tools.oci import digest as digests
from banger_tools.oci import documents, limits, place, reference
from banger_tools.oci.cache import Cache
from banger_tools.oci.cancel import Cancel
from banger_tools.oci.documents import Blob, Descriptor, Document, Image
from banger_tools.oci.endpoint import MIRROR_ATTEMPTS, Endpoint, sites
from banger_tools.oci.http import Settings, Transport

__all__ = ["RegistrySource", "Settings", "open_registry"]

TAG_PAGES = 1000
TAGS = 1_000_000
_NEXT = re.compile(r'<([^>]*)>\s*;[^,]*\brel="?next\b')

T = TypeVar("T")
_PASSED_OVER = (errors.Unavailable, errors.Retry, errors.Denied, errors.NoInput, errors.BadInput)


class RegistrySource:
    """A repository as a source, its documents read through the cache."""

    remote = True

    def __init__(self, ref: reference.Registry, transport: Transport, cache: Cache) -> None:
        self.transport = transport
        self.cache = cache
        self._subject = str(ref)
        self._host = ref.host
        self._endpoints = [Endpoint(site, transport, self._subject) for site in sites(ref, transport.settings)]

    def resolve(self, ref: reference.Registry, wanted: Platform | None, pull: str, *, record: bool = True) -> Image:
        """Find the image for a platform and read its documents; with `record`, remember what the reference means."""
        root = self._root(ref, pull)
        image = documents.resolve(root, self._read, wanted, self._subject)
        if record:
            for document in image.documents:
                self.cache.write_document(document)
            self.cache.record(self._subject, root.descriptor)
        return image

    def _root(self, ref: reference.Registry, pull: str) -> Document:
        """Return the document that a reference stands for: by digest, as resolved before, or as of now."""
        offline = self.transport.settings.offline
        known = self.cache.resolved(self._subject) if pull != "always" or offline else None
        if known is not None:
            data = self.cache.read_document(known)
            if data is not None:
                if ref.digest is None:
                    console.note(f"'{ref}' is {known.digest}, as resolved before")
                return Document(known, data)
        if offline:
            raise errors.Unavailable(
                f"'{ref}' is not in the cache", "fetch it once with --pull=missing and without --offline"
            )
        what = f"the manifest of '{self._subject}'"
        return self._anywhere(lambda endpoint: _ask_root(endpoint, ref, what))

    def _anywhere(self, ask: Callable[[Endpoint], T], *, registry_first: bool = False) -> T:
        """Ask the mirrors in order, then the registry, for the first good answer.

        Raises what the registry raises if nobody has one.
        """
        failure: errors.BangerError | None = None
        for endpoint in reversed(self._endpoints) if registry_first else self._endpoints:
            if endpoint.is_mirror and endpoint.is_given_up:
                continue
            try:
                return ask(endpoint)
            except _PASSED_OVER as error:
                if endpoint.is_mirror:
                    endpoint.pass_over(error)
                else:
                    failure = error
        assert failure is not None, "the registry was asked"
        raise failure

    def _read(self, descriptor: Descriptor) -> bytes:
        """Return a document of the image, from the cache if it is there; of many processes, one fetches it."""
        what = f"the document {digests.short(descriptor.digest)} of '{self._subject}'"
        documents.check_size(descriptor, what)
        known = self.cache.read_document(descriptor)
        if known is not None:
            return known
        with self.cache.claim(descriptor.digest, self.transport.cancel):
            known = self.cache.read_document(descriptor)
            if known is not None:
                return known
            data = self._anywhere(lambda endpoint: _ask_document(endpoint, descriptor, what))
            self.cache.write_document(Document(descriptor, data))
        return data

    def places(self, blob: Blob) -> list[place.Place]:
        """Return where a layer may be had: its own URLs, mirrors that are of use, the registry."""
        useful = [endpoint for endpoint in self._endpoints if not (endpoint.is_mirror and endpoint.is_given_up)]
        foreign = place.foreign(blob, self.transport, MIRROR_ATTEMPTS)
        return foreign + [place.of_endpoint(one) for one in useful]

    def chunks(self, blob: Blob, start: int, cancel: Cancel) -> Iterator[bytes]:
        """Yield a layer's bytes from the first place that may have it."""
        return self.places(blob)[0].chunks(blob, start, cancel)

    def tags(self) -> list[str]:
        """Return the names of all images of the repository; a mirror may not know all, so the registry comes first."""
        return self._anywhere(lambda endpoint: list(_tags(endpoint)), registry_first=True)


def _ask_root(endpoint: Endpoint, ref: reference.Registry, what: str) -> Document:
    data, media_type, stated = _get(endpoint, f"manifests/{ref.digest or ref.tag}", documents.ACCEPT, what)
    expected = ref.digest or (stated if stated.startswith(("sha256:", "sha512:")) else None)
    if expected is not None:
        digests.check(expected, f"what '{endpoint.host}' says of {what}")
    descriptor = Descriptor(expected or digests.of(data), len(data), media_type)
    return Document(descriptor, documents.verified(descriptor, data, what))


def _ask_document(endpoint: Endpoint, descriptor: Descriptor, what: str) -> bytes:
    is_manifest = descriptor.media_type in documents.ACCEPT or not descriptor.media_type
    kind, accept = ("manifests", documents.ACCEPT) if is_manifest else ("blobs", ("*/*",))
    data, _, _ = _get(endpoint, f"{kind}/{descriptor.digest}", accept, what)
    return documents.verified(descriptor, data, what)


def _get(endpoint: Endpoint, path: str, accept: Iterable[str], what: str) -> tuple[bytes, str, str]:
    """Return a document, its media type, and the digest that the registry states for it."""
    transport = endpoint.transport

    def once() -> tuple[bytes, str, str]:
        with endpoint.get(path, {"Accept": ", ".join(accept)}) as response:
            data = transport.read_all(response, limits.DOCUMENT, endpoint.host, what)
            media_type = response.headers.get("Content-Type", "").split(";")[0].strip()
            return data, media_type, response.headers.get("Docker-Content-Digest", "")

    data, media_type, stated = transport.patiently(what, once, endpoint.attempts)
    if media_type.startswith("text/html"):
        raise errors.Unavailable(f"'{endpoint.host}' is no registry: it answers with a web page")
    return data, media_type, stated


def _tags(endpoint: Endpoint) -> Iterator[str]:
    """Yield the tags of a repository, page after page (distribution specification, listing tags).

    Raises BadInput for pages without end, or tags that are none.
    """
    path, asked, count = f"tags/list?n={TAG_PAGES}", set[str](), 0
    what = f"the tags of '{endpoint.subject}'"
    while path:
        asked.add(path)
        found, path = _tag_page(endpoint, path, what)
        yield from found
        count += len(found)
        if path in asked or len(asked) > TAG_PAGES or count > TAGS:
            raise errors.BadInput(f"{what} come without end")


def _tag_page(endpoint: Endpoint, path: str, what: str) -> tuple[list[str], str]:
    """Return one page of tags, and the path of the next, empty on the last."""

    def once() -> tuple[bytes, str]:
        with endpoint.get(path, {}) as response:
            data = endpoint.transport.read_all(response, limits.DOCUMENT, endpoint.host, what)
            return data, response.headers.get("Link", "")

    data, link = endpoint.transport.patiently(what, once, endpoint.attempts)
    tags = documents.decode(data, documents.TagList, what).tags or []
    for tag in tags:
        if not reference.is_tag(tag):
            raise errors.BadInput(f"{what}: '{tag}' is not a tag")
    found = _NEXT.search(link)
    return tags, _next_path(found[1]) if found else ""


def _next_path(link: str) -> str:
    """Return where the next page is: on the same host, whatever the link says."""
    try:
        parts = urlsplit(link)
    except ValueError:
        return ""
    path = parts.path if parts.path.startswith("/v2/") else "tags/list"
    return f"{path}?{parts.query}"


@contextlib.contextmanager
def open_registry(
    ref: reference.Registry, cache: Cache, settings: Settings, cancel: Cancel
) -> Iterator[RegistrySource]:
    """Open a repository; its connections are closed at the end."""
    transport = Transport(ref.host, settings, cancel)
    try:
        yield RegistrySource(ref, transport, cache)
    finally:
        transport.close()
