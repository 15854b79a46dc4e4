"""Our own terminal and signals while a command of the guest has them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import termios
import threading
import tty
from collections.abc import Iterator

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def size(descriptor: int) -> tuple[int, int]:
    """Return the rows and columns of a terminal; 24 × 80 if it does not tell."""
    with contextlib.suppress(OSError):
        found = os.get_terminal_size(descriptor)
        return found.lines, found.columns
    return 24, 80


@contextlib.contextmanager
def raw(descriptor: int | None) -> Iterator[None]:
    """Hand every key on as it is, if the descriptor is a terminal; afterwards it is as it was."""
    if descriptor is None or not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor, termios.TCSADRAIN)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


class Caught:
    """The signals that arrived; its descriptor becomes readable with each."""

    def __init__(self, reader: socket.socket) -> None:
        self._reader = reader

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._reader.fileno()

    def take(self) -> list[int]:
        """Return the numbers that arrived since the last call, in order."""
        with contextlib.suppress(BlockingIOError):
            return list(self._reader.recv(256))
        return []


@contextlib.contextmanager
def signals(*, resize: bool) -> Iterator[Caught]:
    """Collect the signals that are to be passed on, instead of dying of them; `resize` adds SIGWINCH.

    Outside the main thread, where Python can set no handlers, nothing is caught.
    """
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        if threading.current_thread() is not threading.main_thread():
            yield Caught(reader)
            return
        numbers = (*PASSED_ON, signal.SIGWINCH) if resize else PASSED_ON
        before = {number: signal.signal(number, lambda *_: None) for number in numbers}
        wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            yield Caught(reader)
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
