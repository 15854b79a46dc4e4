"""Bundles of kernels: a `.tar.zst` of `vmlinux`, and perhaps `initrd.img`, `modules/` and `config`, and nothing else.

Its members go into a folder of our own: there are no links in it, and no name leads out of it. Links, devices and all
else that is neither a file nor a folder is refused; only the links `build` and `source`, which every installation of
modules has, to folders of the machine that built them, are left out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from banger_tools import errors, sizes
from banger_tools.catalog import archive
from banger_tools.catalog import bundle as bundles
from banger_tools.catalog.unpacking import Task
from banger_tools.kernel.sources import INITRD, Archive, Parts
from banger_tools.oci.cache import Cache
from banger_tools.oci.cancel import Cancel
from banger_tools.oci.pull import Wants

KERNEL, MODULES, CONFIG = "vmlinux", "modules", "config"
HINT = "a kernel's bundle is made so: tar -C DIR -c vmlinux modules | zstd >NAME.tar.zst"
LARGEST = 8 << 30  # bytes of all files together; a distribution's modules take 400 MB
MOST = 100_000  # files and folders; a distribution has 6,000 modules
_FILES = (KERNEL, INITRD, CONFIG)
_LEFT_OUT = ("build", "source")
_SYMLINK, _FOLDER = b"2", b"5"


def fetch(source: Archive, wants: Wants, cache: Cache, folder: Path) -> tuple[Parts, str]:
    """Unpack a kernel's bundle into an empty folder; return its parts, and the digest of its compressed bytes.

    Raises what `catalog.bundle.fetch` raises.
    """
    content = Content(folder, wants.limits.image, f"the bundle '{source.bundle.location}'")
    digest = bundles.obtain(Task(source.bundle, source.size, cache, wants, content, Cancel()))
    return content.parts(), digest


class Content:
    """The folder that a kernel's bundle is unpacked into."""

    hint = HINT

    def __init__(self, folder: Path, limit: int, what: str) -> None:
        self._folder = folder
        self._limit = min(limit, LARGEST)
        self._what = what
        self._attempt = 0

    @contextlib.contextmanager
    def begin(self) -> Iterator[Members]:
        """Begin anew, in a folder that no earlier attempt wrote to."""
        self._attempt += 1
        self._place.mkdir()
        members = Members(self._place, self._limit, self._what)
        try:
            yield members
        finally:
            members.close()

    @property
    def _place(self) -> Path:
        return self._folder / f"attempt-{self._attempt}"

    def check(self, what: str) -> None:
        """Everything was checked on its way; what a kernel's files are is not for us to say."""

    def parts(self) -> Parts:
        """Return where the parts are now."""
        initrd, modules, config = (self._place / name for name in (INITRD, MODULES, CONFIG))
        return Parts(
            self._place / KERNEL,
            initrd if initrd.exists() else None,
            modules if modules.exists() else None,
            config if config.exists() else None,
        )


class Members:
    """What comes out of one attempt at a kernel's bundle, file by file."""

    def __init__(self, folder: Path, limit: int, what: str) -> None:
        self.written = 0
        self._folder = folder
        self._limit = limit
        self._left = limit
        self._what = what
        self._count = 0
        self._open: _File | None = None

    def member(self, kind: bytes, name: str, size: int) -> archive.Sink:
        """Make room for a member, and return where its content goes.

        Raises BadInput for what may not be in it.
        """
        path = self._checked(kind, name.rstrip("/") if kind == _FOLDER else name)
        self._count += 1
        self._left -= size
        if self._count > MOST or self._left < 0:
            raise errors.BadInput(f"{self._what} is too large: more than {sizes.show(self._limit)} or {MOST} files")
        if kind in (_SYMLINK, _FOLDER) or not path.parts:
            return self._without_content(kind, path, size)
        self._open = _File(self._new_file(path), self)
        return self._open

    def finish(self) -> None:
        """Raise BadInput if there was no kernel."""
        if not (self._folder / KERNEL).is_file():
            raise errors.BadInput(f"{self._what} has no '{KERNEL}'", HINT)

    def close(self) -> None:
        """Close the file that was not finished."""
        if self._open is not None:
            self._open.close()

    def _checked(self, kind: bytes, name: str) -> PurePosixPath:
        """Return the path of a member that may be here, relative to the folder."""
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not name.isprintable():
            raise errors.BadInput(f"{self._what} holds '{name}', which leads out of it")
        if kind == _FOLDER and path.parts[:1] in ((), (MODULES,)):
            return path
        if kind == _SYMLINK and path.name in _LEFT_OUT and path.parts[0] == MODULES:
            return path
        if not archive.is_file(kind):
            raise errors.BadInput(f"{self._what} holds '{name}'{archive.worded(kind)}", HINT)
        if name not in _FILES and (path.parts[:1] != (MODULES,) or len(path.parts) < 2):
            raise errors.BadInput(f"{self._what} holds '{name}', which is no part of a kernel", HINT)
        return path

    def _without_content(self, kind: bytes, path: PurePosixPath, size: int) -> archive.Sink:
        if size:
            raise errors.BadInput(f"{self._what} holds '{path}'{archive.worded(kind)} with content")
        if kind == _FOLDER:
            with self._refused(path):
                (self._folder / path).mkdir(parents=True, exist_ok=True)
        return _Nothing()

    def _new_file(self, path: PurePosixPath) -> IO[bytes]:
        target = self._folder / path
        with self._refused(path):
            target.parent.mkdir(parents=True, exist_ok=True)
            return open(target, "xb")

    @contextlib.contextmanager
    def _refused(self, path: PurePosixPath) -> Iterator[None]:
        try:
            yield
        except (FileExistsError, NotADirectoryError) as error:
            raise errors.BadInput(f"{self._what} holds '{path}' twice") from error


class _File:
    """Writes one file, its blocks of zeros as holes, and counts for all of them."""

    def __init__(self, file: IO[bytes], members: Members) -> None:
        self._file = file
        self._sparse = archive.Sparse(file)
        self._members = members

    def write(self, data: memoryview) -> None:
        before = self._sparse.written
        self._sparse.write(data)
        self._members.written += self._sparse.written - before

    def finish(self) -> None:
        self._sparse.finish()
        self.close()

    def close(self) -> None:
        self._file.close()


class _Nothing:
    """Takes the content of what has none."""

    def write(self, data: memoryview) -> None:
        pass

    def finish(self) -> None:
        pass
