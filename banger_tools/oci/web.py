"""Plain files behind URLs: redirects are followed, no credentials are ever sent, and plain HTTP wants to be allowed."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from banger_tools import errors
from banger_tools.oci import hosts
from banger_tools.oci.cancel import Cancel
from banger_tools.oci.http import Busy, NotTls, Settings, Transport, is_loopback, retry_after

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

_ANSWERS = (200, 206, 304, 416)
_LATER = (408, 429, 500, 502, 503, 504)


@contextlib.contextmanager
def opened(url: str, settings: Settings, cancel: Cancel) -> Iterator[Transport]:
    """Give the connections to the host of a URL; they are closed at the end."""
    transport = Transport(urlsplit(url).netloc, settings, cancel)
    try:
        yield transport
    finally:
        transport.close()


@contextlib.contextmanager
def get(
    transport: Transport, url: str, headers: Mapping[str, str], *, source: str | None = None
) -> Iterator[BaseHTTPResponse]:
    """Yield the answer to a request for a file: of status 200, 206, 304 or 416.

    `source` is the host that named the URL, None for the user. Raises Busy, NoInput, Denied, Unavailable.
    """
    encrypted = functools.partial(_check_scheme, settings=transport.settings)
    try:
        with transport.follow(url, headers, source=source, check=encrypted) as (response, _, _):
            if response.status not in _ANSWERS:
                raise _status_error(response, url)
            yield response
    except NotTls as error:
        raise errors.Unavailable(str(error)) from error


def _check_scheme(url: str, settings: Settings) -> None:
    """Raise Denied for a URL that others could read or change on its way, unless its host is allowed to."""
    host = hosts.of_url(url)
    if urlsplit(url).scheme == "https" or is_loopback(host) or settings.allows(url):
        return
    hint = f"use https, or allow it: --plain-http={host}, or plain-http = true in config.toml"
    raise errors.Denied(f"'{url}' is not encrypted", hint)


def _status_error(response: BaseHTTPResponse, url: str) -> Exception:
    """Return the error that a status stands for."""
    status = f"{response.status} {response.reason or ''}".strip()
    host = urlsplit(url).netloc
    match response.status:
        case 404 | 410:
            return errors.NoInput(f"'{url}' does not exist: '{host}' answers {status}")
        case 401 | 403:
            return errors.Denied(f"'{host}' does not let us have '{url}': it answers {status}")
        case number if number in _LATER:
            return Busy(f"'{host}' answers {status}", retry_after(response.headers.get("Retry-After")))
    return errors.Unavailable(f"'{host}' answers {status} for '{url}'")
