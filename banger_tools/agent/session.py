"""One command of the guest: frames between its connection and our own descriptors."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import stat
import struct
from typing import NamedTuple

from banger_tools import errors
from banger_tools.agent import terminal
from banger_tools.agent.transport import Connection

STDIN, STDOUT, STDERR, EXIT, SIGNAL, WINSIZE, TAKEN = range(7)
HEAD = struct.Struct(">B3sI")
FRAME_LIMIT = 65536
STDIN_WINDOW = 256 << 10  # what may be under way: beyond it the guest could not hear a signal behind it
_READ_SIZE = 32 << 10
_SAFE_WRITE = select.PIPE_BUF  # what a pipe that polls as writable takes without blocking
_PATIENCE = 3  # so many interrupts that the guest does not act on end us


class Frame(NamedTuple):
    """A frame of the exec protocol."""

    kind: int
    payload: bytes


class Frames:
    """Takes a stream apart into frames."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Take bytes and return the frames that are whole.

        Raises BadInput for a frame that no agent sends.
        """
        self._data += data
        frames = []
        while len(self._data) >= HEAD.size:
            kind, zeros, length = HEAD.unpack_from(self._data)
            if length > FRAME_LIMIT or any(zeros):
                raise errors.BadInput("the guest's agent sends a frame that makes no sense")
            if len(self._data) < HEAD.size + length:
                break
            frames.append(Frame(kind, bytes(self._data[HEAD.size : HEAD.size + length])))
            del self._data[: HEAD.size + length]
        return frames


class Session:
    """A running command: `run` copies both ways until its status is known."""

    def __init__(
        self,
        connection: Connection,
        caught: terminal.Caught,
        stdin_fd: int | None,
        stdout_fd: int,
        stderr_fd: int,
        *,
        terminal_fd: int | None,
    ) -> None:
        self._connection = connection
        self._caught = caught
        self._stdin = stdin_fd
        self._outputs = {STDOUT: stdout_fd, STDERR: stderr_fd}
        self._terminal = terminal_fd
        self._frames = Frames()
        self._waiting: list[tuple[int, bytes]] = []  # (descriptor, bytes) not written yet, in order
        self._under_way = 0
        self._interrupts = 0
        self._status: int | None = None

    def run(self) -> int:
        """Copy until the command has ended and all its output is written; return its status."""
        self._read_guest()  # frames may have come together with the answer, and no poll tells of these
        while self._status is None or self._waiting:
            ready = self._poll()
            if self._caught.fileno() in ready:
                self._pass_signals()
            if self._waiting:
                if self._waiting[0][0] in ready:
                    self._write_output()
            elif self._connection.fileno() in ready:
                self._read_guest()
            if self._stdin is not None and self._stdin in ready:
                self._read_stdin()
            if self._status is None:
                self._send()
        return self._status

    def _send(self) -> None:
        """Send what the guest takes; if it takes no more, its last words may still be on their way to us."""
        try:
            self._connection.flush()
        except errors.Retry:
            self._connection.discard()
            self._stdin = None

    def _poll(self) -> set[int]:
        """Wait for whatever can go on; a guest whose output we cannot write is not read from."""
        poll = select.poll()
        wanted = {self._caught.fileno(): select.POLLIN}
        if self._status is None:
            events = 0 if self._waiting else select.POLLIN
            wanted[self._connection.fileno()] = events | (select.POLLOUT if self._connection.pending else 0)
            if self._stdin is not None and self._under_way < STDIN_WINDOW and not self._connection.pending:
                wanted[self._stdin] = select.POLLIN
        if self._waiting:
            wanted[self._waiting[0][0]] = wanted.get(self._waiting[0][0], 0) | select.POLLOUT
        for descriptor, events in wanted.items():
            if events or descriptor != self._connection.fileno():
                poll.register(descriptor, events)
        return {descriptor for descriptor, _ in poll.poll()}

    def _put(self, kind: int, payload: bytes) -> None:
        self._connection.put(HEAD.pack(kind, b"\0\0\0", len(payload)) + payload)

    def _pass_signals(self) -> None:
        for number in self._caught.take():
            if number == signal.SIGWINCH:
                if self._terminal is not None:
                    self._put(WINSIZE, struct.pack(">HH", *terminal.size(self._terminal)))
            elif number in terminal.PASSED_ON:
                self._interrupts += number == signal.SIGINT
                if self._interrupts > _PATIENCE:
                    raise KeyboardInterrupt
                self._put(SIGNAL, bytes([number]))

    def _read_stdin(self) -> None:
        assert self._stdin is not None
        try:
            data = os.read(self._stdin, min(_READ_SIZE, STDIN_WINDOW - self._under_way))
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EBADF):  # a terminal that hung up, a closed descriptor: the end
                raise errors.os_error(error, "cannot read the standard input") from error
            data = b""
        self._put(STDIN, data)
        self._under_way += len(data)
        if not data:
            self._stdin = None

    def _read_guest(self) -> None:
        data = self._connection.take()
        if data is None:
            return
        if not data:
            raise errors.Retry("the guest went away before the command's status was known")
        for frame in self._frames.feed(data):
            self._handle(frame)

    def _handle(self, frame: Frame) -> None:
        if frame.kind in self._outputs and frame.payload:
            self._waiting.append((self._outputs[frame.kind], frame.payload))
        elif frame.kind == TAKEN and len(frame.payload) == 4:
            self._under_way = max(self._under_way - int.from_bytes(frame.payload, "big"), 0)
        elif frame.kind == EXIT:
            self._status = _status(frame.payload)

    def _write_output(self) -> None:
        descriptor, data = self._waiting[0]
        size = len(data) if stat.S_ISREG(os.fstat(descriptor).st_mode) else _SAFE_WRITE
        written = 0
        with contextlib.suppress(BlockingIOError):
            written = os.write(descriptor, data[:size])
        if written == len(data):
            self._waiting.pop(0)
        else:
            self._waiting[0] = (descriptor, data[written:])


def _status(payload: bytes) -> int:
    with contextlib.suppress(ValueError, RecursionError, AttributeError):
        status = json.loads(payload).get("status")
        if isinstance(status, int) and 0 <= status <= 255:
            return status
    raise errors.BadInput("the guest's agent sends a status that makes no sense")
