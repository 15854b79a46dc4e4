"""Files between this host and machines that run, as tar streams through the agent.

Nothing that a guest sends gets out of the folder that it was meant for: it is unpacked in a private one, by descriptors
and never through a symlink, and put into its place name by name.
"""

from __future__ import annotations

import contextlib
import io
import os
import posixpath
import re
import stat
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from banger_tools import console, errors, files, sizes
from banger_tools.vmm import inside

if TYPE_CHECKING:
    from banger_tools.agent.client import Agent
    from banger_tools.tree import Entry, Tree

HOME = "/root"  # what paths of a guest are relative to, as with scp(1)
FOLDER, FILE, MISSING = "folder", "file", "missing"
_CHUNK = 1 << 18
_ENTRIES = 1_000_000  # of an archive that a guest sends; each takes a kilobyte of memory
# Bytes of a disk that a guest leaves to others, or a twentieth of it, or half of what is free: the least of these.
_RESERVE = 1 << 30
_ENTRY = 4096  # bytes that a file or folder takes of a disk beside its content
_STREAM = "as a stream it has no bounds: banger vm cp {} - | tar -x"
_PLACES = "write a path of a machine as NAME:PATH"
_KEPT = ("user.", "trusted.", "security.capability", "system.posix_acl_")  # the rest is about one host alone


class Place(NamedTuple):
    """A path of a machine, or of this host if `name` is None; `-` is a stream on stdin or stdout."""

    name: str | None
    path: str

    @property
    def is_stream(self) -> bool:
        """Whether it is stdin or stdout."""
        return self.name is None and self.path == "-"

    @property
    def contents(self) -> bool:
        """Whether what is in a folder is meant, and not the folder: one that has no name, as in cp(1)."""
        return self.last in ("", ".", "..")

    @property
    def last(self) -> str:
        """The last name of the path."""
        return posixpath.basename(self.path.rstrip("/"))

    def __str__(self) -> str:
        return self.path if self.name is None else f"{self.name}:{self.path}"


class Goal(NamedTuple):
    """The folder into which something goes, and its name there; None: what is in it goes there."""

    folder: str
    name: str | None


def place(text: str) -> Place:
    """Return what `NAME:PATH` or `PATH` stands for; a file of this host with such a name is `./NAME:PATH`."""
    match = re.fullmatch(r"([a-z0-9][a-z0-9-]*):(.*)", text, re.DOTALL)
    if match is None:
        return Place(None, text)
    return Place(match[1], posixpath.join(HOME, match[2]))


def goal(target: Place, kind: str, parent: str, source: Place, *, folder: bool) -> Goal:
    """Return where a source goes, by the rules of cp(1); `kind` and `parent` are what the target and its parent are.

    Raises CannotCreate if it cannot go there.
    """
    if kind == FOLDER:
        return Goal(target.path, None if source.contents else source.last)
    if kind == FILE and (folder or target.path.endswith("/")):
        raise errors.CannotCreate(f"'{target}' is no folder")
    if kind == MISSING and target.path.endswith("/") and not folder:
        raise errors.CannotCreate(f"there is no folder '{target}'")
    above, name = posixpath.split(target.path.rstrip("/"))
    if parent != FOLDER:
        raise errors.CannotCreate(f"there is no folder '{target._replace(path=above)}'", "make it first")
    return Goal(above or ".", name)


def copy(sources: Sequence[Place], target: Place, *, archive: bool) -> None:
    """Copy files and folders; with `archive` they keep their owners and all else.

    Raises BadUsage unless exactly one side is one of this host; CannotCreate if there is no place for them.
    """
    for source in sources:
        if (source.name is None) == (target.name is None):
            hint = "banger vm cp ONE:PATH - | banger vm cp - OTHER:PATH" if source.name else _PLACES
            raise errors.BadUsage(f"'{source}' and '{target}' are on the same side", hint)
    if len(sources) > 1 and (target.is_stream or _kind(target) != FOLDER):
        raise errors.CannotCreate(f"'{target}' is no folder, and several things are to be put there")
    for source in sources:
        if target.is_stream:
            _print(source)
        elif source.is_stream:
            _unpack_stdin(target)
        elif target.name is not None:
            _upload(source, target, archive=archive)
        else:
            _download(source, target, archive=archive)


def _agent(place: Place) -> Agent:
    return inside.agent(str(place.name))


def _kind(place: Place) -> str:
    """Return what is at a place: a folder, also by way of symlinks, something else, or nothing."""
    if place.name is None:
        return FOLDER if os.path.isdir(place.path) else FILE if os.path.lexists(place.path) else MISSING
    for path, kind in ((place.path.rstrip("/") + "/.", FOLDER), (place.path.rstrip("/") or "/", FILE)):
        try:
            next(pieces := _agent(place).get_files(path), b"")
            pieces.close()  # type: ignore[attr-defined]
        except (errors.NoInput, errors.Denied):
            continue
        return kind
    return MISSING


def _parent(place: Place) -> Place:
    return place._replace(path=posixpath.dirname(place.path.rstrip("/")) or ("/" if place.path[:1] == "/" else "."))


