"""Places that one layer may come from, tried in order: foreign URLs, mirrors, the registry.

A place that has other bytes than the digest says, or none, is passed over; the layer is the same wherever it is from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from banger_tools import console, errors, manifest
from banger_tools.oci import digest as digests
from banger_tools.oci import layer, reference, registry_errors, resume
from banger_tools.oci.cancel import Cancel
from banger_tools.oci.documents import Blob
from banger_tools.oci.endpoint import Endpoint
from banger_tools.oci.failures import NotTls
from banger_tools.oci.http import ATTEMPTS, Transport

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

    from banger_tools.oci.layer import Source, Task

Find = Callable[[Blob], Sequence["Source"]]
Answer = contextlib.AbstractContextManager["BaseHTTPResponse"]


@dataclass
class Place:
    """A source of blobs over HTTP: `ask` sends one request for a blob, `pass_over` is told why it was of no use."""

    transport: Transport
    host: str
    subject: str
    ask: Callable[[Blob, Mapping[str, str]], Answer]
    pass_over: Callable[[errors.BangerError], None]
    attempts: int = ATTEMPTS
    remote: bool = True
    _resumed: set[str] = field(default_factory=set)
    _whole: set[str] = field(default_factory=set)

    def chunks(self, blob: Blob, start: int, cancel: Cancel) -> Iterator[bytes]:
        """Yield a blob's bytes from `start` on, going on by itself when a connection breaks.

        Raises BadInput if there are more of them than promised, Retry if it breaks again and again without progress.
        """
        digest = str(blob.digest)

        def get(headers: Mapping[str, str]) -> Answer:
            if "Range" in headers:
                self._resumed.add(digest)
            return self.ask(blob, headers)

        what = f"the layer {digests.short(digest)} of '{self.subject}'"
        body = resume.Body(self.transport, get, self.host, what, blob.size, self.attempts)
        return resume.chunks(body, start, ranged=digest not in self._whole)

    def may_do_better(self, blob: Blob) -> bool:
        """Tell whether wrong bytes may come of a server that garbles ranges: from now on it is asked for all of it."""
        digest = str(blob.digest)
        if digest not in self._resumed or digest in self._whole:
            return False
        self._whole.add(digest)
        return True


def of_endpoint(endpoint: Endpoint) -> Place:
    """Return a registry, or a mirror of it, as a place."""

    def ask(blob: Blob, headers: Mapping[str, str]) -> Answer:
        return endpoint.get(f"blobs/{blob.digest}", headers)

    return Place(endpoint.transport, endpoint.host, endpoint.subject, ask, endpoint.pass_over, endpoint.attempts)


def of_url(url: str, transport: Transport, attempts: int) -> Place:
    """Return the URL of a foreign layer as a place; it is asked without any authority."""
    host = urlsplit(url).netloc

    @contextlib.contextmanager
    def ask(_blob: Blob, headers: Mapping[str, str]) -> Iterator[BaseHTTPResponse]:
        try:
            # without a registry the image is here, and so may be its layers
            with transport.follow(url, headers, source=transport.host or None) as (response, _, _):
                if response.status not in (200, 206, 416):
                    body = transport.read_all(response, registry_errors.BYTES, url, "an error message")
                    raise registry_errors.of_status(response, body, host, url)
                yield response
        except NotTls as error:
            raise errors.Unavailable(str(error)) from error

    def pass_over(error: errors.BangerError) -> None:
        console.detail(f"'{url}' is passed over: {error.message}")

    return Place(transport, host, url, ask, pass_over, attempts)


def foreign(blob: Blob, transport: Transport, attempts: int = ATTEMPTS) -> list[Place]:
    """Return the places of a foreign layer by the URLs of its descriptor (image specification, descriptor)."""
    return [of_url(url, transport, attempts) for url in blob.urls if reference.is_http_url(url)]


def fetch(task: Task, find: Find, blob: Blob, diff_id: str | None, what: str) -> manifest.Layer:
    """Return a layer whose verified tar is in the cache, from the first place that has it.

    Raises what the last place raises.
    """
    *others, last = find(blob)
    for place in others:
        try:
            return _fetch_from(task._replace(source=place), blob, diff_id, what)
        except errors.BangerError as error:
            if not _concerns_only(place, error):
                raise
            if isinstance(place, Place):
                place.pass_over(error)
    return _fetch_from(task._replace(source=last), blob, diff_id, what)


def _concerns_only(place: Source, error: errors.BangerError) -> bool:
    """Tell an error of a place from one of the layer itself, which would be the same everywhere."""
    if isinstance(place, Place):
        return isinstance(error, digests.Mismatch | errors.Unavailable | errors.Retry | errors.Denied | errors.NoInput)
    return isinstance(error, errors.BadInput)


def _fetch_from(task: Task, blob: Blob, diff_id: str | None, what: str) -> manifest.Layer:
    try:
        return layer.fetch(task, blob, diff_id, what)
    except digests.Mismatch as error:
        source = task.source
        if not isinstance(source, Place) or isinstance(error, resume.WrongSize) or not source.may_do_better(blob):
            raise
        console.warning(f"{error.message}; '{source.host}' garbles ranges, so all of it is fetched once more")
        return layer.fetch(task, blob, diff_id, what)
