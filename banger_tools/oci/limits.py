"""How much an image may ask for, so that a hostile or broken one is an error and not a full disk."""

from __future__ import annotations

from typing import NamedTuple

DOCUMENT = 4 << 20
"""Bytes of a manifest, an index or a configuration; what registries themselves allow."""

VALUES = 100_000
"""Lists, objects and members of a document: each takes a hundred times its text in memory."""

NESTING = 32
"""Lists in lists and objects in objects of a configuration; real ones have six."""

INDEX_DEPTH = 4
"""Indexes in indexes."""

INDEXES = 32
"""Documents that are read on the way from a reference to its manifest."""

LAYERS = 512
"""Layers of an image; container runtimes stop at 127."""

RATIO = 1100
"""Bytes out for one byte in, once a layer is larger than RATIO_FROM; deflate itself ends at 1032."""

RATIO_FROM = 1 << 30


class Limits(NamedTuple):
    """Bytes of plain tar: of one layer, and of all layers of an image together."""

    layer: int = 64 << 30
    image: int = 256 << 30
