"""The program that writes down what a monitor says: a guest may print for ever, and fills no disk by that.

    python -I -S recorder.py SOURCE:FILE:LIMIT:NAME...

SOURCE is a pipe's descriptor, FILE that of NAME, a log in the current folder. Once that has LIMIT bytes it becomes
NAME.1, and a new one begins: what stays is the end, of LIMIT bytes to twice as many. It imports nothing of banger: a
program of its own for each machine, it has to be small. It ends when the last writer of its blocking sources has gone,
which is the monitor; the named pipes among them do not block, and may never have had a writer.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time

LIMITS = {"console.log": 16 << 20}
_LIMIT = 1 << 20  # of all others
_CHUNK = 1 << 16  # what a pipe holds
# Monitors write letter by letter, and to wake up for each would cost more than what they do. It is a bound, too: the
# disk gets a chunk of each log in this time at most, which is 13 MB a second.
_PAUSE = 0.005


def older(path: str) -> str:
    """Return where the part of a log is that came before."""
    return f"{path}.1"


def argument(source: int, file: int, name: str) -> str:
    """Return the word that has the program write down a source."""
    return f"{source}:{file}:{LIMITS.get(name, _LIMIT)}:{name}"


class Log:
    """A log that is written down from a source."""

    def __init__(self, text: str) -> None:
        source, file, limit, self._name = text.split(":", 3)
        self.source, self._file, self._limit = int(source), int(file), int(limit)
        self._size = 0
        self.is_lasting = os.get_blocking(self.source)

    def take(self) -> bool:
        """Write down what a source has now; tell whether more may come."""
        try:
            data = os.read(self.source, _CHUNK)
        except BlockingIOError:
            return True
        with contextlib.suppress(OSError):  # a full disk: what is said meanwhile is lost, and the monitor goes on
            self._write(data)
        return bool(data)

    def _write(self, data: bytes) -> None:
        if self._size + len(data) > self._limit:
            with contextlib.suppress(FileNotFoundError):  # as when the disk was too full for the new one the last time
                os.replace(self._name, older(self._name))
            file = os.open(self._name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
            os.close(self._file)
            self._file, self._size = file, 0
        self._size += os.write(self._file, data)


def record(logs: list[Log]) -> None:
    """Write down all sources until those have ended that last."""
    waiting = {log.source: log for log in logs}
    poll = select.poll()
    for source in waiting:
        poll.register(source, select.POLLIN)
    while any(log.is_lasting for log in waiting.values()):
        ready = poll.poll()
        time.sleep(_PAUSE)
        for source, _ in ready:
            if not waiting[source].take():
                poll.unregister(source)
                del waiting[source]
    for log in waiting.values():  # what the monitor said last, of which a named pipe holds no more than a chunk
        log.take()


if __name__ == "__main__":
    record([Log(text) for text in sys.argv[1:]])
