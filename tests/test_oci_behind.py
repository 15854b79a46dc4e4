"""The thread that works behind: everything in order, errors come up, and nobody waits for ever."""

from __future__ import annotations

import threading
import time

import pytest

from banger_tools.oci.behind import BATCH, PENDING, Behind


def test_all_pieces_are_worked_on_in_order() -> None:
    seen: list[bytes] = []
    pieces = [b"%d" % number for number in range(1000)]
    with Behind() as behind:
        for piece in pieces:
            behind.put(seen.append, piece)
    assert seen == pieces


def test_small_pieces_wake_the_thread_once_for_many() -> None:
    threads: list[str] = []
    seen = threading.Event()

    def look(piece: bytes) -> None:
        threads.append(threading.current_thread().name)
        seen.set()

    with Behind() as behind:
        behind.put(look, b"x" * (BATCH - 1))
        assert not seen.wait(0.1)
        behind.put(look, b"x")
        assert seen.wait(60)
    assert len(threads) == 2
    assert threading.current_thread().name not in threads


def test_settling_waits_for_what_was_put() -> None:
    seen: list[bytes] = []

    def slowly(piece: bytes) -> None:
        time.sleep(0.01)
        seen.append(piece)

    with Behind() as behind:
        for piece in (b"1", b"2", b"3"):
            behind.put(slowly, piece)
        behind.settle()
        assert seen == [b"1", b"2", b"3"]


def test_error_comes_up_and_the_maker_is_not_blocked() -> None:
    def fail(_: bytes) -> None:
        raise OSError(28, "full")

    with pytest.raises(OSError, match="full"), Behind() as behind:
        for _ in range(10 * PENDING):
            behind.put(fail, bytes(BATCH))


@pytest.mark.parametrize("settle", [True, False])
def test_error_of_the_last_piece_comes_up_at_the_end(settle: bool) -> None:
    def fail(piece: bytes) -> None:
        time.sleep(0.05)
        raise ValueError(piece)

    with pytest.raises(ValueError, match="last"), Behind() as behind:
        behind.put(fail, b"last")
        if settle:
            behind.settle()


def test_only_a_bounded_number_of_batches_waits() -> None:
    release = threading.Event()
    batch = bytes(BATCH)
    made = []
    with Behind() as behind:

        def make() -> None:
            for number in range(3 * PENDING):
                behind.put(lambda _: release.wait(10), batch)
                made.append(number)

        maker = threading.Thread(target=make)
        maker.start()
        time.sleep(0.2)
        assert len(made) <= PENDING + 1
        release.set()
        maker.join(10)
    assert len(made) == 3 * PENDING


def test_an_error_of_the_maker_ends_the_thread_and_comes_up_alone() -> None:
    def fail(_: bytes) -> None:
        raise ValueError

    before = threading.active_count()
    with pytest.raises(KeyError), Behind() as behind:
        behind.put(fail, b"x")
        raise KeyError
    assert threading.active_count() == before
