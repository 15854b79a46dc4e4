"""Connections to an agent: over a virtio-serial port, Firecracker's vsock socket, AF_VSOCK, or a plain Unix socket.

A `Connection` sends without blocking (`put`, `flush`) and with a deadline (`send`), and receives likewise
(`take`, `receive`). Deadlines are values of time.monotonic().
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import select
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from banger_tools import errors
from banger_tools.agent import AGENT_PORT, serial

Connector = Callable[[float], "Connection"]

CHUNK = 64 << 10
HELLO_SECONDS = 0.2
_FIRST_ANSWER = 1.0
_PAUSE = 0.02
_GONE = "the guest closed the connection"
_SILENT = "the guest's agent does not answer"


class Connection:
    """One connection to the agent, over a connected stream socket."""

    def __init__(self, stream: socket.socket, on_close: Callable[[], None] | None = None) -> None:
        self.stream = stream
        self.stream.setblocking(False)
        self.ended = False
        self._on_close = on_close
        self._outgoing = bytearray()
        self._ahead = b""

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self.stream.fileno()

    @property
    def pending(self) -> int:
        """The number of bytes that were put but not sent yet."""
        return len(self._outgoing)

    def put(self, data: bytes) -> None:
        """Queue bytes for the guest; `flush` sends them. The caller bounds what is pending."""
        self._outgoing += data

    def flush(self) -> None:
        """Send what the socket takes at once.

        Raises Retry if the guest closed the connection.
        """
        while self._outgoing:
            try:
                sent = self.stream.send(memoryview(self._outgoing)[:CHUNK])
            except BlockingIOError:
                return
            except OSError as error:
                raise errors.Retry(_GONE) from error
            del self._outgoing[:sent]

    def discard(self) -> None:
        """Forget what was put and not sent."""
        self._outgoing.clear()

    def send(self, data: bytes, deadline: float) -> None:
        """Send bytes.

        Raises Retry if the guest closed the connection or does not take them before the deadline.
        """
        self.put(data)
        self.flush()
        while self._outgoing:
            self.wait(deadline, select.POLLOUT)
            self.flush()

    def take(self) -> bytes | None:
        """Return what arrived: None if nothing did, no bytes at the end of the stream."""
        if self._ahead:
            ahead, self._ahead = self._ahead, b""
            return ahead
        if self.ended:
            return b""
        try:
            data = self.stream.recv(CHUNK)
        except BlockingIOError:
            return None
        except OSError:
            data = b""  # reset: the guest is gone
        if not data:
            self.ended = True
            return b""
        return self.decode(data)

    def decode(self, data: bytes) -> bytes | None:
        """Return the connection's bytes among those of the socket; None if there are none, none at all at the end."""
        return data

    def push_back(self, data: bytes) -> None:
        """Give back bytes that were read too far; the next read returns them."""
        self._ahead = data + self._ahead

    def receive(self, deadline: float) -> bytes:
        """Return the next bytes; none at the end of the stream.

        Raises Retry if nothing comes before the deadline.
        """
        while (data := self.take()) is None:
            self.wait(deadline, select.POLLIN)
        return data

    def wait(self, deadline: float, events: int) -> None:
        """Wait for the socket; raises Retry at the deadline."""
        left = deadline - time.monotonic()
        poll = select.poll()
        poll.register(self.stream, events)
        if left <= 0 or not poll.poll(left * 1000):
            raise errors.Retry(_SILENT)

    def close(self) -> None:
        """End the connection."""
        self.stream.close()
        if self._on_close:
            self._on_close()
            self._on_close = None

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SerialConnection(Connection):
    """A connection on a virtio-serial port: opened by a token, and stuffed."""

    def __init__(self, stream: socket.socket, on_close: Callable[[], None] | None = None) -> None:
        super().__init__(stream, on_close)
        self._token = secrets.token_hex(16)
        self._decoder = serial.Decoder(self._token)

    def put(self, data: bytes) -> None:
        """Queue bytes for the guest."""
        super().put(serial.encode(data))

    def decode(self, data: bytes) -> bytes | None:
        """Return the connection's bytes among those of the port."""
        decoded = self._decoder.feed(data)
        self.ended = self._decoder.ended
        if decoded or self.ended:
            return decoded
        return None

    def open(self, deadline: float) -> None:
        """Say hello until the guest answers.

        Raises Retry at the deadline, or if the port is closed.
        """
        said = 0.0
        while not self._decoder.open:
            now = time.monotonic()
            if now - said >= HELLO_SECONDS and not self.pending:
                said = now
                super().put(serial.hello(self._token))
                self.flush()
            with contextlib.suppress(errors.Retry):
                self.wait(min(deadline, said + HELLO_SECONDS), select.POLLIN)
            data = self.take()
            if data is not None and self.ended and not self._decoder.open:
                raise errors.Retry(_GONE)
            if data:
                self.push_back(data)
            if time.monotonic() >= deadline and not self._decoder.open:
                raise errors.Retry(_SILENT)


