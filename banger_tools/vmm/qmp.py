"""QEMU's machine protocol: JSON lines over a Unix socket, every wait with a deadline."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from banger_tools import errors

_LIMIT = 1 << 20


@contextlib.contextmanager
def short_folder(folder: Path) -> Iterator[Path]:
    """Yield a path to a folder that is short enough for a socket's 108 bytes, however deep the folder is."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


class Connection:
    """One conversation with QEMU."""

    def __init__(self, path: Path, deadline: float) -> None:
        self.deadline = deadline
        self.buffer = b""
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.socket.settimeout(self._left())
            with short_folder(path.parent) as folder:
                self.socket.connect(str(folder / path.name))
            self._line()  # the greeting
            self.execute("qmp_capabilities")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the conversation."""
        self.socket.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run a command and return its answer; events that arrive meanwhile are passed over.

        Raises Retry when QEMU does not answer in time, IOFailure when it refuses.
        """
        request = {"execute": command, **({"arguments": arguments} if arguments else {})}
        self.socket.settimeout(self._left())
        self.socket.sendall(json.dumps(request).encode() + b"\n")
        while True:
            answer = self._answer()
            if "return" in answer:
                return answer["return"]
            if isinstance(found := answer.get("error"), dict):
                raise errors.IOFailure(f"QEMU refused '{command}': {found.get('desc')}")

    def _answer(self) -> dict[str, Any]:
        """Return the next object; raises ConnectionError for what is none: a guest may have taken QEMU over."""
        with contextlib.suppress(ValueError, RecursionError):
            if isinstance(answer := json.loads(self._line()), dict):
                return answer
        raise ConnectionError("QEMU answers what makes no sense")

    def _line(self) -> bytes:
        while b"\n" not in self.buffer:
            self.socket.settimeout(self._left())
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionResetError("QEMU ended the conversation")
            self.buffer += data
            if len(self.buffer) > _LIMIT:
                raise errors.BadInput("QEMU answered with a line without end")
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line

    def _left(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("QEMU did not answer in time")
        return left
