"""Content digests, as the OCI image specification writes them: `sha256:<64 hex>` or `sha512:<128 hex>`."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from banger_tools import errors

if TYPE_CHECKING:
    from hashlib import _Hash

_LENGTHS = {"sha256": 64, "sha512": 128}
_FORM = re.compile(r"([a-z0-9]+(?:[.+_-][a-z0-9]+)*):([0-9a-zA-Z=_-]+)")


class Mismatch(errors.BadInput):
    """Bytes came whole, and are not those that their digest stands for."""


def check(text: str, what: str) -> str:
    """Return a digest that is one.

    Raises BadInput naming `what` if it is malformed or of an algorithm that is not sha256 or sha512.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise errors.BadInput(f"{what}: '{text}' is not a digest", "a digest is sha256: and 64 hexadecimal digits")
    algorithm, encoded = match.groups()
    if algorithm not in _LENGTHS:
        raise errors.BadInput(f"{what}: the digest algorithm '{algorithm}' is not known")
    if not re.fullmatch(rf"[0-9a-f]{{{_LENGTHS[algorithm]}}}", encoded):
        raise errors.BadInput(f"{what}: '{text}' is not a digest: {algorithm} has {_LENGTHS[algorithm]} hex digits")
    return text


def split(digest: str) -> tuple[str, str]:
    """Return the algorithm and the hex part of a checked digest."""
    algorithm, _, encoded = digest.partition(":")
    return algorithm, encoded


def hasher(digest: str | None = None) -> _Hash:
    """Return a fresh hash object of a digest's algorithm; of sha256 without one."""
    return hashlib.new(split(digest)[0] if digest else "sha256")


def text(hash_object: _Hash) -> str:
    """Return the digest that a hash object stands at."""
    return f"{hash_object.name}:{hash_object.hexdigest()}"


def of(data: bytes, like: str | None = None) -> str:
    """Return the digest of some bytes, by the algorithm of the digest `like`."""
    hash_object = hasher(like)
    hash_object.update(data)
    return text(hash_object)


def short(digest: str) -> str:
    """Return the twelve hex digits that people call a digest by."""
    return split(digest)[1][:12]
