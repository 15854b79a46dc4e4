"""The connections of one program: pooled by host, each host with a TLS of its own, and all of them to be woken.

Where a connection must not lead to this machine, the address that it has is what is looked at, and before a byte is
sent: what a name stands for may be another thing each time that somebody asks.

A thread that reads from a connection may be stopped by another: when the program is interrupted, and when one step
takes too long. The time-outs of sockets do not see the second, if a server sends a byte now and then.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

from banger_tools.oci import hosts

if TYPE_CHECKING:
    import ssl

    from urllib3 import BaseHTTPResponse, PoolManager


class Inward(Exception):
    """A connection came out at this machine, or at its link, where it must not; the text is the address."""


class _Step:
    """One step of a conversation: its connection, when it must be done, and whether it was not."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self.connection = connection
        self.deadline = deadline
        self.is_late = False


class Guard:
    """Shuts the connection of every step that takes longer than `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._steps: dict[int, _Step] = {}
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def step(self, connection: socket.socket | None) -> Iterator[None]:
        """Do one step of a conversation: headers to be read, or some bytes of a body.

        Raises TimeoutError in place of whatever the step raised when its connection was shut.
        """
        if connection is None:
            yield
            return
        self._start()
        step = self._steps[threading.get_ident()] = _Step(connection, time.monotonic() + self._seconds)
        try:
            yield
        finally:
            del self._steps[threading.get_ident()]
            if step.is_late:
                raise TimeoutError("it took too long")

    def _start(self) -> None:
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._watch, daemon=True)
                    self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(min(1.0, self._seconds / 4)):
            now = time.monotonic()
            for step in list(self._steps.values()):
                if now > step.deadline:
                    step.is_late = True
                    shut(step.connection)

    def end(self) -> None:
        """Watch no longer."""
        self._ended.set()


def shut(connection: socket.socket) -> None:
    """Wake whoever waits for a connection."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class _Way(NamedTuple):
    """Where connections lead that go through no proxy, and whether that must not be this machine or its link."""

    host: str
    outward: bool


def _near_address(connection: socket.socket) -> str | None:
    """Return where a connection leads if that is this machine or its link; None if not, or if it broke already."""
    with contextlib.suppress(OSError):
        address = str(connection.getpeername()[0])
        return address if hosts.is_near_address(address) else None
    return None


def _outward(connection: socket.socket, way: _Way | None) -> socket.socket:
    """Return a connection that was just made, over which nothing was sent; raises Inward."""
    address = _near_address(connection) if way is not None and way.outward else None
    if address is not None:
        connection.close()
        raise Inward(address)
    return connection


class Connections:
    """Pools of connections, one for each host; `tls` makes the context for a host."""

    def __init__(self, stall: float, tls: Callable[[str], ssl.SSLContext]) -> None:
        self._stall = stall
        self._tls = tls
        self._lock = threading.Lock()
        self._pools: dict[tuple[str, str | None, bool], PoolManager] = {}
        self._near: set[str] = set()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._answering: weakref.WeakKeyDictionary[BaseHTTPResponse, socket.socket] = weakref.WeakKeyDictionary()
        self._guard = Guard(stall)

    def shut(self) -> None:
        """Wake the threads that wait for any connection."""
        with self._lock:
            opened = list(self._sockets)
        for connection in opened:
            shut(connection)

    def close(self) -> None:
        """Close all connections."""
        self._guard.end()
        for pool in self._pools.values():
            pool.clear()

    def reading(self, response: BaseHTTPResponse) -> contextlib.AbstractContextManager[None]:
        """Guard the reading of some bytes of a response."""
        return self._guard.step(self._answering.get(response))

    def was_near(self, host: str) -> bool:
        """Tell whether a host turned out to be this machine, or on its link, when we connected to it."""
        return host.lower() in self._near

    def pool(self, url: str, *, outward: bool = False) -> PoolManager:
        """Return the pool for a URL; `outward`, its connections raise Inward where they lead to this machine.

        A proxy is where the user says, and where it leads is for it to say. Raises BadUsage for a proxy that is none,
        and what making the TLS context of the host raises.
        """
        scheme, host = urlsplit(url).scheme, hosts.of_url(url)
        proxy = hosts.proxy(url)
        with self._lock:
            key = (f"{scheme}://{host}", proxy, outward)
            if key not in self._pools:
                pool = self._make(self._tls(host) if scheme == "https" else None, proxy)
                pool.pool_classes_by_scheme = self._kinds(None if proxy else _Way(host, outward))
                self._pools[key] = pool
            return self._pools[key]

    def _make(self, context: ssl.SSLContext | None, proxy: str | None) -> PoolManager:
        from urllib3 import PoolManager, ProxyManager, Timeout, make_headers

        timeout = Timeout(connect=min(10.0, self._stall), read=self._stall)
        options: dict[str, Any] = {"maxsize": 8, "retries": False, "timeout": timeout, "ssl_context": context}
        if proxy:
            parts = urlsplit(proxy)
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else None
            headers = make_headers(proxy_basic_auth=login) if login else None
            address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
            pool: PoolManager = ProxyManager(address, proxy_headers=headers, **options)
        else:
            pool = PoolManager(**options)
        return pool

    def _kinds(self, way: _Way | None) -> dict[str, Any]:
        """Return kinds of connection pools that tell which sockets they opened, and guard the headers of answers."""
        from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
        from urllib3.connection import HTTPConnection, HTTPSConnection

        ours = self

        class Plain(HTTPConnection):
            def _new_conn(self) -> socket.socket:
                return _outward(super()._new_conn(), way)

            def connect(self) -> None:
                super().connect()
                ours._note(self.sock, way)

            def getresponse(self) -> Any:
                return ours._answer(self.sock, super().getresponse)

        class Tls(HTTPSConnection):
            def _new_conn(self) -> socket.socket:
                return _outward(super()._new_conn(), way)

            def connect(self) -> None:
                super().connect()
                ours._note(self.sock, way)

            def getresponse(self) -> Any:
                return ours._answer(self.sock, super().getresponse)

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Plain

        class TlsPool(HTTPSConnectionPool):
            ConnectionCls = Tls

        return {"http": PlainPool, "https": TlsPool}

    def _note(self, connection: socket.socket, way: _Way | None) -> None:
        with self._lock:  # for nothing may be added while `shut` looks
            self._sockets.add(connection)
            if way is not None and _near_address(connection):
                self._near.add(way.host)

    def _answer(self, connection: socket.socket, receive: Callable[[], BaseHTTPResponse]) -> BaseHTTPResponse:
        """Receive the headers of an answer, and remember where its body comes from."""
        with self._guard.step(connection):
            response = receive()
        self._answering[response] = connection
        return response
