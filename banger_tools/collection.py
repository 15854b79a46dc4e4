"""The garbage collector: it looks at all objects again and again while a tree is built of a million of them."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Stop the garbage collector while many objects are made and none are dropped, and spare it these for ever."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.freeze()  # or it would look through all of them at once now
            gc.enable()
