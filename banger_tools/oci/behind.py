"""A thread that does one thing with each of many pieces, behind the back of the one that makes them.

Inflating, hashing and writing all leave the interpreter to others, so a layer takes the time of the slowest and not
of their sum.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

PENDING = 8  # pieces that may wait: the bound on memory


class Behind:
    """Calls `work` with every piece, in order, in a thread of its own; an error of it comes up in the next call."""

    def __init__(self, work: Callable[[bytes], object]) -> None:
        self._work = work
        self._pieces: queue.Queue[bytes | None] = queue.Queue(PENDING)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, piece: bytes) -> None:
        """Hand over the next piece; waits while too many are pending."""
        self._raise()
        self._pieces.put(piece)

    def finish(self) -> None:
        """Wait until everything is done."""
        self.abandon()
        self._raise()

    def abandon(self) -> None:
        """End the thread, whatever became of its work."""
        self._pieces.put(None)
        self._thread.join()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (piece := self._pieces.get()) is not None:
            if self._error is None:  # after an error only drain, or the other side would wait for ever
                try:
                    self._work(piece)
                except BaseException as error:
                    self._error = error
