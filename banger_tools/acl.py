"""POSIX ACLs between the text that tar archives hold (SCHILY.acl.*) and the bytes of the xattrs that the kernel knows.

Formats: acl(5), "Long text form" and "Short text form", with star's id as a fourth field; <linux/posix_acl_xattr.h>.
"""

from __future__ import annotations

import re
import struct

XATTRS = {"access": "system.posix_acl_access", "default": "system.posix_acl_default"}
_VERSION = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_NO_ID = 0xFFFFFFFF
_DIGITS = 10  # of the largest id
_TAGS = {  # by the word and whether somebody is named
    ("user", False): 0x01,
    ("user", True): 0x02,
    ("group", False): 0x04,
    ("group", True): 0x08,
    ("mask", False): 0x10,
    ("other", False): 0x20,
}
_WORDS = {tag: word for (word, _), tag in _TAGS.items()}
_BASIC = 3  # owner, group, other: what a mode says


class Malformed(ValueError):
    """What should be an ACL is none."""


class Nameless(ValueError):
    """An ACL names somebody by a name alone, which only the machine that wrote it can turn into an id."""


def from_text(text: str, which: str) -> bytes | None:
    """Return the value of the xattr for an ACL in text form; None if it says no more than a mode does.

    Raises Malformed or Nameless.
    """
    found = [_parse(part) for part in re.split(r"[,\n]", text) if part.split("#")[0].strip()]
    if not found or (which == "access" and len(found) <= _BASIC):
        return None
    return _VERSION.pack(2) + b"".join(_ENTRY.pack(*entry) for entry in sorted(found, key=lambda e: (e[0], e[2])))


def _parse(text: str) -> tuple[int, int, int]:
    word, *fields = text.split("#")[0].strip().split(":")
    if word in ("mask", "other", "m", "o") and len(fields) == 1:
        fields = ["", *fields]  # as in Solaris: no empty field for the name
    word = {"u": "user", "g": "group", "m": "mask", "o": "other"}.get(word, word)
    name, permissions = (fields + ["", ""])[:2]
    number = fields[2] if len(fields) > 2 else name
    tag = _TAGS.get((word, bool(name)))
    if tag is None or not re.fullmatch(r"[rwx-]{1,3}", permissions):
        raise Malformed(text)
    if name and not number.isdecimal():
        raise Nameless(name)
    if name and (len(number) > _DIGITS or int(number) >= _NO_ID):
        raise Malformed(text)
    bits = sum(bit for letter, bit in (("r", 4), ("w", 2), ("x", 1)) if letter in permissions)
    return tag, bits, int(number) if name else _NO_ID


def entries(value: bytes) -> list[tuple[int, int, int]]:
    """Return the entries of an ACL from the value of its xattr: tag, permissions, id.

    Raises Malformed.
    """
    if len(value) < _VERSION.size or (len(value) - _VERSION.size) % _ENTRY.size or _VERSION.unpack_from(value)[0] != 2:
        raise Malformed(value.hex())
    found = list(_ENTRY.iter_unpack(value[_VERSION.size :]))
    if not all(tag in _WORDS for tag, _, _ in found):
        raise Malformed(value.hex())
    return found


def mode(before: int, value: bytes) -> int:
    """Return what the kernel makes of a mode when the access ACL is set: the mask stands for the group."""
    found = {tag: bits & 7 for tag, bits, _ in entries(value)}
    group = found.get(_TAGS["mask", False], found.get(_TAGS["group", False], 0))
    return before & ~0o777 | found.get(_TAGS["user", False], 0) << 6 | group << 3 | found.get(_TAGS["other", False], 0)


def to_text(value: bytes) -> str:
    """Return an ACL in text form from the value of its xattr; ids stay numbers.

    Raises Malformed.
    """
    parts = []
    for tag, bits, number in entries(value):
        named = str(number) if tag in (0x02, 0x08) else ""
        letters = "".join(letter if bits & bit else "-" for letter, bit in (("r", 4), ("w", 2), ("x", 1)))
        parts.append(f"{_WORDS[tag]}:{named}:{letters}")
    return ",".join(parts)
