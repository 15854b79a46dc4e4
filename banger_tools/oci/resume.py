"""The bytes of one thing over HTTP, going on where a connection broke (RFC 9110, section 14: range requests).

Servers may ignore a range, or garble it: what repeats known bytes is dropped, and what leaves a gap is asked for anew.
Who reads the bytes checks their digest; nothing here can.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from banger_tools.oci import digest as digests
from banger_tools.oci.failures import Busy
from banger_tools.oci.http import ATTEMPTS, Transport

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

PIECE = 256 << 10
PROGRESS = 4096
"""Bytes that a connection must have brought to count as progress: attempts are counted without it."""


class Body(NamedTuple):
    """Something to be read: `get` sends one request with more headers, for a response of status 200, 206 or 416."""

    transport: Transport
    get: Callable[[Mapping[str, str]], AbstractContextManager[BaseHTTPResponse]]
    host: str
    what: str
    size: int | None
    attempts: int = ATTEMPTS


class WrongSize(digests.Mismatch):
    """What a server has is of another size than it must be."""


class _WrongRange(Busy):
    """A server that offers ranges garbles them: ask for everything instead."""


def kept(part: Path, size: int | None, rest: Callable[[int], Iterator[bytes]]) -> Iterator[bytes]:
    """Yield what a partial file holds, then the rest from its source, which is added to the file.

    A file that is longer than the `size` of the whole is begun anew.
    """
    with open(part, "r+b", buffering=0) as file:
        if size is not None and os.fstat(file.fileno()).st_size > size:
            file.truncate(0)
        while chunk := file.read(PIECE):
            yield chunk
        for chunk in rest(file.tell()):
            write_all(file, chunk)
            yield chunk


def write_all(file: IO[bytes], data: bytes) -> None:
    """Write to an unbuffered file, which may take less than it is given."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def chunks(body: Body, start: int, *, ranged: bool = True) -> Iterator[bytes]:
    """Yield the bytes from `start` on; without a size, what one whole response holds.

    Raises WrongSize if the server has more or fewer of them than promised, Retry if it breaks again and again
    without progress.
    """
    position, failures, reached = start, 0, start
    while body.size is None or position < body.size:
        try:
            for chunk in _once(body, position, ranged=ranged):
                position += len(chunk)
                yield chunk
            if body.size is None:
                return
            if position < body.size:
                raise Busy("the connection ended early")
        except Busy as busy:
            if position - reached >= PROGRESS:
                failures, reached = 0, position
            ranged = ranged and not isinstance(busy, _WrongRange)
            body.transport.pause(body.what, busy, failures, body.attempts)
            failures += 1


def _once(body: Body, position: int, *, ranged: bool) -> Iterator[bytes]:
    """Yield what one request gives from `position` on; not `ranged`, all of it is sent again."""
    headers = {"Range": f"bytes={position}-"} if position and ranged else {}
    with body.get(headers) as response:
        _check_total(body, response)
        skip = _bytes_to_skip(response, position)
        watch = body.transport.watch()
        while body.size is None or position < body.size:
            piece = body.transport.read(response, PIECE, body.host)
            if not piece:
                return
            watch.saw(len(piece))
            dropped = min(skip, len(piece))
            skip -= dropped
            piece = piece[dropped:]
            position += len(piece)
            if body.size is not None and position > body.size:
                raise WrongSize(f"{body.what} is longer than the {body.size} bytes that it must have")
            if piece:
                yield piece


def _check_total(body: Body, response: BaseHTTPResponse) -> None:
    """Raise WrongSize if the server says that what it has is of another size: no number of attempts changes that.

    A body that is announced shorter than it must be is left to the attempts: a proxy may have cut it.
    """
    if body.size is None:
        return
    if response.status == 200 and (response.length_remaining or 0) > body.size:
        raise WrongSize(f"{body.what} is longer than the {body.size} bytes that it must have")
    total = re.search(r"/(\d{1,19})$", response.headers.get("Content-Range", ""))
    if response.status in (206, 416) and total is not None and int(total[1]) != body.size:
        raise WrongSize(f"{body.what} must have {body.size} bytes, and '{body.host}' has {int(total[1])}")


def _bytes_to_skip(response: BaseHTTPResponse, position: int) -> int:
    """Return how much of a response repeats what is known: servers may ignore a range.

    Raises _WrongRange if the server sends another range than the one asked for.
    """
    if response.status == 416:
        raise _WrongRange("the server has no such range", 0.0)
    if response.status == 200:
        return position
    match = re.match(r"bytes (\d{1,19})-", response.headers.get("Content-Range", ""))
    if match is None or int(match.group(1)) > position:
        raise _WrongRange("the server sends another range than the one asked for", 0.0)
    return position - int(match.group(1))