# To the guest -----------------------------------------------------------------


def _upload(source: Place, target: Place, *, archive: bool) -> None:
    try:
        folder = stat.S_ISDIR(os.lstat(source.path).st_mode)
    except OSError as error:
        raise errors.os_error(error, f"cannot read '{source}'") from error
    kind = _kind(target)
    parent = FOLDER if kind == FOLDER else _kind(_parent(target))
    where = goal(target, kind, parent, source, folder=folder)
    with console.progress(str(source)) as bar:
        _agent(target).put_files(where.folder, _counted(pack(source.path, where.name, archive=archive), bar))


def _counted(pieces: Iterator[bytes], bar: console.Progress) -> Iterator[bytes]:
    for piece in pieces:
        bar.update(len(piece))
        yield piece


def pack(path: str, name: str | None, *, archive: bool) -> Iterator[bytes]:
    """Yield a tar of a file or folder under another name, or of what is in it; without `archive` all is root's.

    Symlinks stay symlinks, names of one file stay so, and sockets are left out. Raises BadInput for a file that changes
    meanwhile.
    """
    with tarfile.open(fileobj=io.BytesIO(), mode="w", format=tarfile.PAX_FORMAT) as known:
        for found, inner in _walk(path, name):
            try:
                if stat.S_ISSOCK(os.lstat(found).st_mode):
                    continue
                info = known.gettarinfo(found, inner)
                _describe(info, found, archive=archive)
                yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
                if info.isreg():
                    yield from _content(found, info.size)
            except OSError as error:
                raise errors.os_error(error, f"cannot read '{found}'") from error
    yield bytes(2 * tarfile.BLOCKSIZE)


def _describe(info: tarfile.TarInfo, path: str, *, archive: bool) -> None:
    """Say whose a file is to be in the guest: with `archive` whose it is here, with its attributes, else root's."""
    info.uname = info.gname = ""
    if archive:
        info.pax_headers = {} if info.islnk() else _attributes(path)
    else:
        info.uid = info.gid = 0
        info.mode &= 0o1777  # what is to run as its owner must not come to run as root


def _attributes(path: str) -> dict[str, str]:
    """Return the extended attributes of a file that mean the same in a guest, as records of pax(1) by GNU tar's names.

    A value is bytes: those that are no UTF-8 are escaped, and come out of the archive's encoding as they were. Raises
    BadInput for a name that is no UTF-8.
    """
    found = {}
    with contextlib.suppress(OSError):  # a filesystem without them
        for name in os.listxattr(path, follow_symlinks=False):
            if not name.startswith(_KEPT):
                continue
            if name != os.fsencode(name).decode("utf-8", "replace"):
                raise errors.BadInput(f"'{path}' has an extended attribute whose name is no UTF-8")
            value = os.getxattr(path, name, follow_symlinks=False)
            key = "SCHILY.xattr." + name.replace("%", "%25").replace("=", "%3D")
            found[key] = value.decode("utf-8", "surrogateescape")
    return found


def _walk(path: str, name: str | None) -> Iterator[tuple[str, str]]:
    """Yield a path and all below it, each with its name in the archive; folders come before what is in them."""
    pending = [(path, name or "")]
    while pending:
        found, inner = pending.pop()
        if inner:
            yield found, inner
        if os.path.isdir(found) and (not inner or not os.path.islink(found)):
            try:
                names = sorted(os.listdir(found), reverse=True)
            except OSError as error:
                raise errors.os_error(error, f"cannot read '{found}'") from error
            pending += [(os.path.join(found, child), posixpath.join(inner, child)) for child in names]


