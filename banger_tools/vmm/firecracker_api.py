"""Firecracker's API: HTTP over a Unix socket, every wait with a deadline."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from banger_tools import errors

SECONDS = 2.0


def ask(path: Path, method: str, target: str, body: object = None) -> Any:
    """Return what Firecracker answers: JSON, or None where it has nothing to say.

    Raises OSError when nobody listens, Retry when no answer comes in time, IOFailure when it refuses.
    """
    from banger_tools.agent import http, transport

    deadline = time.monotonic() + SECONDS
    sent = b"" if body is None else json.dumps(body).encode()
    with transport.Connection(transport.connect_unix(path)) as connection:
        head = http.request(connection, method, target, sent, deadline)
        text = http.read_body(connection, head, deadline) if "content-length" in head.fields else b""
    try:
        answer = json.loads(text) if text else None
    except (ValueError, RecursionError) as error:
        raise errors.IOFailure(f"Firecracker answers '{method} {target}' with what makes no sense") from error
    if head.status >= 300:
        said = answer.get("fault_message") if isinstance(answer, dict) else None
        raise errors.IOFailure(f"Firecracker refused '{method} {target}': {said or f'status {head.status}'}")
    return answer
