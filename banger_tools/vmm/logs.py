"""What a machine wrote: its console, and the messages of its monitor.

A log is one or two files (`recorder`): the one that is written to, and before it the one that became too large.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from banger_tools import console, errors
from banger_tools.store import vms
from banger_tools.vmm import holder, recorder
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
    harmless = _Harmless() if os.isatty(1) else None
    with contextlib.closing(_opened(name, folder / log, wait=follow)) as opened:
        if lines is not None:
            opened.skip(_start_of_last(opened, lines))
        for data in _read(opened, folder, follow=follow):
            sys.stdout.buffer.write(harmless.made(data) if harmless else data)
            sys.stdout.buffer.flush()


class Log:
    """The files of a log as one, from what was not read of it yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.files = self._found()

    def _found(self) -> list[int]:
        """Open the files that are there: first the newer one, which may become the older one meanwhile."""
        files: list[int] = []
        for path in (str(self._path), recorder.older(str(self._path))):
            with contextlib.suppress(FileNotFoundError):
                files.insert(0, os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        if len(files) == 2 and os.path.sameopenfile(*files):
            os.close(files.pop())
        return files

    def close(self) -> None:
        """Close the files."""
        while self.files:
            os.close(self.files.pop())

    @property
    def size(self) -> int:
        """The bytes of all files together."""
        return sum(os.fstat(file).st_size for file in self.files)

    def between(self, start: int, end: int) -> bytes:
        """Return the bytes from one place of the whole to another."""
        data, base = b"", 0
        for file in self.files:
            size = os.fstat(file).st_size
            low, high = max(start, base), min(end, base + size)
            if low < high:
                data += os.pread(file, high - low, low - base)
            base += size
        return data

    def skip(self, amount: int) -> None:
        """Leave out the first bytes of the whole."""
        for file in self.files:
            amount -= os.lseek(file, min(amount, os.fstat(file).st_size), os.SEEK_SET)

    def read(self) -> bytes:
        """Return the next bytes; none if there are none yet."""
        while not (data := os.read(self.files[0], _CHUNK)):
            if len(self.files) > 1:
                os.close(self.files.pop(0))
            elif not self._goes_on():
                break
        return data

    def _goes_on(self) -> bool:
        """Open what comes after the file that we have, and tell whether there is any; its own end may be new, too.

        Who reads more slowly than a machine writes misses what has gone meanwhile.
        """
        found = self._found()
        ours = [os.path.sameopenfile(file, self.files[0]) for file in found]
        seen = len(found) if ours[-1:] == [True] else sum(ours)
        for file in found[:seen]:
            os.close(file)
        self.files += found[seen:]
        return len(self.files) > 1


def _opened(name: str, path: Path, *, wait: bool) -> Log:
    """Open a log; that of a machine that is just being started may not be there yet."""
    while True:
        alive = wait and holder.is_alive(path.parent)
        log = Log(path)
        if log.files:
            return log
        if not alive:
            raise errors.NoInput(f"the VM '{name}' has written no '{path.name}'", f"banger vm start {name}")
        time.sleep(_POLL)


def _read(log: Log, folder: Path, *, follow: bool) -> Iterator[bytes]:
    """Yield what a log has; with `follow` go on until it has no more and the machine is gone."""
    while True:
        alive = follow and holder.is_alive(folder)  # asked before reading: what is written at the end is read, too
        while data := log.read():
            yield data
        if not alive:
            return
        time.sleep(_POLL)


def _start_of_last(log: Log, lines: int) -> int:
    """Return where the last lines of a log begin; a newline at its very end ends the last of them."""
    size = log.size
    position, missing = size, lines + 1
    while position > 0:
        start = max(position - _CHUNK, 0)
        tail = log.between(start, position)
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
