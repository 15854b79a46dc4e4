"""A thread that works on many pieces, in their order, behind the back of the one that makes them.

Inflating, hashing and writing all leave the interpreter to others, so a layer takes the time of the slowest and not
of their sum. Pieces go there many at once: waking the other thread costs more than to hash a small one.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Self

BATCH = 1 << 20  # bytes that are gathered before the thread is woken
PENDING = 4  # batches that may wait: the bound on memory

Act = Callable[[bytes], object]
Batch = list[tuple[Act, bytes]]


class Behind:
    """Does in a thread of its own what it is given, one thing after the other; an error comes up in the next call.

    As a context, it waits at the end until everything is done; on an error of the body it only ends the thread.
    """

    def __init__(self) -> None:
        self._batches: queue.Queue[Batch | threading.Event | None] = queue.Queue(PENDING)
        self._gathered: Batch = []
        self._size = 0
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._hand_over()
        self._batches.put(None)
        self._thread.join()
        if kind is None:
            self._raise()

    def put(self, act: Act, piece: bytes) -> None:
        """Have `act(piece)` done; waits while too many are pending."""
        self._raise()
        self._gathered.append((act, piece))
        self._size += len(piece)
        if self._size >= BATCH:
            self._hand_over()

    def settle(self) -> None:
        """Wait until everything is done that was put so far."""
        self._hand_over()
        done = threading.Event()
        self._batches.put(done)
        done.wait()
        self._raise()

    def _hand_over(self) -> None:
        if not self._gathered:
            return
        self._batches.put(self._gathered)
        self._gathered, self._size = [], 0

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            if isinstance(batch, threading.Event):
                batch.set()
            elif self._error is None:  # after an error only drain, or the other side would wait for ever
                try:
                    for act, piece in batch:
                        act(piece)
                except BaseException as error:
                    self._error = error
