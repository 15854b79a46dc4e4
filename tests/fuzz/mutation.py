"""Bytes made wrong: what most finds what a reader forgot to check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

EDGES = [0, 1, 7, 8, 127, 128, 255, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]
WORDS = [
    b"",
    b"0",
    b"-1",
    b"9" * 30,
    b"1e999",
    b"NaN",
    b"null",
    b"{}",
    b"[]",
    b"[" * 3000,
    b'"\\ud800"',
    b"\0",
    b"\r\n",
    b"../",
]
WORDS += [b"\xff" * 12, b"\x80" + b"\xff" * 11, b"%s", b"\x1b[2J", b"\xc3\x28", b"=", b"/", b":", b"@", b"\n\n"]


def flip(random: Random, data: bytearray, _others: Sequence[bytes]) -> None:
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def number(random: Random, data: bytearray, _others: Sequence[bytes]) -> None:
    width = random.choice([1, 2, 4, 8])
    value = random.choice(EDGES) & (1 << 8 * width) - 1
    at = random.randrange(len(data))
    data[at : at + width] = value.to_bytes(width, random.choice(["little", "big"]))


def word(random: Random, data: bytearray, _others: Sequence[bytes]) -> None:
    at = random.randrange(len(data))
    data[at : at + random.choice([0, 1, 4, 12])] = random.choice(WORDS)


def cut(random: Random, data: bytearray, _others: Sequence[bytes]) -> None:
    del data[random.randrange(len(data)) :]


def drop(random: Random, data: bytearray, _others: Sequence[bytes]) -> None:
    at = random.randrange(len(data))
    del data[at : at + random.choice([1, 2, 16, 512])]


def double(random: Random, data: bytearray, _others: Sequence[bytes]) -> None:
    at = random.randrange(len(data))
    piece = data[at : at + random.choice([1, 16, 100, 512, 1024])]
    data[at:at] = piece * random.choice([1, 1, 2, 50])


def splice(random: Random, data: bytearray, others: Sequence[bytes]) -> None:
    other = random.choice(others)
    at = random.randrange(len(data)) // 512 * 512 if len(data) > 2048 else random.randrange(len(data))
    data[at:] = other[random.randrange(len(other) + 1) :]


CHANGES: list[Callable[[Random, bytearray, Sequence[bytes]], None]] = [flip, number, word, cut, drop, double, splice]
FREQUENT = [30, 30, 30, 4, 8, 8, 4]


def mutant(random: Random, seeds: Sequence[bytes]) -> bytes:
    """Return one of the seeds with a few changes."""
    data = bytearray(random.choice(seeds))
    for _ in range(random.choice([1, 1, 2, 3, 6])):
        if data:
            random.choices(CHANGES, FREQUENT)[0](random, data, seeds)
    return bytes(data)
