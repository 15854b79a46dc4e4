"""A thread that works on many pieces, in their order, behind the back of the one that makes them.

Inflating, hashing and writing all leave the interpreter to others, so a layer takes the time of the slowest and not
of their sum.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Self

PENDING = 8  # pieces that may wait: the bound on memory

Act = Callable[[bytes], object]


class Behind:
    """Does in a thread of its own what it is given, one thing after the other; an error comes up in the next call.

    As a context, it waits at the end until everything is done; on an error of the body it only ends the thread.
    """

    def __init__(self) -> None:
        self._items: queue.Queue[tuple[Act, bytes] | threading.Event | None] = queue.Queue(PENDING)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._items.put(None)
        self._thread.join()
        if kind is None:
            self._raise()

    def put(self, act: Act, piece: bytes) -> None:
        """Have `act(piece)` done; waits while too many are pending."""
        self._raise()
        self._items.put((act, piece))

    def settle(self) -> None:
        """Wait until everything is done that was put so far."""
        done = threading.Event()
        self._items.put(done)
        done.wait()
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (item := self._items.get()) is not None:
            if isinstance(item, threading.Event):
                item.set()
            elif self._error is None:  # after an error only drain, or the other side would wait for ever
                act, piece = item
                try:
                    act(piece)
                except BaseException as error:
                    self._error = error
