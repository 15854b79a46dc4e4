"""The thread that works behind: everything in order, errors come up, and nobody waits for ever."""

from __future__ import annotations

import threading
import time

import pytest

from banger_tools.oci.behind import PENDING, Behind


def test_all_pieces_are_worked_on_in_order() -> None:
    seen: list[bytes] = []
    behind = Behind(seen.append)
    pieces = [b"%d" % number for number in range(1000)]
    for piece in pieces:
        behind.put(piece)
    behind.finish()
    assert seen == pieces


def test_error_comes_up_and_the_maker_is_not_blocked() -> None:
    def fail(_: bytes) -> None:
        raise OSError(28, "full")

    behind = Behind(fail)
    with pytest.raises(OSError, match="full"):
        for _ in range(10 * PENDING):
            behind.put(b"x")
        behind.finish()
    behind.abandon()


def test_error_of_the_last_piece_comes_up_at_the_end() -> None:
    def fail(piece: bytes) -> None:
        time.sleep(0.05)
        raise ValueError(piece)

    behind = Behind(fail)
    behind.put(b"last")
    with pytest.raises(ValueError, match="last"):
        behind.finish()


def test_only_a_bounded_number_of_pieces_waits() -> None:
    release = threading.Event()
    behind = Behind(lambda _: release.wait(10))
    made = []

    def make() -> None:
        for number in range(3 * PENDING):
            behind.put(b"x")
            made.append(number)

    maker = threading.Thread(target=make)
    maker.start()
    time.sleep(0.2)
    assert len(made) <= PENDING + 1
    release.set()
    maker.join(10)
    behind.finish()
    assert len(made) == 3 * PENDING


def test_abandoning_ends_the_thread() -> None:
    before = threading.active_count()
    behind = Behind(lambda _: None)
    behind.put(b"x")
    behind.abandon()
    assert threading.active_count() == before