@contextlib.contextmanager
def _short_path(path: Path) -> Iterator[str]:
    """Yield a name for a socket that fits into the 108 bytes of sun_path, however deep its folder lies.

    It is no symlink's: the folder may be a jail's, and what its user puts there must not lead us elsewhere.
    """
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def connect_unix(path: Path) -> socket.socket:
    """Return a socket connected to a Unix socket; raises OSError."""
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stream.setblocking(False)  # a server that does not accept must not stop us: EAGAIN
    try:
        with _short_path(path) as name:
            stream.connect(name)
    except BaseException:
        stream.close()
        raise
    return stream


def _retry(connect: Callable[[], Connection | None], deadline: float) -> Connection:
    """Try until there is a connection; raises Retry at the deadline."""
    while True:
        connection = connect()
        if connection is not None:
            return connection
        if time.monotonic() + _PAUSE >= deadline:
            raise errors.Retry(_SILENT)
        time.sleep(_PAUSE)


def unix(path: Path, token: str | None = None) -> Connector:
    """Return a connector to an agent that listens on a Unix socket, as in tests."""

    def attempt(deadline: float) -> Connection | None:
        with contextlib.suppress(OSError):
            return _introduced(connect_unix(path), token, deadline)
        return None

    return lambda deadline: _retry(lambda: attempt(deadline), deadline)


def _introduced(stream: socket.socket, token: str | None, deadline: float) -> Connection | None:
    """Return a connection over a socket, which the agent's token opens if it has one; None if it takes nothing."""
    connection = Connection(stream)
    if token is None:
        return connection
    try:
        connection.send(f"TOKEN {token}\n".encode(), deadline)
    except errors.Retry:
        connection.close()
        return None
    return connection


def _retry_patiently(attempt: Callable[[float], Connection | None], deadline: float) -> Connection:
    """Try, each time until a later moment, until there is a connection; raises Retry at the deadline.

    The first ones may be lost: to a guest that still boots, or that was just restored. So little time for them, and
    more for those that follow, or a host under load would give each of them up too early.
    """
    began = time.monotonic()

    def patient() -> Connection | None:
        now = time.monotonic()
        return attempt(min(deadline, now + max(_FIRST_ANSWER, 2 * (now - began))))

    return _retry(patient, deadline)


def vsock(cid: int, token: str | None = None, port: int = AGENT_PORT) -> Connector:
    """Return a connector over the host's own AF_VSOCK (a QEMU guest with /dev/vhost-vsock), for who knows the token."""

    def attempt(deadline: float) -> Connection | None:
        stream = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        stream.settimeout(max(deadline - time.monotonic(), _PAUSE))  # of which the kernel takes 2 s at most
        try:
            stream.connect((cid, port))
        except OSError as error:
            stream.close()
            if error.errno in (errno.EAFNOSUPPORT, errno.EACCES, errno.EPERM):
                raise errors.os_error(error, "cannot use AF_VSOCK") from error
            return None
        return _introduced(stream, token, deadline)

    return lambda deadline: _retry_patiently(attempt, deadline)


def firecracker(path: Path, port: int = AGENT_PORT) -> Connector:
    """Return a connector over Firecracker's vsock socket: `CONNECT port`, answered by `OK`."""

    def attempt(deadline: float) -> Connection | None:
        try:
            connection = Connection(connect_unix(path))
        except OSError:
            return None
        try:
            connection.send(f"CONNECT {port}\n".encode(), deadline)
            if read_line(connection, 64, deadline).startswith(b"OK "):
                return connection
        except errors.Retry:
            pass
        connection.close()  # a port where nobody listens is an end of file
        return None

    return lambda deadline: _retry_patiently(attempt, deadline)


def read_line(connection: Connection, limit: int, deadline: float) -> bytes:
    """Return a line without its newline; raises Retry at the end of the stream, BadInput if it is too long."""
    data = b""
    while b"\n" not in data:
        if len(data) > limit:
            raise errors.BadInput("the guest sends a line that is too long")
        piece = connection.receive(deadline)
        if not piece:
            raise errors.Retry(_GONE)
        data += piece
    line, _, rest = data.partition(b"\n")
    if rest:
        connection.push_back(rest)
    return line


def serial_ports(folder: Path) -> Connector:
    """Return a connector over whichever of a machine's ports `agent.N.sock` is free.

    A port serves one client at a time; `agent.N.lock` beside it says whose turn it is.
    """

    def attempt(deadline: float) -> Connection | None:
        for path in _ports(folder):
            connection = _claim(path)
            if connection is None:
                continue
            try:
                connection.open(deadline)
            except BaseException:
                connection.close()
                raise
            return connection
        return None

    return lambda deadline: _retry(lambda: attempt(deadline), deadline)


def _ports(folder: Path) -> list[Path]:
    numbered = [(re.fullmatch(r"agent\.(\d+)\.sock", path.name), path) for path in folder.glob("agent.*.sock")]
    return [path for _, path in sorted((int(match[1]), path) for match, path in numbered if match)]


def _claim(path: Path) -> SerialConnection | None:
    """Take a port if it is free and there."""
    lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return SerialConnection(connect_unix(path), on_close=lambda: os.close(lock))
    except OSError:  # in use, or the monitor does not listen
        os.close(lock)
        return None
