"""Writing a tree as a folder, to look at and to edit.

Nothing outside the folder is touched, whatever the tree says and whoever changes the folder meanwhile: it is made
under a private name, entered by descriptors and never through a symlink, and only what was just made is changed. What
this user may not set is left out and counted. Unlike artifacts it is not synced: no manifest leads to it, and it can be
made again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from banger_tools import errors, files, tree
from banger_tools.contents import Contents
from banger_tools.folder import Opener
from banger_tools.tree import Entry, Tree

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_HANDLE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_SPECIAL = {"char": stat.S_IFCHR, "block": stat.S_IFBLK, "fifo": stat.S_IFIFO}
_REFUSALS = (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.EINVAL, errno.E2BIG, errno.ERANGE)
_XATTR_ROOM = 1 << 20  # more than all xattrs of a file may need, and the blocks that the filesystem adds
_SET_IDS = 0o6000

Target = int | str  # a descriptor, or a path that stands for one


class Missing:
    """How many things could not be set or made."""

    def __init__(self) -> None:
        self.devices = self.owners = self.modes = self.xattrs = 0

    def __str__(self) -> str:
        counts = {"devices": self.devices, "owners": self.owners, "modes": self.modes, "xattrs": self.xattrs}
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


class _Open(NamedTuple):
    """A folder that is being filled."""

    name: bytes
    descriptor: int
    entry: Entry


class Unpacker:
    """One folder being filled, entry by entry in tree order; a folder is finished when the walk leaves it."""

    def __init__(self, root: int, contents: Contents) -> None:
        self.contents = contents
        self.missing = Missing()
        self.chain: list[_Open] = []
        self.root = root
        self.links = Opener(root, "")
        self.ordinary = os.geteuid() != 0
        self.skipped: set[bytes] = set()

    def fill(self, found: Tree) -> None:
        """Make everything that is in a tree."""
        self.chain = [_Open(b"", self.root, found.entries[0])]
        for entry in found.entries[1:]:
            path = tree.path_bytes(entry)
            *folders, name = path[1:].split(b"/")
            self.leave(len(folders) + 1)
            self.make(entry, path, name, self.chain[-1].descriptor)
        self.leave(1)
        self.settle(self.root, found.entries[0])

    def leave(self, depth: int) -> None:
        """Finish the folders below a depth."""
        while len(self.chain) > depth:
            folder = self.chain.pop()
            try:
                self.settle(folder.descriptor, folder.entry)
            finally:
                os.close(folder.descriptor)

    def close(self) -> None:
        """Close what is still open after a failure."""
        self.links.leave()
        for folder in self.chain[1:]:
            os.close(folder.descriptor)

    def make(self, entry: Entry, path: bytes, name: bytes, folder: int) -> None:
        """Make one entry in a folder that is open."""
        match entry.type:
            case "dir":
                os.mkdir(name, 0o700, dir_fd=folder)
                self.chain.append(_Open(name, os.open(name, _FOLDER, dir_fd=folder), entry))
            case "file":
                self.make_file(entry, name, folder)
            case "hardlink":
                self.make_link(entry, name, folder)
            case "symlink":
                os.symlink(tree.target_bytes(entry), name, dir_fd=folder)
                self.settle_special(entry, name, folder, stat.S_IFLNK)
            case _:
                self.make_special(entry, path, name, folder)

    def make_file(self, entry: Entry, name: bytes, folder: int) -> None:
        descriptor = os.open(name, _NEW_FILE, 0o600, dir_fd=folder)
        try:
            with self.contents.file(entry) as (source, segments):
                os.ftruncate(descriptor, entry.size)
                for offset, place, length in segments:
                    files.copy_range(source, place, descriptor, offset, length)
            self.settle(descriptor, entry)
        finally:
            os.close(descriptor)

    def make_link(self, entry: Entry, name: bytes, folder: int) -> None:
        target = tree.target_bytes(entry)
        if target in self.skipped:
            return
        *folders, last = target[1:].split(b"/")
        os.link(last, name, src_dir_fd=self.links.folder(folders), dst_dir_fd=folder, follow_symlinks=False)

    def make_special(self, entry: Entry, path: bytes, name: bytes, folder: int) -> None:
        """Make a device or a fifo; a device that this user may not make is left out."""
        tree.check_device(entry)
        kind = _SPECIAL[entry.type]
        try:
            os.mknod(name, kind | 0o600, os.makedev(*entry.rdev) if entry.rdev else 0, dir_fd=folder)
        except PermissionError:
            self.missing.devices += 1
            self.skipped.add(path)
            return
        self.settle_special(entry, name, folder, kind)

    def settle_special(self, entry: Entry, name: bytes, folder: int, kind: int) -> None:
        """Settle what cannot be opened for writing, after making sure that it is what was just made."""
        handle = os.open(name, _HANDLE, dir_fd=folder)
        try:
            info = os.fstat(handle)
            if stat.S_IFMT(info.st_mode) != kind or info.st_nlink != 1:
                raise errors.BadInput(f"'{entry.path}' was replaced by somebody else while it was made")
            self.settle(f"/proc/self/fd/{handle}", entry)
        finally:
            os.close(handle)

    def settle(self, target: Target, entry: Entry) -> None:
        """Give what was made its owner, mode, xattrs and times."""
        owned = self.own(target, entry)
        if self.ordinary:  # what is read-only takes no xattrs
            self.set_xattrs(target, entry)
            self.set_mode(target, entry, owned=owned)
        else:  # an ACL has a say in the mode: it comes last
            self.set_mode(target, entry, owned=owned)
            self.set_xattrs(target, entry)
        nanoseconds = entry.mtime[0] * 10**9 + entry.mtime[1]
        os.utime(target, ns=(nanoseconds, nanoseconds))

    def own(self, target: Target, entry: Entry) -> bool:
        """Set the owner, and tell whether it is what it is to be."""
        try:
            os.chown(target, entry.uid, entry.gid)
        except OSError as error:
            if error.errno not in _REFUSALS:
                raise
            self.missing.owners += 1
            return False
        return True

    def set_mode(self, target: Target, entry: Entry, *, owned: bool) -> None:
        """Set the mode: no set-id bit that would act for another owner, and readable for an ordinary user."""
        if entry.type == "symlink":
            return
        wanted = mode = int(entry.mode, 8)
        if not owned and entry.type != "dir":
            mode &= ~_SET_IDS
        if self.ordinary:
            mode |= 0o700 if entry.type == "dir" else 0o400
        try:
            os.chmod(target, mode)
        except PermissionError:
            mode = -1
        self.missing.modes += mode != wanted

    def set_xattrs(self, target: Target, entry: Entry) -> None:
        for name, value in tree.xattr_values(entry).items():
            try:
                os.setxattr(target, name, value)
            except OSError as error:
                if error.errno not in _REFUSALS and not (error.errno == errno.ENOSPC and self.has_room()):
                    raise
                self.missing.xattrs += 1

    def has_room(self) -> bool:
        """Tell whether the disk is not full: ext4 says so, too, where xattrs need more than the one block they get."""
        disk = os.fstatvfs(self.root)
        return disk.f_bavail * disk.f_frsize >= _XATTR_ROOM


def unpack(found: Tree, contents: Contents, folder: Path) -> Missing:
    """Make everything that is in a tree in a new, empty folder; return what could not be set.

    Raises BadInput naming an entry whose file changed.
    """
    _allow_depth()
    root = os.open(folder, _FOLDER)
    unpacker = Unpacker(root, contents)
    try:
        unpacker.fill(found)
    finally:
        unpacker.close()
        os.close(root)
    return unpacker.missing


def _allow_depth() -> None:
    """Allow as many open folders as a deep tree needs, of which each level takes one or two."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most if most != resource.RLIM_INFINITY else 1 << 16, most))


