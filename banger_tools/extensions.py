"""What the headers before an entry of a tar say of it: PAX records with xattrs, ACLs and times, GNU's long names, maps.

Formats: POSIX.1-2017 pax(1) "pax Interchange Format"; the GNU tar manual, "Storing Sparse Files"; star(5) for ACLs.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from urllib.parse import unquote_to_bytes

from banger_tools import acl, console, errors

MAX_EXTENDED = 1 << 20  # bytes of a header
MAX_PAIRS = 1 << 20  # of a map of holes
DIGITS = 20  # of a number in a record or map


class Corrupt(errors.BadInput):
    """The archive is not what it claims to be; the message says where."""


class Extended:
    """What the extension headers before an entry say about it."""

    __slots__ = ("further", "link", "name", "records", "sparse_offsets")

    def __init__(self) -> None:
        self.name: bytes | None = None
        self.link: bytes | None = None
        self.records: dict[str, bytes] = {}
        self.sparse_offsets: list[int] = []  # GNU.sparse 0.0 repeats its keys, so order counts
        self.further = 0  # bytes of the headers after the first: a chain of them is not to have what one may not


def decimal(text: bytes, position: int) -> int:
    """Parse a number of a record or map; raises Corrupt for what is none."""
    if not re.fullmatch(rb"[0-9]{1,20}", text):
        raise Corrupt(f"{text[:40]!r} in the extension header of the entry at byte {position} is not a number")
    return int(text)


def _time(text: bytes, position: int) -> tuple[int, int]:
    """Parse a PAX time, as in `-1.5`, into seconds and nanoseconds (0 to 999,999,999, rounded towards the past)."""
    match = re.fullmatch(rb"(-?)([0-9]{1,18}|[1-8][0-9]{18})(?:\.([0-9]*))?", text)
    if match is None:
        raise Corrupt(f"{text[:40]!r} in the extension header of the entry at byte {position} is not a time")
    fraction = match[3] or b""
    seconds, nanoseconds = int(match[2]), int(fraction.ljust(9, b"0")[:9])
    if not match[1]:
        return seconds, nanoseconds
    nanoseconds += bool(fraction[9:].strip(b"0"))
    return divmod(-(seconds * 10**9 + nanoseconds), 10**9)


def pax_records(body: bytes, position: int, sparse: list[int] | None) -> Iterator[tuple[str, bytes]]:
    """Yield the `LENGTH KEY=VALUE` records of a PAX header; `sparse` takes the offsets and lengths of GNU.sparse."""
    at = 0
    while at < len(body):
        space = body.find(b" ", at, at + 20)
        length = int(body[at:space]) if space > at and body[at:space].isdigit() else 0
        record = body[space + 1 : at + length]
        if length < 5 or at + length > len(body) or not record.endswith(b"\n") or b"=" not in record:
            if not body[at:].strip(b"\0"):  # padding that some writers count in
                return
            raise Corrupt(f"corrupt PAX header at byte {position}")
        key, _, value = record[:-1].partition(b"=")
        if sparse is not None and key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            if len(sparse) >= 2 * MAX_PAIRS:
                raise Corrupt(f"the sparse map in the extension header at byte {position} is too large")
            sparse.append(decimal(value, position))
        else:
            yield key.decode("utf-8", "surrogateescape"), value
        at += length


_PAX_FIELDS: dict[str, tuple[str, Callable[[bytes, int], object]]] = {
    "path": ("name", lambda text, _: text),
    "linkpath": ("link", lambda text, _: text),
    "uid": ("uid", decimal),
    "gid": ("gid", decimal),
    "mtime": ("mtime", _time),
}


def overrides(records: dict[str, bytes], extended: Extended, position: int) -> dict[str, object]:
    """Return the fields of a member that its extension headers set; PAX wins over GNU."""
    changes: dict[str, object] = {}
    if extended.name is not None:
        changes["name"] = extended.name
    if extended.link is not None:
        changes["link"] = extended.link
    xattrs: dict[str, bytes] = {}
    for key, value in records.items():
        field = _PAX_FIELDS.get(key)
        if field is not None:
            if value:  # an empty value means: as in the header
                changes[field[0]] = field[1](value, position)
        elif key.startswith("SCHILY.xattr."):
            xattrs[_unquoted(key.removeprefix("SCHILY.xattr."))] = value
        elif key.startswith("SCHILY.acl."):
            _add_acl(xattrs, key.removeprefix("SCHILY.acl."), value, position)
        elif key.startswith("LIBARCHIVE.xattr."):
            name = unquote_to_bytes(key.removeprefix("LIBARCHIVE.xattr.")).decode("utf-8", "surrogateescape")
            xattrs.setdefault(name, _base64(value, position))
    if xattrs:
        changes["xattrs"] = xattrs
    return changes


def bounded(records: Iterator[tuple[str, bytes]], position: int) -> Iterator[tuple[str, bytes]]:
    """Yield the records of a header that only a map of holes may make so large."""
    total = 0
    for key, value in records:
        if key != "GNU.sparse.map":
            total += len(key) + len(value)
            if total > MAX_EXTENDED:
                raise Corrupt(f"the extension header at byte {position} is too large: {MAX_EXTENDED} bytes at most")
        yield key, value


def pairs_of(text: bytes | None, flat: list[int], position: int) -> list[tuple[int, int]]:
    """Return the map of PAX 0.1, which is one text, or of 0.0, whose numbers came one by one."""
    if text and text.count(b",") < 2 * MAX_PAIRS:
        flat = [decimal(number, position) for number in text.split(b",")]
    elif text:
        raise Corrupt(f"the sparse map of the entry at byte {position} is too large")
    if len(flat) % 2:
        raise Corrupt(f"the sparse map of the entry at byte {position} is cut: an offset has no length")
    return list(zip(flat[::2], flat[1::2], strict=True))


def _unquoted(name: str) -> str:
    """Return an xattr's name as it was before GNU tar quoted what would end a key."""
    return name.replace("%3D", "=").replace("%25", "%") if "%" in name else name


def _add_acl(xattrs: dict[str, bytes], which: str, text: bytes, position: int) -> None:
    """Take an ACL that star, GNU tar or bsdtar wrote as text, unless it is there as an xattr, too."""
    name = acl.XATTRS.get(which)
    if name is None:  # those of NFSv4 have no place in Linux
        return
    try:
        value = acl.from_text(text.decode("utf-8", "replace"), which)
    except acl.Nameless as name_alone:
        console.warning(f"left out the ACL of the entry at byte {position}: it does not say who '{name_alone}' is")
        return
    except acl.Malformed as part:
        raise Corrupt(f"the ACL of the entry at byte {position} is malformed: '{part}'") from None
    if value is not None:
        xattrs.setdefault(name, value)


def _base64(value: bytes, position: int) -> bytes:
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error as error:
        raise Corrupt(f"corrupt xattr in the extension header of the entry at byte {position}") from error
