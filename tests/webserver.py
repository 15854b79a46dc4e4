"""A small HTTP server on loopback for tests: files out of memory, with ranges and ETags, and faults on request."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import re
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Site(NamedTuple):
    """A server that runs: its address, its files by path, and every request that it saw as (path, headers)."""

    host: str
    files: dict[str, bytes]
    seen: list[tuple[str, dict[str, str]]]

    def url(self, path: str) -> str:
        """Return the URL of a file."""
        return f"http://{self.host}/{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers for one site; `meddle` may answer itself, and then returns True."""

    protocol_version = "HTTP/1.1"
    files: dict[str, bytes]
    seen: list[tuple[str, dict[str, str]]]
    meddle: Callable[[Handler], bool] = staticmethod(lambda _handler: False)

    def do_GET(self) -> None:
        self.seen.append((self.path, {key.lower(): value for key, value in self.headers.items()}))
        if type(self).meddle(self):
            return
        data = self.files.get(self.path.lstrip("/"))
        if data is None:
            self.answer(404, b"nothing here")
            return
        etag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        if self.headers.get("If-None-Match") == etag:
            self.answer(304, b"", ETag=etag)
            return
        start = self.start()
        if start is None:
            self.answer(200, data, ETag=etag)
        elif start >= len(data):
            self.answer(416, b"", **{"Content-Range": f"bytes */{len(data)}"})
        else:
            extent = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self.answer(206, data[start:], ETag=etag, **{"Content-Range": extent})

    def start(self) -> int | None:
        """Return where the range that is asked for begins."""
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        return int(match[1]) if match else None

    def answer(self, status: int, body: bytes, *, sent: int | None = None, **headers: str) -> None:
        """Send an answer, only the first `sent` bytes of it if that is given."""
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if status != 304:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body[:sent])
        if sent is not None:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serve(meddle: Callable[[Handler], bool] = lambda _handler: False) -> Iterator[Site]:
    """Run a server."""
    files: dict[str, bytes] = {}
    seen: list[tuple[str, dict[str, str]]] = []
    kind = type("Own", (Handler,), {"files": files, "seen": seen, "meddle": staticmethod(meddle)})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield Site(f"127.0.0.1:{server.server_address[1]}", files, seen)
    finally:
        server.shutdown()
        server.server_close()
