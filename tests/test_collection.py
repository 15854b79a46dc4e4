"""The garbage collector stays away from large trees, and comes back."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from banger_tools import collection


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()


def test_what_was_built_in_a_pause_is_never_looked_through() -> None:
    built: list[list[int]] = []
    with collection.paused():
        assert not gc.isenabled()
        built += [[] for _ in range(5000)]
    assert gc.isenabled()
    seen = {id(one) for one in gc.get_objects()}
    assert not seen.intersection(map(id, built))


def test_garbage_of_later_is_found_again() -> None:
    with collection.paused():
        pass
    circle: list[object] = []
    circle.append(circle)
    del circle
    assert gc.collect() >= 1


def test_a_pause_in_a_pause_ends_with_the_outer_one() -> None:
    with collection.paused():
        with collection.paused():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
