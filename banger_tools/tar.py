"""Reading tar headers, every dialect, and never the data: v7, ustar, PAX, GNU, star; sparse files of all four kinds.

Unlike most readers, this one never ends silently: a header that is corrupt or cut is an error. Formats: POSIX.1-2017
pax(1) "ustar Interchange Format" and "pax Interchange Format"; the GNU tar manual, "Basic Tar Format" and "Storing
Sparse Files".
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from typing import NamedTuple
from zlib import adler32

from banger_tools import acl
from banger_tools.extensions import (
    DIGITS,
    MAX_EXTENDED,
    MAX_PAIRS,
    Corrupt,
    Extended,
    bounded,
    decimal,
    overrides,
    pairs_of,
    pax_records,
)

BLOCK = 512
MAX_ID = 2**32 - 2  # 2^32-1 means "no id" to the kernel
MAX_MAP = 64 << 20  # bytes of a header that is a map of holes: GNU tar's 0.0 takes some sixty for a pair
MAX_GLOBAL = 8 << 10  # bytes of records, of which each entry to come takes a copy
MAX_LONG_NAME = 1 << 16
MAX_SIZE = 1 << 62  # of files; no number of a header is larger
_PIECE = 64 << 10

FILE, DIR, SYMLINK, HARDLINK, CHAR, BLOCK_DEVICE, FIFO = "file", "dir", "symlink", "hardlink", "char", "block", "fifo"

Segments = list[tuple[int, int, int]]  # (offset in the file, offset in the source, length)

ACCESS = acl.XATTRS["access"]

# name, mode and owners, size, mtime, checksum, type, link, magic, major, minor, prefix, what follows it
_HEADER = struct.Struct("100s24s12s12s8s1s100s8s64x8s8s155s12s")
_ZEROS = bytes(BLOCK)
_TYPES = {
    b"0": FILE,
    b"\0": FILE,
    b"7": FILE,
    b"S": FILE,
    b"1": HARDLINK,
    b"2": SYMLINK,
    b"3": CHAR,
    b"4": BLOCK_DEVICE,
    b"5": DIR,
    b"D": DIR,
    b"6": FIFO,
}
_WITH_DATA = frozenset(b"\x007SDgxXLKV0")
_EXTENSIONS = frozenset(b"gxXLKV")


class Member(NamedTuple):
    """One entry of an archive. `segments` says where a file's bytes are: holes are what it does not cover."""

    name: bytes
    type: str
    mode: int
    uid: int
    gid: int
    mtime: tuple[int, int]
    size: int
    link: bytes
    rdev: tuple[int, int] | None
    xattrs: dict[str, bytes] | None
    offset: int
    segments: Segments | None


def members(descriptor: int, *, vouched: bool) -> Iterator[Member]:
    """Yield the entries of the tar open at `descriptor`, which must be seekable.

    An archive must end in a zero block unless its length is `vouched` for by a digest. Raises Corrupt.
    """
    return _Reader(descriptor, vouched=vouched).members()


