"""The tree of a root filesystem: tree.jsonl, one JSON object an entry, that grep, jq and an editor can work on.

The first line is the header. Entries follow in tree order: a folder before what is in it, names sorted as bytes.
Paths are absolute in the guest. A name that is not UTF-8 stands exactly in `path_b64`, and readably in `path`.

What has its default may be left out: mode 0755, owner and group 0, times of 1970, size 0. Content stays where it is, in
the tar or folder that an entry names by its place in `sources`, so a tree is of use only as long as these are there.

{"tree":1,"sources":[{"path":"/…/layers/sha256/7e91…","diff_id":"sha256:7e91…","size":2007040}],"entries":3,"bytes":30}
{"path":"/","type":"dir","mode":"0755"}
{"path":"/etc","type":"dir","mode":"0700","uid":33}
{"path":"/etc/os-release","type":"file","mode":"0644","size":30,"data":[0,1536]}

A tree may be edited: entries may come in any order, missing folders are made, and the counts of the header are not
checked. It is given to bg-mkext4(1) by name then, for it is no longer the one that the manifest has the digest of.

$ jq -c 'select(.path // "" | startswith("/usr/share/doc") | not)' tree.jsonl >edited.jsonl
$ bg-mkext4 -o edited.ext4 edited.jsonl

Removing the first name of hard links leaves the others without their content, and is refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, cast

import msgspec
from msgspec import Meta, Struct

from banger_tools import collection, errors
from banger_tools.typed import about

VERSION = 1
MAX_PATH, MAX_NAME = 4096, 255
MAX_ID = 2**32 - 2  # the next one means "no id" to the kernel
MAX_MAJOR, MAX_MINOR = (1 << 12) - 1, (1 << 20) - 1

Natural = Annotated[int, Meta(ge=0)]
Size = Annotated[int, Meta(ge=0, le=2**62)]  # what no kernel's file reaches
Seconds = Annotated[int, Meta(ge=-9 * 10**18, le=9 * 10**18 - 1)]  # what the kernel takes, in 19 digits
Id = Annotated[int, Meta(ge=0, le=MAX_ID)]
Nanoseconds = Annotated[int, Meta(ge=0, le=10**9 - 1)]
Type = Literal["file", "dir", "symlink", "hardlink", "char", "block", "fifo"]
Segments = list[tuple[Natural, Natural, Natural]]

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_MODE = re.compile("[0-7]{1,4}")
# A path of the guest without an empty, "." or ".." component; names of 255 bytes at most
_PATH = re.compile(rb"/|(?:/(?!\.{1,2}(?:/|\Z))[^/\0]{1,255})+")

_NO_PATH = "is no path: one begins with '/' and has no '.' or '..', names of 255 bytes at most, and 4096 in all"
_NO_BASE64 = "has a value that is no base64"


class SourceFile(Struct, frozen=True, omit_defaults=True):
    """A file that entries take their data from, or a folder: `data` and `segments` name it by its place in the header.

    Offsets count from the beginning of that file; in a folder, from that of the file which the entry's origin names.
    """

    path: Annotated[str, about("The file or the folder.")]
    diff_id: Annotated[str | None, about("Of a layer: the digest of its tar.")] = None
    size: Annotated[int | None, about("Bytes of the file.")] = None
    folder: Annotated[bool, about("Whether it is a folder.")] = False


class Origin(Struct, frozen=True, omit_defaults=True, gc=False):
    """Which file of a folder has the data of an entry."""

    path: Annotated[str, about("Its path in the folder.")]
    mtime: Annotated[tuple[Seconds, Nanoseconds], about("Its mtime when it was looked at: seconds and nanoseconds.")]
    path_b64: Annotated[str | None, about("The exact path in base64, if it is not UTF-8.")] = None


class Header(Struct, frozen=True):
    """The first line."""

    tree: Annotated[int, about("The version of the format.")]
    sources: Annotated[list[SourceFile], about("Where the content of files is.")]
    entries: Annotated[int, about("How many lines follow.")]
    bytes: Annotated[int, about("Bytes of the content of all files.")]


class Entry(Struct, omit_defaults=True, gc=False):
    """One name in the tree. A hardlink has nothing but its path and its target."""

    path: Annotated[str, about("Absolute in the guest.")]
    type: Annotated[Type, about("What it is.")]
    mode: Annotated[str, about("Permissions, four octal digits without the bits of the type.")] = "0755"
    uid: Annotated[Id, about("Owner.")] = 0
    gid: Annotated[Id, about("Group.")] = 0
    mtime: Annotated[tuple[Seconds, Nanoseconds], about("Seconds since 1970, and nanoseconds.")] = (0, 0)
    size: Annotated[Size, about("Bytes of a file.")] = 0
    target: Annotated[str | None, about("Of a symlink its text, of a hardlink the path of its first name.")] = None
    rdev: Annotated[tuple[Natural, Natural] | None, about("Of a device: major and minor.")] = None
    xattrs: Annotated[dict[str, str] | None, about("Extended attributes by name, the values in base64.")] = None
    data: Annotated[
        tuple[Natural, Natural] | None,
        about("Where the content is: place of its source in the header, and offset there."),
    ] = None
    segments: Annotated[
        Segments | None,
        about(
            "Of a file with holes: offset in it, offset in the source, and length of each piece; the offset of `data`"
            " is not used then."
        ),
    ] = None
    origin: Annotated[Origin | None, about("Where the data stands, if the source is a folder.")] = None
    path_b64: Annotated[str | None, about("The exact path in base64, if it is not UTF-8.")] = None
    target_b64: Annotated[str | None, about("The exact target in base64, if it is not UTF-8.")] = None


class Tree(NamedTuple):
    """A tree in memory; `identity` is the same wherever its sources are kept, and another for another content."""

    sources: list[SourceFile]
    entries: list[Entry]
    identity: str = ""


class Written(NamedTuple):
    """What writing a tree.jsonl left: its digest and size, the number of entries and bytes of content."""

    digest: str
    size: int
    entries: int
    bytes: int


def text_of(name: bytes) -> tuple[str, str | None]:
    """Return a name as readable text, and in base64 too if the text is not exact."""
    try:
        return name.decode(), None
    except UnicodeDecodeError:
        return name.decode(errors="replace"), base64.b64encode(name).decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def path_bytes(entry: Entry) -> bytes:
    """Return the exact path of an entry."""
    return entry.path.encode() if entry.path_b64 is None else _decode(entry.path_b64)


def origin_bytes(origin: Origin) -> bytes:
    """Return the exact path of a file in a folder."""
    return origin.path.encode() if origin.path_b64 is None else _decode(origin.path_b64)


def target_bytes(entry: Entry) -> bytes:
    """Return the exact target of a symlink or hardlink."""
    return (entry.target or "").encode() if entry.target_b64 is None else _decode(entry.target_b64)


def xattr_values(entry: Entry) -> dict[str, bytes]:
    """Return the extended attributes of an entry."""
    return {name: _decode(value) for name, value in (entry.xattrs or {}).items()}


def write(path: Path, tree: Tree) -> Written:
    """Write a tree.jsonl at `path`, which must not exist.

    Raises BadInput for a source whose path JSON cannot hold.
    """
    for source in tree.sources:
        _refuse_unwritable(source.path)
    total = sum(entry.size for entry in tree.entries if entry.type == "file")
    header = Header(VERSION, tree.sources, len(tree.entries), total)
    digest = hashlib.sha256()
    size = 0
    with open(path, "xb") as file:
        for lines in _batches(header, tree.entries):
            file.write(lines)
            digest.update(lines)
            size += len(lines)
    return Written(f"sha256:{digest.hexdigest()}", size, len(tree.entries), total)


def _refuse_unwritable(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError:
        hint = "rename it, or move what it is in"
        raise errors.BadInput(f"'{path}' is not UTF-8, and a tree cannot name it", hint) from None


def _batches(header: Header, entries: list[Entry]) -> Iterator[bytes]:
    encoder = msgspec.json.Encoder()
    yield encoder.encode(header) + b"\n"
    for start in range(0, len(entries), 4096):
        yield encoder.encode_lines(entries[start : start + 4096])


@collection.paused()
def read(path: Path, *, digest: str | None = None) -> Tree:
    """Read and check a tree.jsonl; entries edited by hand are put into order and missing parents added.

    Raises BadInput naming the line, NoInput or Denied; BadInput too when `digest` is given and does not match.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise errors.os_error(error, f"cannot read '{path}'") from error
    if digest is not None and f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
        hint = f"to use an edited tree, name it: bg-mkext4 '{path}'"
        raise errors.BadInput(f"'{path}' is not the tree of the manifest: its digest differs", hint)
    head, _, body = data.partition(b"\n")
    header = _header(head, path)
    entries = _entries(body, path)
    try:
        _check_modes(entries)
        _check_origins(entries, header.sources)
        ordered = _in_order(entries, len(header.sources))
    except _Wrong as wrong:
        raise _named(wrong, entries, body, path) from None
    return Tree(header.sources, ordered, identity(header.sources, body))


