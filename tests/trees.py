"""Trees made for tests, and the comparison of two trees entry by entry: a folder on disk, a tree.jsonl, a mount."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from banger_tools import tree
from banger_tools.tree import Entry, Tree

KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
}


class Seen(NamedTuple):
    """Everything that must be equal about one name; `names` are all names of its inode."""

    type: str
    mode: int
    uid: int
    gid: int
    mtime: tuple[int, int]
    size: int
    target: bytes
    rdev: tuple[int, int] | None
    xattrs: tuple[tuple[str, bytes], ...]
    content: str
    names: tuple[bytes, ...]


def of_folder(root: Path, *, ignore: frozenset[bytes] = frozenset()) -> dict[bytes, Seen]:
    """Return what is in a folder of the disk, by absolute path inside it."""
    base = os.fsencode(root)
    paths = [b"/"]
    for folder, folders, names in os.walk(base):
        inside = folder[len(base) :]
        paths += [inside + b"/" + name for name in folders + names]
    paths = [path for path in paths if path not in ignore]
    inodes: dict[int, list[bytes]] = {}
    for path in paths:
        inodes.setdefault(os.lstat(base + path).st_ino, []).append(path)
    return {path: _look(base + path, inodes) for path in paths}


def _look(path: bytes, inodes: dict[int, list[bytes]]) -> Seen:
    info = os.lstat(path)
    kind = KINDS[stat.S_IFMT(info.st_mode)]
    names = os.listxattr(path, follow_symlinks=False)
    xattrs = tuple(sorted((name, os.getxattr(path, name, follow_symlinks=False)) for name in names))
    return Seen(
        kind,
        stat.S_IMODE(info.st_mode),
        info.st_uid,
        info.st_gid,
        divmod(info.st_mtime_ns, 10**9),
        info.st_size if kind == "file" else 0,
        os.readlink(path) if kind == "symlink" else b"",
        (os.major(info.st_rdev), os.minor(info.st_rdev)) if kind in ("char", "block") else None,
        xattrs,
        hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).hexdigest() if kind == "file" else "",
        tuple(sorted(inodes[info.st_ino])) if kind != "dir" else (),
    )


def of_tree(found: Tree) -> dict[bytes, Seen]:
    """Return what a tree.jsonl says, in the same form."""
    by_path = {tree.path_bytes(entry): entry for entry in found.entries}
    names: dict[bytes, list[bytes]] = {}
    for path, entry in by_path.items():
        names.setdefault(tree.target_bytes(entry) if entry.type == "hardlink" else path, []).append(path)
    seen: dict[bytes, Seen] = {}
    for path, entry in by_path.items():
        owner = tree.target_bytes(entry) if entry.type == "hardlink" else path
        seen[path] = _entry(by_path[owner], tuple(sorted(names[owner])), found)
    return seen


def _entry(entry: Entry, names: tuple[bytes, ...], found: Tree) -> Seen:
    return Seen(
        entry.type,
        int(entry.mode, 8),
        entry.uid,
        entry.gid,
        entry.mtime,
        entry.size,
        tree.target_bytes(entry) if entry.type == "symlink" else b"",
        entry.rdev,
        tuple(sorted(tree.xattr_values(entry).items())),
        hashlib.sha256(content(entry, found)).hexdigest() if entry.type == "file" else "",
        names if entry.type != "dir" else (),
    )


def content(entry: Entry, found: Tree) -> bytes:
    """Return the bytes of a file of a tree, holes as zeros."""
    if entry.data is None:
        return bytes(entry.size)
    source, offset = entry.data
    segments = entry.segments if entry.segments is not None else [(0, offset, entry.size)]
    data = bytearray(entry.size)
    path = os.fsencode(found.sources[source].path)
    if entry.origin is not None:
        path += b"/" + tree.origin_bytes(entry.origin)
    with open(path, "rb") as file:
        for start, place, length in segments:
            file.seek(place)
            data[start : start + length] = file.read(length)
    return bytes(data)


def differences(ours: dict[bytes, Seen], reference: dict[bytes, Seen]) -> list[str]:
    """Return what differs between two trees, in words; empty if nothing does."""
    lines = [f"missing: {path!r}" for path in sorted(reference.keys() - ours.keys())]
    lines += [f"extra: {path!r}" for path in sorted(ours.keys() - reference.keys())]
    for path in sorted(ours.keys() & reference.keys()):
        for field, mine, theirs in zip(Seen._fields, ours[path], reference[path], strict=True):
            if mine != theirs:
                lines.append(f"{path!r}: {field}: {mine!r}, and the reference has {theirs!r}")
    return lines


def add(
    archive: tarfile.TarFile, name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **fields: Any
) -> tarfile.TarInfo:
    """Add one entry to an archive; xattrs go into `pax_headers` as SCHILY.xattr.NAME."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mtime = kind, len(data), 1_600_000_000
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for field, value in fields.items():
        setattr(info, field, value)
    archive.addfile(info, io.BytesIO(data))
    return info


@contextlib.contextmanager
def new_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """Make a PAX tar."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        yield archive


@contextlib.contextmanager
def mounted(image: Path, where: Path, options: str = "ro,loop") -> Iterator[Path]:
    """Mount an ext4 image by the kernel, as root; a read-only mount replays no journal."""
    where.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "ext4", "-o", options, image, where], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", where], check=True)


def fsck(image: Path) -> None:
    """Assert that e2fsck finds nothing to complain of."""
    done = subprocess.run(["/sbin/e2fsck", "-fn", image], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
