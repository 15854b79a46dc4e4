"""Writing a tree as a tar, in the pax interchange format of POSIX.1-2017 with what GNU tar and star added to it.

The same tree gives the same bytes. What a plain header cannot hold goes into extended records: long names, large
numbers, times before 1970 or with fractions, xattrs (SCHILY.xattr), ACLs once more as text (SCHILY.acl), because GNU
tar and bsdtar restore only those. Files with holes are written as GNU sparse files, version 1.0, which GNU tar,
bsdtar, Python and Go read; unless there are more holes than we would read ourselves.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from banger_tools import acl, errors, extensions, tree
from banger_tools.contents import Contents
from banger_tools.tree import Entry, Tree

BLOCK = 512
LARGE = 64 << 10
BUFFER = 1 << 20
_TYPES = {
    "file": b"0",
    "hardlink": b"1",
    "symlink": b"2",
    "char": b"3",
    "block": b"4",
    "dir": b"5",
    "fifo": b"6",
}
_EXTENDED_NAME = b"././@PaxHeader"
_WORTH = 4096  # fewer bytes of holes are written out

Records = list[tuple[bytes, bytes]]


class Sink:
    """Where the bytes of an archive go: small pieces together, large ones copied by the kernel."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.buffer = bytearray()
        self.sends = True

    def write(self, data: bytes) -> None:
        """Take the next bytes."""
        self.buffer += data
        if len(self.buffer) >= BUFFER:
            self.flush()

    def flush(self) -> None:
        """Pass everything on."""
        view = memoryview(bytes(self.buffer))
        self.buffer.clear()
        while view:
            view = view[os.write(self.descriptor, view) :]

    def copy(self, source: int, offset: int, length: int) -> None:
        """Take bytes of a file.

        Raises BadInput if it ends early.
        """
        if length >= LARGE:
            self.flush()
        while length:
            done = self._send(source, offset, length) if length >= LARGE and self.sends else 0
            if not done:
                piece = os.pread(source, min(length, BUFFER), offset)
                self.write(piece)
                done = len(piece)
            if not done:
                raise errors.BadInput("a file became shorter while it was read")
            offset, length = offset + done, length - done

    def _send(self, source: int, offset: int, length: int) -> int:
        try:
            return os.sendfile(self.descriptor, source, offset, length)
        except BrokenPipeError:
            raise
        except OSError:  # a file that is appended to, for example: whatever is wrong, write(2) will say it
            self.sends = False
            return 0


def write(found: Tree, contents: Contents, descriptor: int) -> None:
    """Write a tree, whose hardlinks come after their targets, as a tar.

    Raises BadInput naming the entry that a tar cannot hold or whose file changed.
    """
    sink = Sink(descriptor)
    targets = {tree.target_bytes(entry) for entry in found.entries if entry.type == "hardlink"}
    known: dict[bytes, Entry] = {}
    for entry in found.entries:
        path = tree.path_bytes(entry)
        if path in targets:
            known[path] = entry
        if entry.type == "hardlink":
            target = tree.target_bytes(entry)
            sink.write(header(known[target], path, "hardlink", 0, _relative(target)))
        elif entry.type == "file" and entry.size:
            _write_file(sink, entry, path, contents)
        else:
            sink.write(header(entry, path, entry.type, 0, tree.target_bytes(entry)))
    sink.write(bytes(2 * BLOCK))
    sink.flush()


def _write_file(sink: Sink, entry: Entry, path: bytes, contents: Contents) -> None:
    with contents.file(entry) as (descriptor, segments):
        stored = sum(length for _, _, length in segments)
        if entry.size - stored >= _WORTH and len(segments) < extensions.MAX_PAIRS:  # the last pair may be one more
            sink.write(_sparse_header(entry, path, [(offset, length) for offset, _, length in segments], stored))
            for _, place, length in segments:
                sink.copy(descriptor, place, length)
        else:
            stored = entry.size
            sink.write(header(entry, path, "file", stored))
            _write_out(sink, descriptor, segments, entry.size)
    sink.write(bytes(-stored % BLOCK))


def _write_out(sink: Sink, descriptor: int, segments: tree.Segments, size: int) -> None:
    """Write a file with its few holes as zeros."""
    end = 0
    for offset, place, length in segments:
        sink.write(bytes(offset - end))
        sink.copy(descriptor, place, length)
        end = offset + length
    sink.write(bytes(size - end))


