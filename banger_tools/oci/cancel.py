"""Stopping work that runs in threads: one flag, looked at between chunks, that also wakes blocked connections."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


class Cancelled(Exception):
    """Another thread failed, or the user interrupted the program: unwind and clean up."""


class Cancel:
    """A flag shared by the threads of one task."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._wakers: set[Callable[[], object]] = set()
        self._lock = threading.Lock()

    def set(self) -> None:
        """Ask all threads to stop, and wake those that wait for a network."""
        self._event.set()
        with self._lock:
            wakers = list(self._wakers)
        for wake in wakers:
            with contextlib.suppress(Exception):  # a connection that is closing already may fail in any way
                wake()

    def check(self) -> None:
        """Raise Cancelled if the threads were asked to stop."""
        if self._event.is_set():
            raise Cancelled

    def sleep(self, seconds: float) -> None:
        """Wait, and raise Cancelled as soon as the threads are asked to stop."""
        if self._event.wait(seconds):
            raise Cancelled

    def add_waker(self, wake: Callable[[], object]) -> None:
        """Have `wake` called when the threads are asked to stop."""
        with self._lock:
            self._wakers.add(wake)

    def remove_waker(self, wake: Callable[[], object]) -> None:
        """Forget a waker."""
        with self._lock:
            self._wakers.discard(wake)


def run_all(jobs: Sequence[Callable[[], T]], workers: int, cancel: Cancel) -> list[T]:
    """Run jobs in threads and return their results in order; the first error stops the others and is raised.

    No thread is left when this returns or raises, whatever the reason.
    """
    from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

    executor = ThreadPoolExecutor(max_workers=max(1, workers))
    try:
        futures = [executor.submit(job) for job in jobs]
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        failures = [failure for future in done if (failure := future.exception()) is not None]
        for failure in sorted(failures, key=lambda failure: isinstance(failure, Cancelled)):
            raise failure
        return [future.result() for future in futures]
    except BaseException:
        cancel.set()
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
