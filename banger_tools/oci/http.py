"""HTTP as registries need it: bounded, patient, interruptible; each failure sorted into what it means.

A request that may succeed later raises Busy; `patiently` repeats it with growing pauses. Everything else ends in
an error of errors.py at once.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import urljoin, urlsplit

from banger_tools import __version__, config, console, errors
from banger_tools.oci import failures, hosts, reference, tls
from banger_tools.oci.cancel import Cancel
from banger_tools.oci.connections import Connections, Inward
from banger_tools.oci.credentials import Credentials
from banger_tools.oci.failures import Busy, NotTls, Unreachable
from banger_tools.oci.hosts import is_loopback

if TYPE_CHECKING:
    import ssl

    from urllib3 import BaseHTTPResponse

__all__ = ["Busy", "NotTls", "Settings", "Transport", "Unreachable", "Watch", "is_loopback", "retry_after"]

T = TypeVar("T")

ATTEMPTS = 6
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 60.0
PIECE = 256 << 10
STALL_SECONDS = 30.0
STALL_BYTES = 4096
REDIRECTS = 5
_REDIRECTIONS = (301, 302, 303, 307, 308)


class Settings(NamedTuple):
    """How to reach registries: by the command line, which is for the one registry that it names, and by config.toml."""

    plain_http: tuple[str, ...] = ()
    ca_file: Path | None = None
    credentials: Credentials | None = None
    offline: bool = False
    stall: float = STALL_SECONDS
    mirrors: tuple[str, ...] = ()
    certificate: tls.Certificate | None = None
    registries: Mapping[str, config.Registry] = MappingProxyType({})

    def configured(self, host: str) -> config.Registry:
        """Return what config.toml says of a host, in whatever case, with the port of TLS or without it."""
        if host in self.registries:
            return self.registries[host]
        wanted = hosts.named(host, "https")
        found = (one for key, one in self.registries.items() if hosts.named(key, "https") == wanted)
        return next(found, config.Registry())

    @property
    def _plain(self) -> set[str]:
        known = (host for host, one in self.registries.items() if one.plain_http)
        return {host.lower() for host in (*self.plain_http, *known)}

    def is_plain(self, host: str) -> bool:
        """Tell whether a host is to be spoken to without TLS; what is said of `NAME:80` is not said of `NAME`."""
        return not self._plain.isdisjoint((host.lower(), hosts.named(host, "http")))

    def allows(self, url: str) -> bool:
        """Tell whether the host of a URL is one of those that may be spoken to without TLS."""
        scheme = urlsplit(url).scheme
        return hosts.of_url(url) in {hosts.named(host, scheme) for host in self._plain}

    def schemes(self, host: str) -> tuple[str, ...]:
        """Return the schemes to try for a host: as docker does, plain HTTP only on this machine, unless allowed."""
        if self.is_plain(host):
            return ("http",)
        return ("https", "http") if is_loopback(host) else ("https",)


class Reached(NamedTuple):
    """A response, the host that gave it, and whether that is the one that was asked: redirects lead to others."""

    response: BaseHTTPResponse
    host: str
    is_own: bool


class Transport:
    """The connections to a host and to those that it sends us to; for any number of threads."""

    def __init__(self, host: str, settings: Settings, cancel: Cancel) -> None:
        self.host = host
        self.settings = settings
        self.cancel = cancel
        self._asked: set[str] = set()  # hosts that the user named
        self._connections = Connections(settings.stall, self._tls_context)
        cancel.add_waker(self._connections.shut)

    def close(self) -> None:
        """Close all connections."""
        self.cancel.remove_waker(self._connections.shut)
        self._connections.close()

    def _tls_context(self, host: str) -> ssl.SSLContext:
        """Return the TLS of a host: the certificate of the command line is for our own host only."""
        known = self.settings.configured(host)
        authorities = [path for path in (self.settings.ca_file, known.ca_file and Path(known.ca_file)) if path]
        if host == hosts.named(self.host, "https") and self.settings.certificate is not None:
            return tls.context(host, authorities, self.settings.certificate)
        if known.cert_file is None:
            return tls.context(host, authorities, None)
        key = Path(known.key_file) if known.key_file else None
        return tls.context(host, authorities, tls.Certificate(Path(known.cert_file), key))

    @contextlib.contextmanager
    def request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None, *, source: str | None = None
    ) -> Iterator[BaseHTTPResponse]:
        """Send one request, and yield the response whatever its status; redirects are not followed.

        `source` is the host that named the URL, None for the user. Raises Busy, NotTls, Unavailable, and Denied if that
        host sends us to this machine.
        """
        if self.settings.offline:
            raise errors.Unavailable(
                f"'{url}' is needed, and going out is not allowed", "run it without --offline and --pull=never"
            )
        headers = {"User-Agent": f"banger/{__version__}", "Accept-Encoding": "identity", **headers}
        outward = self._must_lead_outward(url, source)
        with self.sorted_errors(url), _denied_inward(url, source):
            response = self._connections.pool(url, outward=outward).request(
                method, url, body=body, headers=headers, redirect=False, preload_content=False, decode_content=False
            )
        try:
            yield response
        finally:
            response.close()

    @contextlib.contextmanager
    def follow(
        self,
        url: str,
        headers: Mapping[str, str],
        authorization: str | None = None,
        *,
        source: str | None = None,
        check: Callable[[str], object] | None = None,
    ) -> Iterator[Reached]:
        """Get a URL and follow redirects; no other host gets to see the Authorization header.

        `check` is given each URL before it is asked for. Raises what it raises and `request`, Unavailable or BadInput
        for redirects that lead nowhere.
        """
        origin = here = _origin(url)
        for _ in range(REDIRECTS + 1):
            if check is not None:
                check(url)
            own = {"Authorization": authorization} if authorization and here == origin else {}
            with self.request("GET", url, {**headers, **own}, source=source) as response:
                target = response.headers.get("Location")
                if response.status not in _REDIRECTIONS or not target:
                    yield Reached(response, here[1], here == origin)
                    return
            source, url = hosts.of_url(url), _redirected(url, target)
            here = _origin(url)
        raise errors.Unavailable(f"'{origin[1]}' redirects without end")

    def _must_lead_outward(self, url: str, source: str | None) -> bool:
        """Tell whether a URL must lead neither to this machine nor to its link, which is known only when we connect.

        That is so for what another host names, unless that host is here itself, or the user allowed it. Raises Denied
        if the URL says already where it leads.
        """
        host = hosts.of_url(url)
        if source is None:
            self._asked.add(host)
        if host in self._asked or self.settings.allows(url) or hosts.is_near(source or ""):
            return False
        if self._connections.was_near(source or ""):
            return False
        if hosts.is_near(host):
            raise _inward(url, source)
        return True

    def read(self, response: BaseHTTPResponse, amount: int, url: str) -> bytes:
        """Return some bytes of a body, none at its end.

        Raises Busy if the connection broke, Cancelled.
        """
        with self.sorted_errors(url), self._connections.reading(response):
            data: bytes = response.read1(amount)
        self.cancel.check()
        return data or b""

    def read_all(self, response: BaseHTTPResponse, limit: int, url: str, what: str) -> bytes:
        """Return a body of at most `limit` bytes.

        Raises BadInput if it is larger, Busy.
        """
        pieces, size, watch = [], 0, self.watch()
        while piece := self.read(response, PIECE, url):
            watch.saw(len(piece))
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise errors.BadInput(f"{what} is too large: more than {limit} bytes")
        return b"".join(pieces)

    def watch(self) -> Watch:
        """Return a watch over one body."""
        return Watch(self.settings.stall)

    @contextlib.contextmanager
    def sorted_errors(self, url: str) -> Iterator[None]:
        """Turn the exceptions of urllib3 into ours."""
        from urllib3 import exceptions

        try:
            yield
        except exceptions.HTTPError as error:
            self.cancel.check()  # a connection that we shut ourselves fails, too
            raise failures.sort(error, urlsplit(url).netloc or url) from error
        except TimeoutError as error:
            raise Busy(f"'{urlsplit(url).netloc or url}' has stopped sending") from error

    def patiently(self, what: str, act: Callable[[], T], attempts: int = ATTEMPTS) -> T:
        """Do something until it is not Busy any more, at most so many times.

        Raises Retry with the last reason.
        """
        for attempt in range(attempts):
            try:
                return act()
            except Busy as busy:
                self.pause(what, busy, attempt, attempts)
        raise AssertionError("pause ends the last attempt")

    def pause(self, what: str, busy: Busy, attempt: int, attempts: int = ATTEMPTS) -> None:
        """Wait before the next attempt, as long as the server asked, else longer each time.

        Raises Retry after the last attempt, or if the server wants more patience than anyone has.
        """
        seconds = FIRST_PAUSE * 2**attempt if busy.pause is None else busy.pause
        if attempt + 1 >= attempts or seconds > LONGEST_PAUSE:
            wanted = f"; it wants {seconds:.0f} s of rest" if seconds > LONGEST_PAUSE else ""
            raise errors.Retry(f"{what}: {busy.message}{wanted}", "try again later; what has arrived is kept") from busy
        console.note(f"{what}: {busy.message}; trying again in {seconds:.1f} s")
        self.cancel.sleep(seconds)


def _inward(url: str, source: str | None, address: str = "") -> errors.Denied:
    where = f" ({address})" if address else ""
    return errors.Denied(f"'{source}' leads to '{url}', which is this machine or its own network{where}")


@contextlib.contextmanager
def _denied_inward(url: str, source: str | None) -> Iterator[None]:
    """Say of a connection that was not made who wanted it."""
    try:
        yield
    except Inward as error:
        raise _inward(url, source, str(error)) from error


def _origin(url: str) -> tuple[str, str]:
    return urlsplit(url).scheme, hosts.of_url(url)


def _redirected(url: str, target: str) -> str:
    """Return where a redirect leads.

    Raises BadInput if that is no place for HTTP.
    """
    found = ""
    with contextlib.suppress(ValueError):
        found = urljoin(url, target)
    if not reference.is_http_url(found):
        raise errors.BadInput(f"'{urlsplit(url).netloc}' redirects to '{target}'")
    return found


def retry_after(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for, in either of its forms."""
    if not value:
        return None
    if value.strip().isascii() and value.strip().isdigit():
        return float(value)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        import email.utils

        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return None


class Watch:
    """Finds connections that trickle: fewer than STALL_BYTES in some seconds."""

    def __init__(self, seconds: float = STALL_SECONDS) -> None:
        self._seconds = seconds
        self._since = time.monotonic()
        self._bytes = 0

    def saw(self, amount: int) -> None:
        """Count bytes that arrived.

        Raises Busy if they are too few.
        """
        self._bytes += amount
        now = time.monotonic()
        if now - self._since < self._seconds:
            return
        if self._bytes < STALL_BYTES:
            raise Busy("the connection has all but stopped")
        self._since, self._bytes = now, 0
