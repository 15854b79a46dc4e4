"""A folder on disk as the members of a layer, and later as the place that the data of its files comes from.

Folders are walked by descriptors and never through a symlink, so what is changed meanwhile cannot lead elsewhere. What
makes a folder a file tree: an ordinary user's own files belong to root, as that user's namespace would show them; other
owners are kept. Sockets, and what other filesystems have mounted below, are left out with a warning.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from banger_tools import console, errors, files, tree
from banger_tools.tar import BLOCK_DEVICE, CHAR, DIR, FIFO, FILE, HARDLINK, SYMLINK, Member
from banger_tools.tree import Entry, Origin, Segments

_TYPES = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: DIR,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: CHAR,
    stat.S_IFBLK: BLOCK_DEVICE,
    stat.S_IFIFO: FIFO,
}
# These belong to the machine that the folder is on, and mean nothing or harm on another.
_OF_THIS_MACHINE = frozenset({"security.selinux", "security.ima", "security.evm", "system.nfs4_acl"})
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
Excluded = Callable[[bytes, bool], bool]
MAX_DEPTH = 500  # each level takes a descriptor


class Scan:
    """One walk through a folder: `members` yields what is in it, `origins` remembers where the data of files stands."""

    def __init__(self, path: Path, excluded: Excluded | None = None) -> None:
        self.path = path
        self.excluded = excluded
        self.origins: list[Origin] = []
        self.unreadable: list[bytes] = []
        self.first_names: dict[tuple[int, int], bytes] = {}
        self.device = -1
        self.user = os.geteuid()
        self.group = os.getegid()

    def members(self) -> Iterator[Member]:
        """Yield the folder itself and everything in it, folders before what they hold, names sorted.

        The offset of a member's data is the number of its origin. Raises NoInput, or Denied naming what is unreadable.
        """
        try:
            top = os.open(self.path, _FOLDER & ~os.O_NOFOLLOW)
        except OSError as error:
            raise errors.os_error(error, f"cannot read '{self.path}'") from error
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, top)
            info = os.fstat(top)
            self.device = info.st_dev
            yield self.member(b"", info, top, b".")
            yield from self.below(b"", top)
        if self.unreadable:
            raise self.denied()

    def below(self, prefix: bytes, folder: int) -> Iterator[Member]:
        """Yield what a folder holds, and what its subfolders hold."""
        pending: list[tuple[bytes, int, Iterator[bytes]]] = [(prefix, folder, self.names(folder))]
        opened: list[int] = []
        try:
            while pending:
                prefix, folder, names = pending[-1]
                name = next(names, None)
                if name is None:
                    pending.pop()
                    if pending:
                        os.close(opened.pop())
                    continue
                info = os.stat(name, dir_fd=folder, follow_symlinks=False)
                path = prefix + name
                if self.excluded is not None and self.excluded(b"/" + path, stat.S_ISDIR(info.st_mode)):
                    continue
                if stat.S_ISSOCK(info.st_mode):
                    console.warning(f"left out the socket '{self.shown(path)}'")
                    continue
                yield self.member(path, info, folder, name)
                if stat.S_ISDIR(info.st_mode) and self.enters(path, info):
                    opened.append(self.open_folder(name, folder, path))
                    pending.append((path + b"/", opened[-1], self.names(opened[-1])))
        except OSError as error:
            raise errors.os_error(error, f"cannot read '{self.shown(path)}'") from error
        finally:
            for descriptor in opened:
                os.close(descriptor)

    @staticmethod
    def names(folder: int) -> Iterator[bytes]:
        return iter(sorted(map(os.fsencode, os.listdir(folder))))

    def enters(self, path: bytes, info: os.stat_result) -> bool:
        """Tell whether to go on below a folder: not where another filesystem begins."""
        if info.st_dev != self.device:
            console.warning(f"left out what is mounted at '{self.shown(path)}': it is another filesystem")
            return False
        if path.count(b"/") >= MAX_DEPTH:
            raise errors.BadInput(f"'{self.shown(path[:100])}…' is more than {MAX_DEPTH} folders deep")
        return True

    def open_folder(self, name: bytes, folder: int, path: bytes) -> int:
        try:
            return os.open(name, _FOLDER, dir_fd=folder)
        except OSError as error:
            raise errors.os_error(error, f"cannot read '{self.shown(path)}'") from error

    def member(self, path: bytes, info: os.stat_result, folder: int, name: bytes) -> Member:
        """Return the member that a name stands for."""
        kind = _TYPES[stat.S_IFMT(info.st_mode)]
        uid = 0 if self.user and info.st_uid == self.user else info.st_uid
        gid = 0 if self.user and info.st_gid == self.group else info.st_gid
        mtime = divmod(info.st_mtime_ns, 10**9)
        if kind != DIR and info.st_nlink > 1:
            first = self.first_names.setdefault((info.st_dev, info.st_ino), path)
            if first is not path:
                return Member(path, HARDLINK, 0, uid, gid, mtime, 0, first, None, None, 0, None)
        return Member(
            path,
            kind,
            stat.S_IMODE(info.st_mode),
            uid,
            gid,
            mtime,
            info.st_size if kind == FILE else 0,
            os.readlink(name, dir_fd=folder) if kind == SYMLINK else b"",
            (os.major(info.st_rdev), os.minor(info.st_rdev)) if kind in (CHAR, BLOCK_DEVICE) else None,
            self.xattrs(folder, name),
            self.origin(path, mtime) if kind == FILE else 0,
            self.data(path, info, folder, name) if kind == FILE and info.st_size else None,
        )

    def origin(self, path: bytes, mtime: tuple[int, int]) -> int:
        text, exact = tree.text_of(path)
        self.origins.append(Origin(text, mtime, exact))
        return len(self.origins) - 1

    def data(self, path: bytes, info: os.stat_result, folder: int, name: bytes) -> Segments | None:
        """Make sure that a file can be read, and return its ranges of data if it has holes."""
        sparse = info.st_blocks * 512 < info.st_size
        if not sparse and (self.user == 0 or os.access(name, os.R_OK, dir_fd=folder, effective_ids=True)):
            return None
        try:
            descriptor = os.open(name, _FILE, dir_fd=folder)
        except PermissionError:
            self.unreadable.append(path)
            return None
        try:
            ranges = list(files.data_ranges(descriptor, 0, info.st_size))
        finally:
            os.close(descriptor)
        return None if ranges == [(0, info.st_size)] else [(start, start, end - start) for start, end in ranges]

    @staticmethod
    def xattrs(folder: int, name: bytes) -> dict[str, bytes] | None:
        """Return the extended attributes of a name that is not followed; None if it has none."""
        path = b"/proc/self/fd/%d/%s" % (folder, name)  # the calls that take a folder's descriptor are newer than us
        try:
            found = [key for key in os.listxattr(path, follow_symlinks=False) if key not in _OF_THIS_MACHINE]
        except OSError:  # a filesystem without them
            return None
        return {key: os.getxattr(path, key, follow_symlinks=False) for key in found} or None

    def place(self, entry: Entry, number: int, source: int) -> None:
        """Say in an entry that its data is in the file with a number, of the source which this folder is."""
        entry.data, entry.origin = (source, 0), self.origins[number]

    def shown(self, path: bytes) -> str:
        return f"{self.path}/{os.fsdecode(path)}"

    def denied(self) -> errors.Denied:
        """Return the error that names the files which cannot be read."""
        named = ", ".join(f"'{self.shown(path)}'" for path in self.unreadable[:5])
        more = f" and {len(self.unreadable) - 5} more" if len(self.unreadable) > 5 else ""
        hint = "run as a user who may, or leave them out: bg-flatten --exclude"
        return errors.Denied(f"cannot read {named}{more}: permission denied", hint)


class Opener:
    """Opens files of folders for their data, walking by descriptors; neighbours share the folders that they are in."""

    def __init__(self, root: int, path: str) -> None:
        self.path = path
        self.chain: list[tuple[bytes, int]] = [(b"", root)]

    def open(self, origin: Origin, size: int) -> int:
        """Return a new descriptor of a file, which must be what the tree says; the caller closes it.

        Raises BadInput naming it if it changed, NoInput or Denied if it cannot be read.
        """
        *folders, name = tree.origin_bytes(origin).split(b"/")
        try:
            descriptor = os.open(name, _FILE, dir_fd=self.folder(folders))
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):  # a symlink or a file took the place of a name
                raise self.changed(origin) from error
            raise errors.os_error(error, f"cannot read '{self.path}/{origin.path}'") from error
        try:
            self.check(descriptor, origin, size)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def check(self, descriptor: int, origin: Origin, size: int) -> None:
        """Raise BadInput if an open file is not, or no longer, what the tree says."""
        info = os.fstat(descriptor)
        same = (info.st_size, divmod(info.st_mtime_ns, 10**9)) == (size, origin.mtime)
        if not stat.S_ISREG(info.st_mode) or not same:
            raise self.changed(origin)

    def changed(self, origin: Origin) -> errors.BadInput:
        return errors.BadInput(
            f"'{self.path}/{origin.path}' changed after the tree was made", "make the tree again: bg-flatten"
        )

    def folder(self, names: list[bytes]) -> int:
        """Return the descriptor of a folder, opening only what the one before did not have open."""
        depth = 1
        while depth < len(self.chain) and depth <= len(names) and self.chain[depth][0] == names[depth - 1]:
            depth += 1
        self.leave(depth)
        for name in names[depth - 1 :]:
            self.chain.append((name, os.open(name, _FOLDER, dir_fd=self.chain[-1][1])))
        return self.chain[-1][1]

    def leave(self, depth: int = 1) -> None:
        """Close the folders from a depth on; the root stays open."""
        while len(self.chain) > depth:
            os.close(self.chain.pop()[1])