class _Reader:
    """A position in an archive, the global PAX records so far, and what field texts mean."""

    def __init__(self, descriptor: int, *, vouched: bool) -> None:
        self.descriptor = descriptor
        self.size = os.fstat(descriptor).st_size
        self.vouched = vouched
        self.global_records: dict[str, bytes] = {}
        # Owners, modes, times and checksums repeat: each text is parsed once.
        self.numbers: dict[bytes, int] = {}
        self.owners: dict[bytes, tuple[int, int, int]] = {}
        self.sums: dict[bytes, int] = {}

    def members(self) -> Iterator[Member]:
        position = 0
        extended: Extended | None = None
        pread, descriptor, unpack = os.pread, self.descriptor, _HEADER.unpack
        while True:
            header = pread(descriptor, BLOCK, position)
            if len(header) != BLOCK or header == _ZEROS:
                self.check_end(header, position, pending=extended is not None)
                return
            fields = unpack(header)
            # Two halves, since adler32's first sum is exact only below 65521.
            if (adler32(header[:256]) & 0xFFFF) + (adler32(header[256:]) & 0xFFFF) - 2 != self.unsigned_sum(fields[4]):
                self.check_signed(header, position)
            kind = fields[5]
            size = self.number(fields[2], position)
            data = position + BLOCK
            if kind[0] in _EXTENSIONS:
                extended = self.extension(kind, data, size, extended, position)
                position = self.after(data, size, position)
                continue
            if kind not in _TYPES:
                raise Corrupt(f"unknown entry type {kind!r} at byte {position}")
            if extended is None and not self.global_records and kind != b"S":
                stored = size if kind[0] in _WITH_DATA else 0
                yield self.plain(fields, stored, data, position)
            else:
                member, stored = self.extended_member(fields, size, data, position, extended or Extended())
                yield member
                extended = None
                if kind == b"S":
                    data += BLOCK * self.old_sparse_blocks
            position = self.after(data, stored, position)

    def unsigned_sum(self, field: bytes) -> int:
        """Return the checksum that a header states, corrected by its own bytes, which count as spaces."""
        value = self.sums.get(field)
        if value is None:
            value = self.sums[field] = self.checksum_field(field) + sum(field) - 8 * 32
        return value

    def checksum_field(self, field: bytes) -> int:
        text = field.split(b"\0", 1)[0].strip()
        try:
            return int(text, 8)
        except ValueError:
            return -1

    def check_signed(self, header: bytes, position: int) -> None:
        """Accept the checksums of old tars that summed signed bytes, refuse all others."""
        total = sum(struct.unpack("512b", header)) - sum(struct.unpack("8b", header[148:156])) + 8 * 32
        if total != self.checksum_field(header[148:156]):
            raise Corrupt(f"corrupt tar header at byte {position}: the checksum does not match")

    def check_end(self, header: bytes, position: int, *, pending: bool) -> None:
        """Check that an archive which seems to end here really does."""
        if pending:
            raise Corrupt(f"the archive ends at byte {position}, inside an entry")
        if header == b"" and self.vouched and position > 0:
            return
        if len(header) < BLOCK:
            raise Corrupt(f"the archive is cut at byte {position + len(header)}: no end marker")
        second = os.pread(self.descriptor, BLOCK, position + BLOCK)
        if second and second.strip(b"\0"):
            raise Corrupt(f"corrupt tar header at byte {position}: a lone block of zeros")

    def after(self, data: int, size: int, position: int) -> int:
        """Return where the next header stands after `size` bytes of data."""
        if size < 0:  # it would lead back to what was read before
            raise Corrupt(f"size {size} of the entry at byte {position} is out of range")
        end = data + size
        if end > self.size:
            raise Corrupt(f"the archive is cut: the entry at byte {position} needs {size} bytes of data")
        following = (end + BLOCK - 1) // BLOCK * BLOCK
        # Some writers leave out the padding of the very last entry.
        return following if following <= self.size else self.size

    def number(self, field: bytes, position: int) -> int:
        """Parse a numeric field: octal text, or base-256 when the first bit is set."""
        value = self.numbers.get(field)
        if value is None:
            value = self.numbers[field] = self.parse_number(field, position)
        return value

    @staticmethod
    def parse_number(field: bytes, position: int) -> int:
        if field[0] & 0x80:
            first = field[0] & 0x7F if field[0] != 0xFF else 0xFF
            value = int.from_bytes(bytes([first]) + field[1:], "big", signed=field[0] == 0xFF)
            if not -MAX_SIZE <= value <= MAX_SIZE:
                raise Corrupt(f"corrupt tar header at byte {position}: {field!r} is out of range")
            return value
        text = field.split(b"\0", 1)[0].strip()
        if not text:
            return 0
        if not re.fullmatch(rb"-?[0-7]+", text):
            raise Corrupt(f"corrupt tar header at byte {position}: {field!r} is not a number")
        return int(text, 8)

    def owner(self, field: bytes, position: int) -> tuple[int, int, int]:
        """Parse mode, uid and gid, which stand side by side."""
        found = self.owners.get(field)
        if found is None:
            mode, uid, gid = (self.parse_number(field[at : at + 8], position) for at in (0, 8, 16))
            _check_owner(uid, gid, position)
            found = self.owners[field] = mode & 0o7777, uid, gid
        return found

    def plain(
        self, fields: tuple[bytes, ...], stored: int, data: int, position: int, renamed: bytes | None = None
    ) -> Member:
        """Return the member that one header describes, under the name that an extension gave it if one did."""
        name = fields[0].split(b"\0", 1)[0] if renamed is None else renamed
        kind = _TYPES[fields[5]]
        prefix = _prefix(fields) if fields[10][0] else b""
        if prefix and renamed is None:
            name = prefix + b"/" + name
        if kind == FILE and name.endswith(b"/"):
            kind = DIR  # how v7 wrote folders
        number = self.number
        mode, uid, gid = self.owner(fields[1], position)
        size = stored if kind == FILE else 0
        link = fields[6].split(b"\0", 1)[0] if kind in (HARDLINK, SYMLINK) else b""
        rdev = self.device(fields, position) if kind in (CHAR, BLOCK_DEVICE) else None
        if not 0 <= size <= MAX_SIZE:
            raise Corrupt(f"size {size} of the entry at byte {position} is out of range")
        mtime = number(fields[3], position), 0
        return Member(name, kind, mode, uid, gid, mtime, size, link, rdev, None, data, None)

    def device(self, fields: tuple[bytes, ...], position: int) -> tuple[int, int]:
        """Parse the numbers of a device; who makes it knows which are too large."""
        major, minor = self.number(fields[8], position), self.number(fields[9], position)
        if major < 0 or minor < 0:
            raise Corrupt(f"device {major}:{minor} of the entry at byte {position} is out of range")
        return major, minor

    def extension(self, kind: bytes, data: int, size: int, extended: Extended | None, position: int) -> Extended | None:
        """Take in one extension header, and return what is known of the next entry, if anything.

        Global records and volume labels belong to no entry: an archive may have nothing else.
        """
        limit = MAX_LONG_NAME if kind in b"LK" else MAX_MAP if kind in b"xX" else MAX_EXTENDED
        if not 0 <= size <= limit:
            raise Corrupt(f"the extension header at byte {position} is too large: {size} bytes, {limit} at most")
        body = os.pread(self.descriptor, size, data)
        if len(body) != size:
            raise Corrupt(f"the archive is cut at byte {data + len(body)}, inside an extension header")
        if kind == b"g":
            self.global_records.update(pax_records(body, position, None))
            self.global_records.pop("comment", None)  # says nothing; entries without records are read faster
            if sum(len(key) + len(value) for key, value in self.global_records.items()) > MAX_GLOBAL:
                raise Corrupt(f"the global records up to byte {position} have more than {MAX_GLOBAL} bytes")
        if kind in b"gV":
            return extended
        if extended is None:
            extended = Extended()
        else:
            extended.further += size
            if extended.further > MAX_EXTENDED:
                raise Corrupt(f"the extension headers up to byte {position} are too large together")
        if kind == b"L":
            extended.name = body.split(b"\0", 1)[0]
        elif kind == b"K":
            extended.link = body.split(b"\0", 1)[0]
        else:
            records = pax_records(body, position, extended.sparse_offsets)
            extended.records.update(records if size <= MAX_EXTENDED else bounded(records, position))
        return extended

    def extended_member(
        self, fields: tuple[bytes, ...], size: int, data: int, position: int, extended: Extended
    ) -> tuple[Member, int]:
        """Return the member that a header and its extensions describe, and the bytes that its data takes."""
        records = {**self.global_records, **extended.records} if self.global_records else extended.records
        if "size" in records:
            size = decimal(records["size"], position)
        stored = size if fields[5][0] in _WITH_DATA else 0
        # The name in the header may be cut, perhaps after a slash: it must not tell what the entry is.
        renamed = records.get("GNU.sparse.name") or records.get("path") or extended.name
        member = self.plain(fields, stored, data, position, renamed)
        member = member._replace(**overrides(records, extended, position))  # type: ignore[arg-type]
        _check_owner(member.uid, member.gid, position)
        if member.xattrs and ACCESS in member.xattrs:
            member = _with_acl(member)
        if member.type == FILE:
            member = self.sparse_member(member, fields, records, extended, stored, position)
        if b"\0" in member.name or b"\0" in member.link:
            which = "name" if b"\0" in member.name else "link"
            raise Corrupt(f"a NUL byte in the {which} of the entry at byte {position}")
        return member, stored

    old_sparse_blocks = 0

    def sparse_member(
        self,
        member: Member,
        fields: tuple[bytes, ...],
        records: dict[str, bytes],
        extended: Extended,
        stored: int,
        position: int,
    ) -> Member:
        """Return a file member with its holes, if it is sparse in any of the four GNU ways."""
        start, length = member.offset, stored
        if fields[5] == b"S":
            if fields[11][8:12] == b"tar\0":  # the map of star stands elsewhere than that of GNU
                raise Corrupt(f"the entry at byte {position} is a sparse file of star, which is not supported")
            pairs, real = self.old_sparse(position)
            start += BLOCK * self.old_sparse_blocks
        elif records.get("GNU.sparse.major") == b"1":
            real = decimal(records.get("GNU.sparse.realsize", b""), position)
            pairs, used = self.sparse_map_in_data(start, length, position)
            start, length = start + used, length - used
        elif "GNU.sparse.map" in records or extended.sparse_offsets:
            pairs = pairs_of(records.get("GNU.sparse.map"), extended.sparse_offsets, position)
            real = decimal(records.get("GNU.sparse.size", b""), position)
        else:
            return member
        if not 0 <= real <= MAX_SIZE:
            raise Corrupt(f"size {real} of the sparse entry at byte {position} is out of range")
        name = records.get("GNU.sparse.name") or member.name
        return member._replace(name=name, size=real, segments=_segments(pairs, real, start, length, position))

    def old_sparse(self, position: int) -> tuple[list[tuple[int, int]], int]:
        """Return the map and the real size of an old GNU sparse entry, which may go on in further blocks."""
        header = os.pread(self.descriptor, BLOCK, position)
        pairs = self.sparse_pairs(header, 386, 4, position)
        more, self.old_sparse_blocks = header[482], 0
        while more:
            self.old_sparse_blocks += 1
            block = os.pread(self.descriptor, BLOCK, position + BLOCK * self.old_sparse_blocks)
            if len(block) != BLOCK or len(pairs) > MAX_PAIRS:
                raise Corrupt(f"the sparse map of the entry at byte {position} is cut or too large")
            pairs += self.sparse_pairs(block, 0, 21, position)
            more = block[504]
        return pairs, self.number(header[483:495], position)

    def sparse_pairs(self, block: bytes, start: int, count: int, position: int) -> list[tuple[int, int]]:
        fields = [block[start + 12 * n : start + 12 * (n + 1)] for n in range(2 * count)]
        return [
            (self.number(offset, position), self.number(length, position))
            for offset, length in zip(fields[::2], fields[1::2], strict=True)
            if length.strip(b"\0 ")
        ]

    def sparse_map_in_data(self, start: int, stored: int, position: int) -> tuple[list[tuple[int, int]], int]:
        """Return the map that stands before the data of a PAX 1.0 sparse file, and the bytes that it takes."""
        numbers: list[int] = []  # how many pairs there are, and these
        used = 0
        for line in self.map_lines(start, stored):
            used += len(line) + 1
            numbers.append(decimal(line, position))
            if numbers[0] > MAX_PAIRS:
                break
            if len(numbers) == 1 + 2 * numbers[0]:
                pairs = list(zip(numbers[1::2], numbers[2::2], strict=True))
                return pairs, (used + BLOCK - 1) // BLOCK * BLOCK
        raise Corrupt(f"the sparse map of the entry at byte {position} is cut or too large")

    def map_lines(self, start: int, stored: int) -> Iterator[bytes]:
        """Yield the lines of a map, until one is longer than a number; what follows the map is data."""
        rest = b""
        end = start + stored
        while start < end and len(rest) <= DIGITS:
            piece = os.pread(self.descriptor, min(end - start, _PIECE), start)
            *lines, rest = (rest + piece).split(b"\n")
            yield from lines
            start += len(piece) or stored  # a file that ends early has no more


