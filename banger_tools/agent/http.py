"""HTTP/1.1 as a client of a server that may lie: bounded heads, bodies and chunks."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from banger_tools import errors
from banger_tools.agent.transport import Connection, read_line

HEAD_LIMIT = 16 << 10
LINE_LIMIT = 8 << 10
BODY_LIMIT = 4 << 20
CHUNK_LIMIT = 16 << 20
_NO_HTTP = "the guest's agent does not speak HTTP"


class Head(NamedTuple):
    """The status and the fields of a response, names in lower case."""

    status: int
    fields: dict[str, str]


def request(connection: Connection, method: str, target: str, body: bytes, deadline: float) -> Head:
    """Send a request with a body of known length and return the head of the response."""
    head = f"{method} {target} HTTP/1.1\r\nHost: guest\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.send(head.encode() + body, deadline)
    return read_head(connection, deadline)


def upload(connection: Connection, method: str, target: str, pieces: Iterable[bytes], patience: float) -> Head:
    """Send a request with a body in chunks; each must be taken within `patience` seconds."""
    head = f"{method} {target} HTTP/1.1\r\nHost: guest\r\nTransfer-Encoding: chunked\r\n\r\n"
    connection.send(head.encode(), time.monotonic() + patience)
    for piece in pieces:
        if piece:
            connection.send(b"%x\r\n%b\r\n" % (len(piece), piece), time.monotonic() + patience)
    connection.send(b"0\r\n\r\n", time.monotonic() + patience)
    return read_head(connection, time.monotonic() + patience)


def read_head(connection: Connection, deadline: float) -> Head:
    """Read the head of a response.

    Raises BadInput if it is none, or too large.
    """
    match = re.fullmatch(rb"HTTP/1\.1 (\d{3})( .*)?\r?", read_line(connection, LINE_LIMIT, deadline), re.DOTALL)
    if not match:
        raise errors.BadInput(_NO_HTTP)
    fields: dict[str, str] = {}
    size = 0
    while line := read_line(connection, LINE_LIMIT, deadline).rstrip(b"\r"):
        size += len(line)
        name, colon, value = line.partition(b":")
        if size > HEAD_LIMIT or not colon:
            raise errors.BadInput(_NO_HTTP)
        fields[name.decode("latin-1").lower()] = value.strip().decode("latin-1")
    return Head(int(match[1]), fields)


def read_body(connection: Connection, head: Head, deadline: float) -> bytes:
    """Read the body of a response of known length.

    Raises BadInput if it is too large or ends early.
    """
    text = head.fields.get("content-length", "")
    if not re.fullmatch(r"\d{1,9}", text) or int(text) > BODY_LIMIT:
        raise errors.BadInput("the guest's agent sends an answer without a sensible length")
    return b"".join(_exactly(connection, int(text), deadline))


def _exactly(connection: Connection, length: int, deadline: float) -> Iterator[bytes]:
    while length > 0:
        data = connection.receive(deadline)
        if not data:
            raise errors.BadInput("the guest's agent ended in the middle of an answer")
        if len(data) > length:
            connection.push_back(data[length:])
            data = data[:length]
        length -= len(data)
        yield data


def read_chunks(connection: Connection, patience: float) -> Iterator[bytes]:
    """Yield the body of a chunked response; each piece must come within `patience` seconds.

    Raises BadInput if the framing is wrong, Retry if the stream ends early.
    """
    while size := _chunk_size(connection, time.monotonic() + patience):
        left = size
        while left > 0:
            piece = next(_exactly(connection, left, time.monotonic() + patience))
            left -= len(piece)
            yield piece
        if read_line(connection, 2, time.monotonic() + patience) != b"\r":
            raise errors.BadInput(_NO_HTTP)
    trailers = 0
    while (line := read_line(connection, LINE_LIMIT, time.monotonic() + patience)) != b"\r":
        trailers += len(line) + 1
        if trailers > HEAD_LIMIT:
            raise errors.BadInput(_NO_HTTP)


def _chunk_size(connection: Connection, deadline: float) -> int:
    line = read_line(connection, 256, deadline)
    match = re.fullmatch(rb"([0-9A-Fa-f]{1,8})(;.*)?\r", line)
    if not match or int(match[1], 16) > CHUNK_LIMIT:
        raise errors.BadInput(_NO_HTTP)
    return int(match[1], 16)
