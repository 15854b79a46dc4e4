"""A real little HTTP proxy: CONNECT tunnels and absolute URLs (RFC 9110, 9112), with names of its own."""

from __future__ import annotations

import base64
import contextlib
import select
import socket
import socketserver
import threading
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlsplit


class Running(NamedTuple):
    """A proxy that runs: its port, and the first lines of what it was asked, with the user who asked."""

    port: int
    asked: list[tuple[str, str]]


class _Handler(socketserver.StreamRequestHandler):
    """Serves one connection."""

    def handle(self) -> None:
        line = self.rfile.readline().decode()
        headers = list(iter(self.rfile.readline, b"\r\n"))
        self.server.asked.append((line.strip(), _user(headers)))  # type: ignore[attr-defined]
        method, target, version = line.split()
        names: dict[str, tuple[str, int]] = self.server.names  # type: ignore[attr-defined]
        parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
        address = names.get(parts.netloc)
        if address is None:
            self.wfile.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        with socket.create_connection(address) as other:
            if method == "CONNECT":
                self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                kept = [header for header in headers if not header.lower().startswith((b"proxy-", b"connection"))]
                path = parts.path + (f"?{parts.query}" if parts.query else "")
                head = f"{method} {path} {version}\r\nConnection: close\r\n".encode()
                other.sendall(head + b"".join(kept) + b"\r\n")
            _join(self.connection, other)


def _user(headers: list[bytes]) -> str:
    for header in headers:
        if header.lower().startswith(b"proxy-authorization: basic "):
            return base64.b64decode(header.split()[2]).decode()
    return ""


def _join(one: socket.socket, other: socket.socket) -> None:
    """Pass bytes both ways until either side ends."""
    with contextlib.suppress(OSError):
        while True:
            for ready in select.select([one, other], [], [], 30)[0]:
                data = ready.recv(65536)
                if not data:
                    return
                (other if ready is one else one).sendall(data)


@contextlib.contextmanager
def running(names: dict[str, tuple[str, int]]) -> Iterator[Running]:
    """Run a proxy that knows these hosts (`name` or `name:port`), and where they are."""
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.names, server.asked = names, []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield Running(server.server_address[1], server.asked)  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