def _prefix(fields: tuple[bytes, ...]) -> bytes:
    """Return the prefix of the name: 155 bytes in ustar, 131 in star, none in GNU (which keeps times there) and v7."""
    if fields[7][:6] != b"ustar\0":
        return b""
    area = fields[10][:131] if fields[11][8:12] == b"tar\0" else fields[10]
    return area.split(b"\0", 1)[0]


def _check_owner(uid: int, gid: int, position: int) -> None:
    if not (0 <= uid <= MAX_ID and 0 <= gid <= MAX_ID):
        raise Corrupt(f"owner {uid}:{gid} of the entry at byte {position} is out of range")


def _with_acl(member: Member) -> Member:
    """Return a member whose mode is what setting its ACL leaves; some writers put other bits there."""
    try:
        return member._replace(mode=acl.mode(member.mode, (member.xattrs or {})[ACCESS]))
    except acl.Malformed:  # whoever sets it will say so
        return member


def _segments(pairs: list[tuple[int, int]], real: int, start: int, stored: int, position: int) -> Segments:
    """Place the data of a sparse file: each (offset, length) of the map takes the next stored bytes."""
    segments: Segments = []
    end = 0
    for offset, length in pairs:
        if offset < end or length > stored or offset + length > real:
            raise Corrupt(f"the sparse map of the entry at byte {position} is not in order or too large")
        if length:
            segments.append((offset, start, length))
        start, stored, end = start + length, stored - length, offset + length
    if stored:
        raise Corrupt(f"the sparse map of the entry at byte {position} leaves {stored} bytes of data unused")
    return segments