class _Wrong(Exception):
    """An entry is not what it may be; whoever has the lines says where it stands."""

    def __init__(self, entry: Entry, problem: str) -> None:
        super().__init__(problem)
        self.entry = entry
        self.problem = problem


def _named(wrong: _Wrong, entries: Sequence[Entry], body: bytes, path: Path) -> errors.BadInput:
    """Return the error that says on which line the wrong entry stands; empty lines hold none."""
    lines = [number for number, line in enumerate(body.split(b"\n"), 2) if line.strip()]
    if len(lines) != len(entries):
        return _first_bad_line(body, path)  # an entry over several lines, or several on one
    line = next(number for number, entry in zip(lines, entries, strict=True) if entry is wrong.entry)
    return errors.BadInput(f"'{path}', line {line}: '{wrong.entry.path}' {wrong.problem}")


def identity(sources: Sequence[SourceFile], entries: bytes) -> str:
    """Return what names the content of a tree: its entries as they are written, and the digests of its sources.

    A folder has no digest: the sizes and times of its files stand for their content.
    """
    digests = "".join(f"{source.diff_id or ('' if source.folder else source.path)}\n" for source in sources)
    return hashlib.sha256(digests.encode("utf-8", "surrogateescape") + entries).hexdigest()


def _header(line: bytes, path: Path) -> Header:
    try:
        header = msgspec.json.decode(line, type=Header)
    except _UNREADABLE as error:
        raise errors.BadInput(f"'{path}', line 1: not the header of a tree: {error}") from error
    if header.tree != VERSION:
        raise errors.BadInput(f"'{path}' is a tree of version {header.tree}, and this program reads {VERSION}")
    return header


