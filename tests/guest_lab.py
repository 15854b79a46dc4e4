"""What the tests of the guest program and of its client share: the program, an agent to talk to, a port like QEMU's."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from banger_tools import errors, guest
from banger_tools.agent import transport
from banger_tools.agent.client import Agent
from tests import support

SECONDS = 20.0


def program(arch: str = os.uname().machine) -> Path:
    """Return the guest program for an architecture, this machine's own if none is named."""
    try:
        return guest.program(arch)
    except errors.Unavailable as error:
        support.cannot(error.message)


def command(arch: str = os.uname().machine) -> list[str]:
    """Return the words that run the guest program of an architecture here: a foreign one under QEMU's emulation."""
    path = str(program(arch))
    if arch == os.uname().machine:
        return [path]
    support.need(f"qemu-{arch}")
    return [f"qemu-{arch}", path]


@contextlib.contextmanager
def running(*arguments: str | Path, arch: str = os.uname().machine) -> Iterator[subprocess.Popen[bytes]]:
    """Run the guest program and end it afterwards."""
    process = subprocess.Popen([*command(arch), *arguments], stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(SECONDS)


@contextlib.contextmanager
def listening(folder: Path, arch: str = os.uname().machine) -> Iterator[Path]:
    """Run an agent on a Unix socket in a folder and yield the socket's path."""
    path = folder / "agent.sock"
    with running("agent", "--listen-unix", path, arch=arch):
        Agent(transport.unix(path)).wait_ready(time.monotonic() + SECONDS, lambda: True)
        yield path


class Result(NamedTuple):
    """What a command of the guest left."""

    status: int
    stdout: bytes
    stderr: bytes


def memory(data: bytes = b"") -> int:
    """Return a descriptor of a file in memory, at its beginning."""
    descriptor = os.memfd_create("stream")
    os.write(descriptor, data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def content(descriptor: int) -> bytes:
    """Return all bytes of a file in memory, and close it."""
    with open(descriptor, "rb") as file:
        file.seek(0)
        return file.read()


def execute(agent: Agent, *argv: str, stdin: bytes | None = b"", **options: object) -> Result:
    """Run a command through an agent and collect what it prints."""
    source = None if stdin is None else memory(stdin)
    output, errors_fd = memory(), memory()
    try:
        status = agent.exec(argv, stdin_fd=source, stdout_fd=output, stderr_fd=errors_fd, **options)  # type: ignore[arg-type]
    finally:
        if source is not None:
            os.close(source)
    return Result(status, content(output), content(errors_fd))


class Port:
    """A virtio-serial port as QEMU makes one: the guest's end stays open while clients of the socket come and go.

    Bytes that the guest wrote for one client are given to the next, which is what makes tokens needed.
    """

    def __init__(self, folder: Path, number: int = 0) -> None:
        self.guest_path = folder / f"guest.{number}"
        self._guest_listener = _listener(self.guest_path)
        self._host_listener = _listener(folder / f"agent.{number}.sock")
        self.guest: socket.socket | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the port."""
        self._stop.set()
        self._thread.join()
        for end in (self._guest_listener, self._host_listener, *([self.guest] if self.guest else [])):
            end.close()

    def _serve(self) -> None:
        self._guest_listener.settimeout(SECONDS)
        with contextlib.suppress(TimeoutError):
            self.guest = self._guest_listener.accept()[0]
        while self.guest and not self._stop.is_set():
            if select.select([self._host_listener], [], [], 0.05)[0]:
                with self._host_listener.accept()[0] as host, contextlib.suppress(OSError):
                    self._copy(self.guest, host)

    def _copy(self, guest_end: socket.socket, host: socket.socket) -> None:
        threads = [threading.Thread(target=self._down, args=(host, guest_end), daemon=True)]
        threads[0].start()
        while threads[0].is_alive():
            if select.select([guest_end], [], [], 0.01)[0]:
                data = guest_end.recv(4096)
                if not data:
                    return
                with contextlib.suppress(OSError):
                    host.sendall(data)
        threads[0].join()

    def _down(self, host: socket.socket, guest_end: socket.socket) -> None:
        while not self._stop.is_set():
            if not select.select([host], [], [], 0.05)[0]:
                continue
            try:
                data = host.recv(4096)
            except OSError:
                return
            if not data:
                return
            guest_end.sendall(data)


def _listener(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(8)
    return listener


@contextlib.contextmanager
def port(folder: Path) -> Iterator[Port]:
    """Run an agent that speaks on a port like QEMU's, `agent.0.sock` in the folder."""
    made = Port(folder)
    try:
        with running("agent", "--serial", made.guest_path):
            yield made
    finally:
        made.close()


def until(condition: object, seconds: float = SECONDS) -> bool:
    """Wait until a function returns something true; tell whether it did in time."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False
