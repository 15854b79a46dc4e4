"""Sizes as people write them: bytes, or K M G T in powers of 1024 (`4G`, `4GiB` and `4GB` are one)."""

from __future__ import annotations

import re

from banger_tools import errors

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d+)(?:\.(\d+))?\s*([KMGT]?)(?:i?B)?", re.IGNORECASE | re.ASCII)


def parse(text: str, what: str = "size") -> int:
    """Return a size in bytes; `what` names it in the error, as in `--size`.

    Raises BadUsage for anything that is not a positive size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise errors.BadUsage(
            f"{what}: '{text}' is not a size", "write bytes, or a number with K, M, G or T: 512M, 4GiB"
        )
    whole, fraction, unit = match.groups()
    scale = _UNITS[unit.upper()]
    value = int(whole) * scale + (int(fraction) * scale // 10 ** len(fraction) if fraction else 0)
    if value <= 0:
        raise errors.BadUsage(f"{what}: '{text}' must be more than zero")
    return value


def exact(size: int) -> str:
    """Return a size as `parse` takes it back, to the byte: `8M`, or the bytes if no unit divides it."""
    scale, unit = max((scale, unit) for unit, scale in _UNITS.items() if size % scale == 0)
    return f"{size // scale}{unit}"


def show(size: int) -> str:
    """Return a size as a short text: `855M`, `1.2G`; exact only for people."""
    value = float(size)
    for unit in ("", "K", "M", "G"):
        if value < 1024:
            return f"{value:.1f}{unit}" if unit and value < 10 else f"{value:.0f}{unit}"
        value /= 1024
    return f"{value:.1f}T"
