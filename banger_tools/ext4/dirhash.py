"""The half-MD4 hash of directory names, over all names of a folder at once.

A hash a name in plain Python costs 30 µs. Here each name is a 64-bit lane of one big integer, so that one operation
works on all of them: 40,000 names in a tenth of a second. Source: kernel documentation, filesystems/ext4, "Hash Tree
Directories"; the unsigned variant, which the superblock's flags must say.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Sequence

DEFAULT_SEED = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476)
_CHUNK = 32
_K2, _K3 = 0x5A827999, 0x6ED9EBA1
_EOF = 0x7FFFFFFF << 1  # this hash means the end of a folder to the kernel

# (index of the input word, bits to rotate) of the eight steps of each round
_ROUND1 = ((0, 3), (1, 7), (2, 11), (3, 19), (4, 3), (5, 7), (6, 11), (7, 19))
_ROUND2 = ((1, 3), (3, 5), (5, 9), (7, 13), (0, 3), (2, 5), (4, 9), (6, 13))
_ROUND3 = ((3, 3), (7, 9), (2, 11), (6, 15), (1, 3), (5, 9), (0, 11), (4, 15))


def half_md4(names: Sequence[bytes], seed: tuple[int, int, int, int]) -> list[int]:
    """Return the major hash of each name (1 to 255 bytes), lowest bit clear, in the order of the names."""
    start = seed if any(seed) else DEFAULT_SEED
    by_chunks: dict[int, list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        by_chunks[(len(name) + _CHUNK - 1) // _CHUNK].append(index)
    hashes = [0] * len(names)
    for chunks, indices in by_chunks.items():
        for index, value in zip(indices, _lanes([names[i] for i in indices], chunks, start), strict=True):
            value &= 0xFFFFFFFE
            hashes[index] = value if value != _EOF else _EOF - 2
    return hashes


def _lanes(names: list[bytes], chunks: int, seed: tuple[int, int, int, int]) -> array[int]:
    """Hash names that all take the same number of chunks."""
    count = len(names)
    ones = int.from_bytes(b"\1\0\0\0\0\0\0\0" * count, "little")
    state = [word * ones for word in seed]
    for chunk in range(chunks):
        words = _words(b"".join(_padded(name, chunk * _CHUNK) for name in names), count)
        state = _transform(state, words, ones)
    lanes = array("Q")
    lanes.frombytes(state[1].to_bytes(8 * count, "little"))
    return lanes


def _padded(name: bytes, start: int) -> bytes:
    """Return 32 bytes of a name; what is missing in the last is filled with the length that was left."""
    rest = name[start : start + _CHUNK]
    length = len(name) - start
    if length >= _CHUNK:
        return rest
    odd = length % 4
    fill = bytes([length])
    if odd:
        rest = rest[: length - odd] + fill * (4 - odd) + rest[length - odd :]
    return rest.ljust(_CHUNK, fill)


def _words(data: bytes, count: int) -> list[int]:
    """Return the eight big-endian words of every chunk, each word of all chunks as the lanes of one integer."""
    words = array("I")
    words.frombytes(data)
    words.byteswap()
    return [int.from_bytes(array("Q", words[column::8]).tobytes(), "little") for column in range(8)]


def _f(x: int, y: int, z: int) -> int:
    return z ^ (x & (y ^ z))


def _g(x: int, y: int, z: int) -> int:
    return (x & y) + ((x ^ y) & z)


def _h(x: int, y: int, z: int) -> int:
    return x ^ y ^ z


def _transform(state: list[int], words: list[int], ones: int) -> list[int]:
    mask = 0xFFFFFFFF * ones
    a, b, c, d = state
    rounds: tuple[tuple[Callable[[int, int, int], int], int, tuple[tuple[int, int], ...]], ...]
    rounds = ((_f, 0, _ROUND1), (_g, _K2 * ones, _ROUND2), (_h, _K3 * ones, _ROUND3))
    for function, constant, steps in rounds:
        for index, bits in steps:
            value = (a + function(b, c, d) + words[index] + constant) & mask
            rotated = (value << bits & mask) | (value >> (32 - bits) & ((1 << bits) - 1) * ones)
            a, b, c, d = d, rotated, b, c
    return [(old + new) & mask for old, new in zip(state, (a, b, c, d), strict=True)]
