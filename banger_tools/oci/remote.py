"""A registry as a source of images: the pull side of the OCI distribution specification 1.1.

Tags are resolved once and remembered in the cache; blobs go on where an earlier transfer ended.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urljoin, urlsplit

from banger_tools import console, errors
from banger_tools.manifest import Platform
from banger_tools.oci import credentials, documents, limits, reference, resume
from banger_tools.oci import digest as digests
from banger_tools.oci.cache import Cache
from banger_tools.oci.cancel import Cancel
from banger_tools.oci.documents import Blob, Descriptor, Document, Image
from banger_tools.oci.http import Busy, NotTls, Settings, Transport, Unreachable, is_loopback, retry_after

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

__all__ = ["RegistrySource", "Settings", "open_registry"]

HUB_ENDPOINT = "registry-1.docker.io"
_REDIRECTS = 5
_ERROR_BYTES = 64 << 10


class Authorizer:
    """The Authorization header for one repository: none, basic, or a bearer token that is renewed when it expires."""

    def __init__(self, transport: Transport, ref: reference.Registry) -> None:
        self._transport = transport
        self._ref = ref
        self._lock = threading.Lock()
        self._asked = False
        self._credentials = transport.settings.credentials
        self.header: str | None = None

    def answer(self, challenge: str, used: str | None) -> bool:
        """Get ready for another try after a 401 to a request with the header `used`; tell whether it is worth it.

        Raises Denied if the token server refuses.
        """
        with self._lock:
            if self.header != used:  # another thread renewed it meanwhile
                return True
            scheme, _, rest = challenge.partition(" ")
            fields = dict(re.findall(r'(\w+)="?([^",]*(?:,(?!\s*\w+=)[^",]*)*)"?', rest))
            if scheme.lower() == "bearer" and fields.get("realm"):
                self.header = "Bearer " + self._token(fields)
                return True
            found = self._login()
            if scheme.lower() == "basic" and found is not None and used is None:
                self.header = found.basic()
                return True
            return False

    def _login(self) -> credentials.Credentials | None:
        if self._credentials is None and not self._asked:
            self._asked = True
            self._credentials = credentials.find(self._ref.host, self._ref.repository)
        return self._credentials

    def _token(self, fields: Mapping[str, str]) -> str:
        """Ask the token server of a challenge (distribution specification: token authentication)."""
        realm, found = fields["realm"], self._login()
        scope = fields.get("scope") or f"repository:{self._ref.repository}:pull"
        query = {"scope": scope, **({"service": fields["service"]} if fields.get("service") else {})}
        if found is not None and not _may_see_secrets(realm):
            raise errors.Denied(f"'{self._ref.host}' wants the password sent to '{realm}', which is not encrypted")
        return self._transport.patiently(
            f"the token server '{urlsplit(realm).netloc}'", lambda: self._ask(realm, query, found)
        )

    def _ask(self, realm: str, query: Mapping[str, str], found: credentials.Credentials | None) -> str:
        if found is not None and found.identity_token:
            form = {
                **query,
                "grant_type": "refresh_token",
                "refresh_token": found.identity_token,
                "client_id": "banger",
            }
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            request = self._transport.request("POST", realm, headers, urlencode(form).encode())
        else:
            joint = "&" if urlsplit(realm).query else "?"
            headers = {"Authorization": found.basic()} if found else {}
            request = self._transport.request("GET", realm + joint + urlencode(query), headers)
        with request as response:
            body = self._transport.read_all(response, 1 << 20, realm, "the answer of the token server")
            if response.status != 200:
                raise _status_error(response, body, urlsplit(realm).netloc, str(self._ref))
        return _token_of(body, realm)


def _may_see_secrets(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.netloc))


def _token_of(body: bytes, realm: str) -> str:
    with contextlib.suppress(ValueError, AttributeError):
        answer = json.loads(body)
        token = answer.get("token") or answer.get("access_token")
        if isinstance(token, str) and token.isprintable() and token:
            return token
    raise errors.Unavailable(f"the token server '{urlsplit(realm).netloc}' gave no token")


class Client:
    """One repository of one registry."""

    def __init__(self, ref: reference.Registry, settings: Settings, cancel: Cancel) -> None:
        self.ref = ref
        self.transport = Transport(ref.host, settings, cancel)
        self._authorizer = Authorizer(self.transport, ref)
        self._schemes = _schemes(ref.host, settings)
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def get(self, path: str, headers: Mapping[str, str]) -> Iterator[BaseHTTPResponse]:
        """Get something below the repository, answering challenges and following redirects.

        Yields a response of status 200, 206 or 416. Raises Busy, and errors for everything else.
        """
        host = HUB_ENDPOINT if self.ref.host == reference.DOCKER_HUB else self.ref.host
        path = f"://{host}/v2/{self.ref.repository}/{path}"
        with contextlib.ExitStack() as stack:
            yield self._first_answer(stack, path, headers)

    def _first_answer(self, stack: contextlib.ExitStack, path: str, headers: Mapping[str, str]) -> BaseHTTPResponse:
        """Try the schemes that a host may speak; the one that worked is the only one from then on."""
        for scheme in self._schemes:
            try:
                return self._authorized(stack, scheme + path, headers)
            except NotTls as error:
                if scheme == self._schemes[-1]:
                    hint = f"if it is meant to be plain: --plain-http {self.ref.host}"
                    raise errors.Unavailable(str(error), hint) from error
            except (Unreachable, Busy):
                if scheme == self._schemes[-1]:
                    raise
        raise AssertionError("there is a scheme")

    def _authorized(self, stack: contextlib.ExitStack, url: str, headers: Mapping[str, str]) -> BaseHTTPResponse:
        """Send a request with what authority we have; a 401 is answered twice at most."""
        for _ in range(3):
            used = self._authorizer.header
            inner = contextlib.ExitStack()
            with inner:
                response = self._follow(inner, url, headers, used)
                if response.status in (200, 206, 416):
                    stack.push(inner.pop_all())
                    return response
                if response.status == 401 and self._authorizer.answer(
                    response.headers.get("WWW-Authenticate", ""), used
                ):
                    continue
                body = self.transport.read_all(response, _ERROR_BYTES, url, "an error message")
                raise _status_error(response, body, self.ref.host, str(self.ref))
        raise errors.Denied(f"'{self.ref.host}' refuses its own token for '{self.ref}'")

    def _follow(
        self, stack: contextlib.ExitStack, url: str, headers: Mapping[str, str], authorization: str | None
    ) -> BaseHTTPResponse:
        """Send a request and follow redirects; no other host gets to see the Authorization header."""
        origin = _origin(url)
        for _ in range(_REDIRECTS + 1):
            own = {"Authorization": authorization} if authorization and _origin(url) == origin else {}
            response = stack.enter_context(self.transport.request("GET", url, {**headers, **own}))
            self._schemes = (origin[0],)  # it answered, so no other scheme is to be tried
            target = response.headers.get("Location")
            if response.status not in (301, 302, 303, 307, 308) or not target:
                return response
            url = urljoin(url, target)
            if urlsplit(url).scheme not in ("http", "https"):
                raise errors.BadInput(f"'{self.ref.host}' redirects to '{url}'")
        raise errors.Unavailable(f"'{self.ref.host}' redirects without end")


def _schemes(host: str, settings: Settings) -> tuple[str, ...]:
    """Return the schemes to try for a host: as docker does, plain HTTP only on this machine, unless allowed."""
    if host in settings.plain_http:
        return ("http",)
    return ("https", "http") if is_loopback(host) else ("https",)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def _status_error(response: BaseHTTPResponse, body: bytes, host: str, subject: str) -> Exception:
    """Return the error that a status stands for."""
    said = _registry_message(body)
    detail = f": {said}" if said else ""
    match response.status:
        case 401 | 403:
            hint = f"if you may have it, log in first: docker login {host}, or podman login {host}"
            return errors.Denied(f"'{host}' does not let us have '{subject}'{detail}", hint)
        case 404 if said is None and "Docker-Distribution-Api-Version" not in response.headers:
            return errors.Unavailable(f"'{host}' is no registry: it knows nothing of /v2/")
        case 404:
            return errors.NoInput(f"'{subject}' does not exist{detail}")
        case 429 | 500 | 502 | 503 | 504 | 408:
            pause = retry_after(response.headers.get("Retry-After"))
            return Busy(f"'{host}' answers {response.status} {response.reason or ''}".strip(), pause)
    return errors.Unavailable(f"'{host}' answers {response.status} {response.reason or ''}{detail}")


def _registry_message(body: bytes) -> str | None:
    """Return what a registry says in its error document; None if this is no such document."""
    with contextlib.suppress(ValueError, KeyError, TypeError, IndexError, AttributeError):
        first = json.loads(body)["errors"][0]
        return str(first.get("message") or first.get("code"))[:200].lower()
    return None


class RegistrySource:
    """A repository as a source, its documents read through the cache."""

    remote = True

    def __init__(self, client: Client, cache: Cache) -> None:
        self.client = client
        self.cache = cache
        self._subject = str(client.ref)

    def resolve(self, ref: reference.Registry, wanted: Platform | None, pull: str) -> Image:
        """Find the image for a platform, read its documents, and keep them."""
        root = self._root(ref, pull)
        image = documents.resolve(root, self._read, wanted, self._subject)
        for document in image.documents:
            self.cache.write_document(document)
        self.cache.record(self._subject, root.descriptor)
        return image

    def _root(self, ref: reference.Registry, pull: str) -> Document:
        """Return the document that a reference stands for: by digest, as resolved before, or as of now."""
        offline = self.client.transport.settings.offline
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
        return self._ask(str(ref.digest or ref.tag), ref.digest)

    def _ask(self, name: str, digest: str | None) -> Document:
        what = f"the manifest of '{self._subject}'"
        data, media_type, stated = self._get(f"manifests/{name}", documents.ACCEPT, what)
        expected = digest or (stated if stated.startswith(("sha256:", "sha512:")) else None)
        descriptor = Descriptor(expected or digests.of(data), len(data), media_type)
        return Document(descriptor, documents.verified(descriptor, data, what))

    def _get(self, path: str, accept: tuple[str, ...], what: str) -> tuple[bytes, str, str]:
        """Return a document, its media type, and the digest that the registry states for it."""

        def once() -> tuple[bytes, str, str]:
            with self.client.get(path, {"Accept": ", ".join(accept)}) as response:
                data = self.client.transport.read_all(response, limits.DOCUMENT, path, what)
                media_type = response.headers.get("Content-Type", "").split(";")[0].strip()
                return data, media_type, response.headers.get("Docker-Content-Digest", "")

        data, media_type, stated = self.client.transport.patiently(what, once)
        if media_type.startswith("text/html"):
            raise errors.Unavailable(f"'{self.client.ref.host}' is no registry: it answers with a web page")
        return data, media_type, stated

    def _read(self, descriptor: Descriptor) -> bytes:
        """Return a document of the image, from the cache if it is there."""
        what = f"the document {digests.short(descriptor.digest)} of '{self._subject}'"
        documents.check_size(descriptor, what)
        known = self.cache.read_document(descriptor)
        if known is not None:
            return known
        kind = "manifests" if descriptor.media_type in documents.ACCEPT or not descriptor.media_type else "blobs"
        accept = documents.ACCEPT if kind == "manifests" else ("*/*",)
        data, _, _ = self._get(f"{kind}/{descriptor.digest}", accept, what)
        return documents.verified(descriptor, data, what)

    def chunks(self, blob: Blob, start: int, cancel: Cancel) -> Iterator[bytes]:
        """Yield a blob's bytes from `start` on, going on by itself when a connection breaks.

        Raises BadInput if there are more of them than promised, Retry if it breaks again and again without progress.
        """
        what = f"the layer {digests.short(str(blob.digest))} of '{self._subject}'"
        get = partial(self.client.get, f"blobs/{blob.digest}")
        return resume.chunks(resume.Body(self.client.transport, get, self.client.ref.host, what, blob.size), start)


@contextlib.contextmanager
def open_registry(
    ref: reference.Registry, cache: Cache, settings: Settings, cancel: Cancel
) -> Iterator[RegistrySource]:
    """Open a repository; its connections are closed at the end."""
    client = Client(ref, settings, cancel)
    try:
        yield RegistrySource(client, cache)
    finally:
        client.transport.close()