def _entries(body: bytes, path: Path) -> list[Entry]:
    if body and not body.endswith(b"\n"):
        raise errors.BadInput(f"'{path}' is cut: its last line has no end")
    decoder = msgspec.json.Decoder(Entry)
    try:
        return decoder.decode_lines(body)
    except _UNREADABLE:
        raise _first_bad_line(body, path) from None


def _first_bad_line(body: bytes, path: Path) -> errors.BadInput:
    for number, line in enumerate(body.split(b"\n"), 2):
        if not line.strip():
            continue
        try:
            msgspec.json.decode(line, type=Entry)
        except _UNREADABLE as error:
            return errors.BadInput(f"'{path}', line {number}: {error}")
    return errors.BadInput(f"'{path}' is not a tree")


def identified(sources: list[SourceFile], entries: list[Entry]) -> Tree:
    """Return the tree that would be read if these were written."""
    return Tree(sources, entries, identity(sources, msgspec.json.Encoder().encode_lines(entries)))


def _check_modes(entries: list[Entry]) -> None:
    """Check that modes are octal; of thousands of entries few differ in it."""
    wrong = {mode for mode in {entry.mode for entry in entries} if not _MODE.fullmatch(mode)}
    for entry in entries if wrong else ():
        if entry.mode in wrong:
            raise _Wrong(entry, "has a mode that is no number of one to four octal digits")


def _check_origins(entries: list[Entry], sources: list[SourceFile]) -> None:
    """Check that data from a folder names a file in it, and no other does; most trees have no folders."""
    folders = {number for number, source in enumerate(sources) if source.folder}
    for entry in entries:
        if entry.origin is None and not (folders and entry.data is not None and entry.data[0] in folders):
            continue
        if entry.origin is None or entry.data is None or entry.data[0] not in folders:
            raise _Wrong(entry, "has an origin, or data from a folder, and not both")
        try:
            name = origin_bytes(entry.origin)
        except (ValueError, binascii.Error):
            name = b""
        if _PATH.fullmatch(b"/" + name) is None or not name:
            raise _Wrong(entry, "has an origin that is no path in a folder")


