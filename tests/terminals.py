"""A real terminal for a program: what a user types, what is on the screen, and how the terminal is set."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from types import TracebackType

from tests import support

SECONDS = 300.0  # for a machine to boot on a host that does much else


class Terminal:
    """A pseudo-terminal, and the program that runs on it."""

    def __init__(self, rows: int = 24, columns: int = 80) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(rows, columns)
        self.before = termios.tcgetattr(self.slave)
        self.screen = b""
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start one of the programs with this terminal as its own."""
        argv = support.argv(program, *arguments)
        own = ["setsid", "--ctty", *argv]
        self.process = subprocess.Popen(
            own,
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env=support.environment({"TERM": "vt220"}),
        )
        return self.process

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: bytes) -> None:
        os.write(self.master, text)

    def wait_for(self, text: bytes) -> bytes:
        """Return what was on the screen since the last call, up to and with a text."""
        deadline = time.monotonic() + SECONDS
        while text not in self.screen:
            assert time.monotonic() < deadline, self.screen
            self._read(1.0)
        shown, found, self.screen = self.screen.partition(text)
        return shown + found

    def wait_ended(self) -> int:
        """Return the status of the program; what it printed meanwhile is on the screen."""
        assert self.process is not None
        deadline = time.monotonic() + SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.screen
            self._read(0.1)
        while self._read(0.0):
            pass
        return self.process.returncode

    def _read(self, patience: float) -> bool:
        if not select.select([self.master], [], [], patience)[0]:
            return False
        self.screen += os.read(self.master, 65536)
        return True

    @property
    def is_raw(self) -> bool:
        """Whether keys go through as they are."""
        return not termios.tcgetattr(self.slave)[3] & (termios.ICANON | termios.ISIG)

    @property
    def is_as_before(self) -> bool:
        return termios.tcgetattr(self.slave) == self.before

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)
