"""What a machine wrote: its console, and the messages of its monitor."""

from __future__ import annotations

import codecs
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from banger_tools import console, errors
from banger_tools.store import vms
from banger_tools.vmm import holder
from banger_tools.vmm import spec as specs

CONSOLE, MONITOR = specs.CONSOLE, holder.LOG
_CHUNK = 1 << 16
_POLL = 0.1


def show(name: str, log: str, *, follow: bool, lines: int | None = None) -> None:
    """Write a log of a machine to stdout, its last `lines` only if that is given; `follow` it until the machine ends.

    On a terminal, what could drive it is escaped; elsewhere the bytes are as they were written. Raises NoInput if the
    machine was never started.
    """
    vms.load(name)
    folder = vms.folder(name)
    descriptor = _open(name, folder / log, wait=follow)
    harmless = _Harmless() if os.isatty(1) else None
    try:
        if lines is not None:
            os.lseek(descriptor, _start_of_last(descriptor, lines), os.SEEK_SET)
        for data in _read(descriptor, folder, follow=follow):
            sys.stdout.buffer.write(harmless.made(data) if harmless else data)
            sys.stdout.buffer.flush()
    finally:
        os.close(descriptor)


def _open(name: str, path: Path, *, wait: bool) -> int:
    """Open a log; one of a machine that has just been started appears with its first byte."""
    while True:
        alive = wait and holder.is_alive(path.parent)
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            if not alive:
                raise errors.NoInput(
                    f"the VM '{name}' has written no '{path.name}'", f"banger vm start {name}"
                ) from error
        time.sleep(_POLL)


def _read(descriptor: int, folder: Path, *, follow: bool) -> Iterator[bytes]:
    """Yield what a log has; with `follow` go on until it has no more and the machine is gone."""
    while True:
        alive = follow and holder.is_alive(folder)  # asked before reading: what is written at the end is read, too
        while data := os.read(descriptor, _CHUNK):
            yield data
        if not alive:
            return
        time.sleep(_POLL)


def _start_of_last(descriptor: int, lines: int) -> int:
    """Return where the last lines of a file begin; a newline at its very end ends the last of them."""
    size = os.fstat(descriptor).st_size
    position, tail, missing = size, b"", lines + 1
    while position > 0:
        start = max(position - _CHUNK, 0)
        tail = os.pread(descriptor, position - start, start)
        if position == size and tail[-1:] != b"\n":
            missing -= 1
        if tail.count(b"\n") >= missing:
            return start + _after_newline(tail, missing)
        missing -= tail.count(b"\n")
        position = start
    return 0


def _after_newline(data: bytes, number: int) -> int:
    """Return the place after the newline that is the `number`-th from the end."""
    place = len(data)
    for _ in range(number):
        place = data.rindex(b"\n", 0, place)
    return place + 1


class _Harmless:
    """Turns what a guest wrote into text that cannot drive a terminal."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def made(self, data: bytes) -> bytes:
        """Return the next piece of text; a carriage return at a line's end is no control of ours."""
        text = self._decoder.decode(data).replace("\r", "")
        return "\n".join(console.printable(line.replace("\t", "    ")) for line in text.split("\n")).encode()