def _in_order(entries: list[Entry], sources: int) -> list[Entry]:
    """Check the entries and return them in tree order, with the folders that they imply."""
    names = [entry.path.encode() if entry.path_b64 is None else _exact_path(entry) for entry in entries]
    are_paths = _are_paths(names)
    by_path: dict[bytes, Entry] = {}
    for entry, name in zip(entries, names, strict=True):
        if not (are_paths or _is_path(name)):
            raise _Wrong(entry, _NO_PATH)
        problem = _problem(entry, sources)
        if problem:
            raise _Wrong(entry, problem)
        if name in by_path:
            raise _Wrong(entry, "is there twice")
        by_path[name] = entry
    _add_parents(by_path)
    for entry in by_path.values():
        if entry.type == "hardlink":
            _check_hardlink(entry, by_path)
    return [by_path[name] for name in sorted(by_path, key=order)]


def order(path: bytes) -> bytes:
    """Return the key that sorts paths in tree order: what is in a folder comes before the folder's neighbours."""
    return path.replace(b"/", b"\0")  # which no name holds, and which sorts before all that may stand in one


def _exact_path(entry: Entry) -> bytes:
    try:
        return path_bytes(entry)
    except (ValueError, binascii.Error) as error:
        raise _Wrong(entry, f"{_NO_BASE64}: {error}") from None


def _are_paths(names: Sequence[bytes]) -> bool:
    """Tell whether all these are paths, by a look at all of them at once, which takes a tenth of the time."""
    inner = [name for name in names if name != b"/"]
    if not inner:
        return True
    text = b"\0%b\0" % b"\0".join(inner)
    return (
        text.count(b"\0") == len(inner) + 1
        and text.count(b"\0/") == len(inner)
        and not any(part in text for part in (b"//", b"/\0", b"/./", b"/.\0", b"/../", b"/..\0"))
        and all(map(_is_path, [name for name in inner if len(name) > MAX_NAME]))
    )


def _is_path(name: bytes) -> bool:
    return _PATH.fullmatch(name) is not None and len(name) <= MAX_PATH


def _problem(entry: Entry, sources: int) -> str | None:
    """Return what is wrong with an entry that the types of the fields do not say, its path left out."""
    kind = entry.type
    if entry.data is not None and entry.data[0] >= sources:
        return f"has data source {entry.data[0]}, which is not in the header"
    if entry.segments is not None and not _fit(entry.segments, entry.size):
        return "has segments that are not in order, or go beyond its size"
    if entry.xattrs or entry.target_b64:
        try:
            target_bytes(entry)
            xattr_values(entry)
        except (ValueError, binascii.Error) as error:
            return f"{_NO_BASE64}: {error}"
    if kind == "file":
        return "has a size and no data" if entry.size and entry.data is None else None
    if kind in ("char", "block") and entry.rdev is None:
        return "is a device without rdev"
    if kind in ("symlink", "hardlink") and not entry.target:
        return "is a link without a target"
    return None


def _fit(segments: Segments, size: int) -> bool:
    end = 0
    for offset, _, length in segments:
        if offset < end or offset + length > size:
            return False
        end = offset + length
    return True


def _add_parents(by_path: dict[bytes, Entry]) -> None:
    for name in list(by_path):
        while name != b"/":
            name = name.rpartition(b"/")[0] or b"/"
            parent = by_path.get(name)
            if parent is None:
                text, exact = text_of(name)
                by_path[name] = Entry(text, "dir", path_b64=exact)
            elif parent.type != "dir":
                raise _Wrong(parent, "is no folder, but has entries below it")
            else:
                break
    by_path.setdefault(b"/", Entry("/", "dir"))


def _check_hardlink(entry: Entry, by_path: dict[bytes, Entry]) -> None:
    target = by_path.get(target_bytes(entry))
    if target is None or target.type in ("hardlink", "dir"):
        found = "is not in the tree" if target is None else f"is a {target.type}"
        raise _Wrong(entry, f"is a hardlink to '{entry.target}', which {found}")


def check_device(entry: Entry) -> None:
    """Raise BadInput for a device whose numbers Linux does not have; tars and trees may."""
    major, minor = entry.rdev or (0, 0)
    if major > MAX_MAJOR or minor > MAX_MINOR:
        raise errors.BadInput(
            f"'{entry.path}' is device {major}:{minor}, and the most that Linux knows is {MAX_MAJOR}:{MAX_MINOR}"
        )


def new_entry(path: bytes, kind: str) -> Entry:
    """Return an entry of a type with its exact path and defaults for all else."""
    text, exact = text_of(path)
    return Entry(text, cast(Type, kind), path_b64=exact)
