"""The bytes of one thing over HTTP, going on where a connection broke (RFC 9110, section 14: range requests).

Servers may ignore a range, or garble it: what repeats known bytes is dropped, and what leaves a gap is asked for anew.
Who reads the bytes checks their digest; nothing here can.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, NamedTuple

from banger_tools import errors
from banger_tools.oci.http import Busy, Transport, Watch

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

PIECE = 256 << 10


class Body(NamedTuple):
    """Something to be read: `get` sends one request with more headers, for a response of status 200, 206 or 416."""

    transport: Transport
    get: Callable[[Mapping[str, str]], AbstractContextManager[BaseHTTPResponse]]
    host: str
    what: str
    size: int | None


class _WrongRange(Busy):
    """A server that offers ranges garbles them: ask for everything instead."""


def chunks(body: Body, start: int) -> Iterator[bytes]:
    """Yield the bytes from `start` on; without a size, what one whole response holds.

    Raises BadInput if there are more of them than promised, Retry if it breaks again and again without progress.
    """
    position, failures, ranged = start, 0, True
    while body.size is None or position < body.size:
        try:
            for chunk in _once(body, position, ranged=ranged):
                position, failures = position + len(chunk), 0
                yield chunk
            if body.size is None:
                return
            if position < body.size:
                raise Busy("the connection ended early")
        except Busy as busy:
            ranged = not isinstance(busy, _WrongRange)
            body.transport.pause(body.what, busy, failures)
            failures += 1


def _once(body: Body, position: int, *, ranged: bool) -> Iterator[bytes]:
    """Yield what one request gives from `position` on; not `ranged`, all of it is sent again."""
    headers = {"Range": f"bytes={position}-"} if position and ranged else {}
    with body.get(headers) as response:
        skip = _bytes_to_skip(response, position)
        watch = Watch()
        while piece := body.transport.read(response, PIECE, body.host):
            watch.saw(len(piece))
            dropped = min(skip, len(piece))
            skip -= dropped
            piece = piece[dropped:]
            position += len(piece)
            if body.size is not None and position > body.size:
                raise errors.BadInput(f"{body.what} is longer than the {body.size} bytes that it must have")
            if piece:
                yield piece


def _bytes_to_skip(response: BaseHTTPResponse, position: int) -> int:
    """Return how much of a response repeats what is known: servers may ignore a range.

    Raises _WrongRange if the server sends another range than the one asked for.
    """
    if response.status == 416:
        raise _WrongRange("the server has no such range", 0.0)
    if response.status == 200:
        return position
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if match is None or int(match.group(1)) > position:
        raise _WrongRange("the server sends another range than the one asked for", 0.0)
    return position - int(match.group(1))