def _content(path: str, size: int) -> Iterator[bytes]:
    """Yield exactly `size` bytes of a file, and what fills its last block."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        left = size
        while left > 0:
            data = os.read(descriptor, min(_CHUNK, left))
            if not data:
                raise errors.BadInput(f"'{path}' became shorter while it was read")
            left -= len(data)
            yield data
    finally:
        os.close(descriptor)
    yield bytes(-size % tarfile.BLOCKSIZE)


def _unpack_stdin(target: Place) -> None:
    if os.isatty(0):
        raise errors.BadUsage("no archive: stdin is a terminal")
    if _kind(target) != FOLDER:
        raise errors.CannotCreate(f"there is no folder '{target}'", "make it first")
    _agent(target).put_files(target.path, iter(lambda: os.read(0, _CHUNK), b""))


# To the host ------------------------------------------------------------------


def _print(source: Place) -> None:
    if os.isatty(1):
        raise errors.BadUsage("an archive is nothing for a terminal", "redirect stdout, or pipe it into tar")
    for piece in _agent(source).get_files(_asked(source)):
        sys.stdout.buffer.write(piece)


def _asked(source: Place) -> str:
    """Return the path that the agent is asked for; one that ends in a slash is followed there, if it is a symlink."""
    return source.path.rstrip("/") + "/." if source.contents else source.path


def _download(source: Place, target: Place, *, archive: bool) -> None:
    """Fetch an archive, unpack it in private, and put what was asked for into its place."""
    kind = _kind(target)
    parent = FOLDER if kind == FOLDER else _kind(_parent(target))
    beside = Path(target.path) if kind == FOLDER else Path(_parent(target).path)
    goal(target, kind, parent, source, folder=source.contents or kind != FILE)
    try:
        with files.temporary_folder(beside / "copy") as work:
            room = Room(work, source)
            _fetch(source, work / "archive.tar", room)
            (work / "tree").mkdir(mode=0o700)
            _unpack(work / "archive.tar", work / "tree", room, archive=archive)
            came = work / "tree" if source.contents else work / "tree" / source.last
            if not os.path.lexists(came):
                raise errors.BadInput(f"'{source}' is nothing that can be copied")
            where = goal(target, kind, parent, source, folder=came.is_dir() and not came.is_symlink())
            _put(came, Path(os.path.realpath(where.folder), where.name or "."))
    except OSError as error:
        raise errors.os_error(error, f"cannot write '{target}'") from error


class Room:
    """What a guest may take of the disk that a folder is on: never all, and not what others may need."""

    def __init__(self, folder: Path, source: Place) -> None:
        self.source = source
        self._folder = folder
        disk = os.statvfs(folder)
        whole, free = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
        self._bytes_left = min(_RESERVE, whole // 20, free // 2)
        self._files_left = min(disk.f_files // 20, disk.f_favail // 2)

    def check(self, needed: int, files: int = 1) -> None:
        """Raise IOFailure unless so many bytes, and files, more leave enough for others."""
        disk = os.statvfs(self._folder)
        spare = disk.f_bavail * disk.f_frsize - self._bytes_left
        if needed > spare or (disk.f_files and files > disk.f_favail - self._files_left):
            text = f"'{self.source}' is too large for the disk here: {sizes.show(max(spare, 0))} of it may be filled"
            raise errors.IOFailure(text, _STREAM.format(self.source))


def _fetch(source: Place, archive: Path, room: Room) -> None:
    with open(archive, "xb") as file, console.progress(str(source)) as bar:
        for piece in _agent(source).get_files(_asked(source)):
            room.check(len(piece))
            file.write(piece)
            bar.update(len(piece))


def _unpack(path: Path, folder: Path, room: Room, *, archive: bool) -> None:
    """Unpack a guest's archive; without `archive` it becomes ours, as if we had written it."""
    from banger_tools.tree import SourceFile, Tree

    label, size = str(room.source), path.stat().st_size
    entries = _entries(path, label)
    room.check(size + _ENTRY * len(entries), len(entries))
    sources = [SourceFile(str(path), None, size)]
    if not archive:
        entries = _ours(entries, label)
    _fill(Tree(sources, entries), folder, label)


def _entries(path: Path, label: str) -> list[Entry]:
    """Return the tree in a guest's archive; raises BadInput for one that is hostile, damaged or too large."""
    from banger_tools import layers, tar

    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        members = tar.members(descriptor, vouched=False)
        replay = layers.merge([(f"'{label}'", members)], layers.Limits(entries=_ENTRIES), literal=True)
        return replay.tree_entries()
    finally:
        os.close(descriptor)


def _fill(found: Tree, folder: Path, label: str) -> None:
    from banger_tools import contents, unpack

    with contents.opened(found.sources, found.entries) as opened:
        missing = str(unpack.unpack(found, opened, folder))
    if missing:
        console.warning(f"'{label}': what this user may not set is missing: {missing}")


def _ours(entries: Sequence[Entry], label: str) -> list[Entry]:
    """Return entries as this user would have made them: no other owner, set-id bit, device or attribute of root's."""
    from banger_tools import tree

    devices = {tree.path_bytes(entry) for entry in entries if entry.type in ("char", "block")}
    if devices:
        console.warning(f"'{label}': {len(devices)} devices were left out; --archive keeps them")
    kept = [e for e in entries if not {tree.path_bytes(e), e.type == "hardlink" and tree.target_bytes(e)} & devices]
    for entry in kept:
        entry.uid, entry.gid = os.geteuid(), os.getegid()
        entry.mode = f"{int(entry.mode, 8) & 0o1777:04o}"
        own = {key: value for key, value in (entry.xattrs or {}).items() if key.startswith("user.")}
        entry.xattrs = own or None
    return kept


def _put(source: Path, target: Path) -> None:
    """Put a file or folder into its place, into a folder that is there already; no symlink is followed on the way."""
    there = target.lstat().st_mode if os.path.lexists(target) else None
    if source.is_symlink() or not source.is_dir():
        if there is not None and stat.S_ISDIR(there):
            raise errors.CannotCreate(f"'{target}' is a folder, and none is to be put there")
        os.replace(source, target)
    elif there is None:
        os.rename(source, target)
    elif stat.S_ISDIR(there):
        for name in sorted(os.listdir(source)):
            _put(source / name, target / name)
    else:
        raise errors.CannotCreate(f"'{target}' is no folder, and one is to be put there")
