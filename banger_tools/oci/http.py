"""HTTP as registries need it: bounded, patient, interruptible; each failure sorted into what it means.

A request that may succeed later raises Busy; `patiently` repeats it with growing pauses. Everything else ends in
an error of errors.py at once.
"""

from __future__ import annotations

import contextlib
import email.utils
import ipaddress
import socket
import time
import urllib.request
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from banger_tools import __version__, console, errors
from banger_tools.oci.cancel import Cancel
from banger_tools.oci.credentials import Credentials

if TYPE_CHECKING:
    import ssl

    from urllib3 import BaseHTTPResponse, PoolManager

T = TypeVar("T")

ATTEMPTS = 6
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 60.0
PIECE = 256 << 10
STALL_SECONDS = 30.0
STALL_BYTES = 4096
_CERTIFICATE_FOLDERS = ("/etc/containers/certs.d", "/etc/docker/certs.d")


class Settings(NamedTuple):
    """How to reach registries."""

    plain_http: tuple[str, ...] = ()
    ca_file: Path | None = None
    credentials: Credentials | None = None
    offline: bool = False
    timeout: float = 30.0


class Busy(Exception):
    """A request failed in a way that time may cure; `pause` is what the server asked for."""

    def __init__(self, message: str, pause: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.pause = pause


class Unreachable(errors.Unavailable):
    """Nobody answers at an address."""


class NotTls(Exception):
    """The other side does not speak TLS at all."""


class Transport:
    """The connections of one registry host and of those that it sends us to; for any number of threads."""

    def __init__(self, host: str, settings: Settings, cancel: Cancel) -> None:
        self.host = host
        self.settings = settings
        self.cancel = cancel
        self._pools: dict[str | None, PoolManager] = {}
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        cancel.add_waker(self._shut)

    def close(self) -> None:
        """Close all connections."""
        self.cancel.remove_waker(self._shut)
        for pool in self._pools.values():
            pool.clear()

    def _shut(self) -> None:
        """Wake the threads that wait for any of our connections."""
        for connection in list(self._sockets):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Iterator[BaseHTTPResponse]:
        """Send one request, and yield the response whatever its status; redirects are not followed.

        Raises Busy, NotTls, Unavailable.
        """
        if self.settings.offline:
            raise errors.Unavailable(f"'{url}' is needed, and going out is not allowed", "run it without --offline")
        headers = {"User-Agent": f"banger/{__version__}", "Accept-Encoding": "identity", **headers}
        with self.sorted_errors(url):
            response = self._pool(url).request(
                method, url, body=body, headers=headers, redirect=False, preload_content=False, decode_content=False
            )
        try:
            yield response
        finally:
            response.close()

    def read(self, response: BaseHTTPResponse, amount: int, url: str) -> bytes:
        """Return some bytes of a body, none at its end.

        Raises Busy if the connection broke, Cancelled.
        """
        with self.sorted_errors(url):
            data: bytes = response.read1(amount)
        self.cancel.check()
        return data or b""

    def read_all(self, response: BaseHTTPResponse, limit: int, url: str, what: str) -> bytes:
        """Return a body of at most `limit` bytes.

        Raises BadInput if it is larger, Busy.
        """
        data = b""
        while piece := self.read(response, PIECE, url):
            data += piece
            if len(data) > limit:
                raise errors.BadInput(f"{what} is too large: more than {limit} bytes")
        return data

    @contextlib.contextmanager
    def sorted_errors(self, url: str) -> Iterator[None]:
        """Turn the exceptions of urllib3 into ours."""
        from urllib3 import exceptions

        try:
            yield
        except exceptions.HTTPError as error:
            self.cancel.check()  # a connection that we shut ourselves fails, too
            raise _sorted(error, urlsplit(url).netloc) from error

    def _pool(self, url: str) -> PoolManager:
        proxy = _proxy(url)
        if proxy not in self._pools:
            self._pools[proxy] = self._make_pool(proxy)
        return self._pools[proxy]

    def _make_pool(self, proxy: str | None) -> PoolManager:
        from urllib3 import PoolManager, ProxyManager, Timeout

        timeout = Timeout(connect=min(10.0, self.settings.timeout), read=self.settings.timeout)
        context = _tls_context(self.host, self.settings.ca_file)
        options: dict[str, Any] = {"maxsize": 8, "retries": False, "timeout": timeout, "ssl_context": context}
        try:
            pool = ProxyManager(proxy, **options) if proxy else PoolManager(**options)
        except ValueError as error:
            raise errors.BadUsage(f"the proxy '{proxy}' of the environment is not a URL: {error}") from error
        pool.pool_classes_by_scheme = _watched(self._sockets)
        return pool

    def patiently(self, what: str, act: Callable[[], T]) -> T:
        """Do something until it is not Busy any more, at most ATTEMPTS times.

        Raises Retry with the last reason.
        """
        for attempt in range(ATTEMPTS):
            try:
                return act()
            except Busy as busy:
                self.pause(what, busy, attempt)
        raise AssertionError("pause ends the last attempt")

    def pause(self, what: str, busy: Busy, attempt: int) -> None:
        """Wait before the next attempt, as long as the server asked, else longer each time.

        Raises Retry after the last attempt, or if the server wants more patience than anyone has.
        """
        seconds = FIRST_PAUSE * 2**attempt if busy.pause is None else busy.pause
        if attempt + 1 >= ATTEMPTS or seconds > LONGEST_PAUSE:
            wanted = f"; it wants {seconds:.0f} s of rest" if seconds > LONGEST_PAUSE else ""
            raise errors.Retry(f"{what}: {busy.message}{wanted}", "try again later; what has arrived is kept") from busy
        console.note(f"{what}: {busy.message}; trying again in {seconds:.1f} s")
        self.cancel.sleep(seconds)


def _watched(sockets: weakref.WeakSet[socket.socket]) -> dict[str, Any]:
    """Return kinds of connection pools that tell which sockets they opened."""
    from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
    from urllib3.connection import HTTPConnection, HTTPSConnection

    class Plain(HTTPConnection):
        def connect(self) -> None:
            super().connect()
            sockets.add(self.sock)

    class Tls(HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            sockets.add(self.sock)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class TlsPool(HTTPSConnectionPool):
        ConnectionCls = Tls

    return {"http": PlainPool, "https": TlsPool}


def _sorted(error: Exception, host: str) -> Exception:
    """Return the error that a failure of urllib3 stands for."""
    from urllib3 import exceptions

    match error:
        case exceptions.SSLError():
            return _tls_error(error, host)
        case exceptions.NameResolutionError():
            return errors.Unavailable(f"cannot find the host '{host}'", "check its name, and the network")
        case exceptions.ProxyError():
            return errors.Unavailable(f"the proxy does not let us reach '{host}': {error}")
        case exceptions.NewConnectionError():
            cause = error.__cause__
            why = errors.reason(cause) if isinstance(cause, OSError) else "connection failed"
            return Unreachable(f"cannot connect to '{host}': {why}")
        case exceptions.ConnectTimeoutError():
            return Busy(f"'{host}' does not answer")
        case exceptions.TimeoutError():
            return Busy(f"'{host}' has stopped sending")
        case exceptions.LocationParseError() | exceptions.LocationValueError():
            return errors.BadInput(f"'{host}' is not a host that one can connect to")
    return Busy(f"the connection to '{host}' broke")


def _tls_error(error: Exception, host: str) -> Exception:
    import ssl

    cause = error.args[0] if error.args else None
    if isinstance(cause, ssl.SSLCertVerificationError):
        return errors.Unavailable(
            f"the certificate of '{host}' is not valid: {cause.verify_message}",
            "if it is signed by a CA of your own, name that with --ca-file",
        )
    if isinstance(cause, ssl.SSLEOFError) or (isinstance(cause, ssl.SSLError) and cause.reason in _PLAIN_ANSWERS):
        return NotTls(f"'{host}' does not speak TLS")
    return errors.Unavailable(f"cannot speak TLS with '{host}': {getattr(cause, 'reason', None) or error}")


_PLAIN_ANSWERS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG")


def _tls_context(host: str, ca_file: Path | None) -> ssl.SSLContext:
    """Return a context that trusts the system, --ca-file, and what docker or podman was told to trust for the host.

    Raises NoInput or BadInput for a file that is missing or holds no certificate.
    """
    import ssl

    context = ssl.create_default_context()
    for path in ([ca_file] if ca_file else []) + _host_files(host, "*.crt"):
        try:
            context.load_verify_locations(path)
        except ssl.SSLError as error:
            raise errors.BadInput(f"'{path}' holds no certificate") from error
        except OSError as error:
            raise errors.os_error(error, f"cannot read '{path}'") from error
    for certificate in _host_files(host, "*.cert"):
        with contextlib.suppress(OSError):
            context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    return context


def _host_files(host: str, pattern: str) -> list[Path]:
    return [path for folder in _CERTIFICATE_FOLDERS for path in sorted(Path(folder, host).glob(pattern))]


def _proxy(url: str) -> str | None:
    """Return the proxy for a URL by the usual variables of the environment."""
    parts = urlsplit(url)
    if urllib.request.proxy_bypass_environment(parts.netloc):  # type: ignore[attr-defined]
        return None
    return urllib.request.getproxies_environment().get(parts.scheme)


def is_loopback(host: str) -> bool:
    """Tell whether a host (with or without a port) is this machine."""
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def retry_after(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for, in either of its forms."""
    if not value:
        return None
    if value.strip().isdigit():
        return float(value)
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return None


class Watch:
    """Finds connections that trickle: fewer than STALL_BYTES in STALL_SECONDS."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._bytes = 0

    def saw(self, amount: int) -> None:
        """Count bytes that arrived.

        Raises Busy if they are too few.
        """
        self._bytes += amount
        now = time.monotonic()
        if now - self._since < STALL_SECONDS:
            return
        if self._bytes < STALL_BYTES:
            raise Busy("the connection has all but stopped")
        self._since, self._bytes = now, 0
