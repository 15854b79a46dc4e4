"""What the status of a registry's answer means, and what it says of it (distribution specification, error codes)."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

from banger_tools import errors
from banger_tools.oci.failures import Busy
from banger_tools.oci.http import retry_after

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

BYTES = 64 << 10
"""What is read of an error document."""

_PASSING = (408, 425, 429, 500, 502, 503, 504)


def of_status(
    response: BaseHTTPResponse,
    body: bytes,
    host: str,
    subject: str,
    hint: str | None = None,
    *,
    is_registry: bool = True,
) -> Exception:
    """Return the error that a status stands for; Busy if time may cure it. The `hint` is for one who is refused.

    Not `is_registry`: nothing that it said yet tells that this is a registry, or somewhere that one sent us to.
    """
    said = _message(body)
    detail = f": {said}" if said else ""
    answer = f"'{host}' answers {response.status} {response.reason or ''}".rstrip()
    if response.status in _PASSING:
        return Busy(answer, retry_after(response.headers.get("Retry-After")))
    match response.status:
        case 401 | 403:
            return errors.Denied(f"'{host}' does not let us have '{subject}'{detail}", hint)
        case 404 if not is_registry and said is None and "Docker-Distribution-Api-Version" not in response.headers:
            return errors.Unavailable(f"'{host}' is no registry: it knows nothing of /v2/")
        case 404:
            return errors.NoInput(f"'{subject}' does not exist: {said or answer}")
    return errors.Unavailable(f"{answer}{detail}")


def _message(body: bytes) -> str | None:
    """Return what a registry says in its error document; None if this is no such document."""
    with contextlib.suppress(ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        first = json.loads(body)["errors"][0]
        return str(first.get("message") or first.get("code"))[:200].lower()
    return None