def refuse_taken(target: Path) -> None:
    """Raise CannotCreate unless a folder can be made at `target`: nothing is there, or an empty folder to replace."""
    try:
        taken = bool(os.listdir(target)) or target.is_symlink()
    except FileNotFoundError:
        taken = os.path.lexists(target)
    except NotADirectoryError:
        taken = True
    except OSError as error:
        raise errors.os_error(error, f"cannot read '{target}'") from error
    if taken:
        raise errors.CannotCreate(f"'{target}' exists and is not an empty folder", "name one that is new, or empty")
    if target.is_mount():
        raise errors.CannotCreate(f"'{target}' is a mount point", f"name a folder in it: --dir='{target}/tree'")
    if not target.parent.is_dir():
        raise errors.CannotCreate(f"cannot make '{target}': its folder does not exist", f"mkdir -p '{target.parent}'")


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a private folder to fill; on success it becomes `target`, else it is gone.

    Raises CannotCreate before the work if `target` is no empty folder, and again after it.
    """
    refuse_taken(target)
    temporary = files.temporary_name(target)
    try:
        temporary.mkdir(mode=0o700)
        yield temporary
        _place(temporary, target)
    except OSError as error:
        raise errors.os_error(error, f"cannot write '{target}'") from error
    finally:
        if os.path.lexists(temporary):
            _let_remove(temporary)
            files.discard(temporary)


def _place(temporary: Path, target: Path) -> None:
    try:
        os.rename(temporary, target)  # takes the place of an empty folder, and of nothing else
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EBUSY):
            raise
        raise errors.CannotCreate(f"'{target}' was taken meanwhile, or something is mounted there") from error
    files.forget_temporary(temporary)
    files.sync_folder(target.parent)


def _let_remove(folder: Path) -> None:
    """Make all folders writable, so that an ordinary user can remove them; nothing that a symlink names is touched."""
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 10_000))  # rmtree calls itself for each level
    pending = [folder]
    while pending:
        place = pending.pop()
        with contextlib.suppress(OSError):
            handle = os.open(place, _HANDLE | os.O_DIRECTORY)
            try:
                os.chmod(f"/proc/self/fd/{handle}", 0o700)
            finally:
                os.close(handle)
            pending += [Path(one.path) for one in os.scandir(place) if one.is_dir(follow_symlinks=False)]