def _sparse_header(entry: Entry, path: bytes, pairs: list[tuple[int, int]], stored: int) -> bytes:
    """Return the header of a sparse file, with the map that stands before its data."""
    if not pairs or sum(pairs[-1]) < entry.size:
        pairs = [*pairs, (entry.size, 0)]  # so that readers know of the last hole
    numbers = [len(pairs), *(number for pair in pairs for number in pair)]
    text = b"".join(b"%d\n" % number for number in numbers)
    text += bytes(-len(text) % BLOCK)
    name = _relative(path)
    folder, _, last = name.rpartition(b"/")
    records = [
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", name),
        (b"GNU.sparse.realsize", b"%d" % entry.size),
    ]
    shown = b"/".join(filter(None, [folder, b"GNUSparseFile.0", last]))
    return header(entry, b"/" + shown, "file", len(text) + stored, extra=records) + text


def header(
    entry: Entry, path: bytes, kind: str, size: int, link: bytes = b"", extra: Sequence[tuple[bytes, bytes]] = ()
) -> bytes:
    """Return the header blocks of an entry under a name: what it is, the extended records first where some are needed.

    A hardlink carries the metadata of its target, since some readers apply it.
    """
    name = _relative(path) + (b"/" if kind == "dir" else b"")
    records: Records = []
    fields = [
        _text(name, 100, b"path", records),
        b"%07o\0" % int(entry.mode, 8),
        _octal(entry.uid, 8, b"uid", records),
        _octal(entry.gid, 8, b"gid", records),
        _octal(size, 12, b"size", records),
        _mtime(entry.mtime, records),
        b" " * 8,
        _TYPES[kind],
        _text(link, 100, b"linkpath", records),
        b"ustar\x0000",
        bytes(64),
        *_device(entry),
        bytes(167),
    ]
    if any(not _is_utf8(value) for _, value in records):
        records.insert(0, (b"hdrcharset", b"BINARY"))
    records += extra
    if kind != "hardlink":
        records += _xattr_records(entry)
    block = _summed(b"".join(fields))
    return _extended(records) + block if records else block


def _relative(path: bytes) -> bytes:
    """Return a path of the tree as archives have it: without the slash that it begins with."""
    return path[1:] or b"."


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _text(text: bytes, width: int, key: bytes, records: Records) -> bytes:
    if len(text) > width:
        records.append((key, text))
    return text[:width].ljust(width, b"\0")


def _octal(number: int, width: int, key: bytes, records: Records) -> bytes:
    if number >= 8 ** (width - 1):
        records.append((key, b"%d" % number))
        number = 0
    return b"%0*o\0" % (width - 1, number)


def _mtime(mtime: tuple[int, int], records: Records) -> bytes:
    seconds, nanoseconds = mtime
    if nanoseconds or not 0 <= seconds < 8**11:
        total = seconds * 10**9 + nanoseconds
        whole, fraction = divmod(abs(total), 10**9)
        text = f"{'-' * (total < 0)}{whole}" + (f".{fraction:09d}".rstrip("0") if fraction else "")
        records.append((b"mtime", text.encode()))
    return b"%011o\0" % min(max(seconds, 0), 8**11 - 1)


def _device(entry: Entry) -> tuple[bytes, bytes]:
    major, minor = entry.rdev or (0, 0)
    if max(major, minor) >= 8**7:
        raise errors.BadInput(f"'{entry.path}' has device numbers that a tar cannot hold: {major}, {minor}")
    return b"%07o\0" % major, b"%07o\0" % minor


def _xattr_records(entry: Entry) -> Records:
    """Return the records for xattrs; names as GNU tar writes them, which quotes what would end a key."""
    records: Records = []
    for name, value in sorted(tree.xattr_values(entry).items()):
        quoted = name.replace("%", "%25").replace("=", "%3D").encode("utf-8", "surrogateescape")
        records.append((b"SCHILY.xattr." + quoted, value))
        for which, xattr in acl.XATTRS.items():
            if name == xattr:
                records += _acl_record(which, value)
    return records


def _acl_record(which: str, value: bytes) -> Records:
    try:
        return [(b"SCHILY.acl." + which.encode(), acl.to_text(value).encode())]
    except acl.Malformed:  # the xattr itself says what it is worth
        return []


def _extended(records: Records) -> bytes:
    """Return the extended header with these records."""
    body = b"".join(_record(key, value) for key, value in records)
    plain = Entry("", "file", mode="0644")
    block = header(plain, b"/" + _EXTENDED_NAME, "file", len(body))
    return _summed(block[:148] + b" " * 8 + b"x" + block[157:]) + body + bytes(-len(body) % BLOCK)


def _record(key: bytes, value: bytes) -> bytes:
    """Return `LENGTH KEY=VALUE`, where the length counts its own digits."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(str(length)) + len(rest) != length:
        length = len(str(length)) + len(rest)
    return b"%d" % length + rest


def _summed(block: bytes) -> bytes:
    """Put the checksum into a header whose field for it holds spaces."""
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]
