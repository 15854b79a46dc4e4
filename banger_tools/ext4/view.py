"""An image as it will be: what is to be placed in it and taken out of it, laid over what it has.

Paths are found as the guest finds them: symlinks are followed inside the image, `..` of the root is the root.
"""

from __future__ import annotations

import os
import posixpath
from pathlib import Path
from typing import NamedTuple

from banger_tools import errors
from banger_tools.ext4 import structures as s
from banger_tools.ext4.image import MAX_LINKS_FOLLOWED, Image
from banger_tools.ext4.structures import Inode


class Placed(NamedTuple):
    """One thing to be put into an image: a file with its content (bytes, or a file of the host), a symlink with its
    target, or a folder.
    """

    path: str
    type: str = "file"
    content: bytes | Path = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0


class Found(NamedTuple):
    """What stands at a path: its type, and the inode or the placed thing that it is."""

    kind: str
    inode: Inode | None
    placed: Placed | None
    number: int = 0


class View:
    """An image with changes that are not written yet; `placed` and `removed` are by paths without symlinks."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self.placed: dict[str, Placed] = {}
        self.removed: set[str] = set()
        self._folders: dict[int, dict[bytes, int]] = {}

    def place(self, one: Placed) -> None:
        """Let a thing stand at its path, whose folder's symlinks are followed; its own is not, unless it is a folder.

        Raises BadInput if the path leads out of the image, round in circles, or through a file.
        """
        path = self.real(one.path) if one.type == "dir" else self.real_parent(one.path)
        self.placed[path] = one._replace(path=path)
        self.removed.discard(path)

    def remove(self, path: str) -> None:
        """Let nothing stand at a path without symlinks."""
        self.placed.pop(path, None)
        self.removed.add(path)

    def at(self, path: str) -> Found | None:
        """Return what stands at a path without symlinks in its folder, or None."""
        placed = self.placed.get(path)
        if placed is not None:
            return Found(placed.type, None, placed)
        number = None if path in self.removed else self._number(path)
        if number is None:
            return None
        inode = self.image.inode(number)
        return Found(self.image.kind(inode), inode, None, number)

    def find(self, path: str) -> Found | None:
        """Return what the guest finds at a path, symlinks followed, or None."""
        try:
            return self.at(self.real(path, clamp=True))
        except errors.BadInput:
            return None

    def has_file(self, *paths: str) -> bool:
        """Tell whether the guest finds a file at one of these paths."""
        found = (self.find(path) for path in paths)
        return any(one is not None and one.kind == "file" for one in found)

    def read(self, path: str, limit: int) -> bytes | None:
        """Return the content of the file that the guest finds at a path; None if there is none."""
        found = self.find(path)
        return self.content(found, limit) if found is not None and found.kind == "file" else None

    def content(self, found: Found, limit: int) -> bytes:
        """Return the content of a file, or the target of a symlink."""
        if found.inode is not None:
            return self.image.read(found.inode, limit)
        assert found.placed is not None
        content = found.placed.content
        if isinstance(content, bytes):
            return content
        with open(content, "rb") as file:
            return file.read(limit)

    def head(self, path: str, count: int) -> bytes:
        """Return the first bytes of the file that the guest finds at a path; none where there is no file or a hole."""
        found = self.find(path)
        if found is None or found.kind != "file" or found.inode is None:
            return b""
        segments = self.image.segments(found.inode)
        if not segments or segments[0][0] != 0:
            return b""
        return os.pread(self.image.descriptor, min(count, segments[0][2]), segments[0][1])

    def target(self, path: str) -> str | None:
        """Return where the symlink at a path leads, as it says; None if there is no symlink."""
        found = self.at(path)
        if found is None or found.kind != "symlink":
            return None
        return os.fsdecode(self.content(found, s.MAX_SYMLINK))

    def names(self, folder: str) -> list[str]:
        """Return the names that the guest finds in a folder, sorted; none if it is no folder."""
        try:
            real = self.real(folder, clamp=True)
        except errors.BadInput:
            return []
        number = self._number(real)
        found = {os.fsdecode(name) for name in self._folder(number)} if number is not None else set()
        found = {name for name in found if posixpath.join(real, name) not in self.removed}
        below = real.rstrip("/") + "/"
        found |= {path[len(below) :].split("/")[0] for path in self.placed if path.startswith(below)}
        return sorted(found)

    def real_parent(self, path: str) -> str:
        """Return a path with the symlinks of its folder followed, as `real` does; its own name is not followed."""
        folder, name = posixpath.split(path)
        if not path.startswith("/") or name in ("", ".", ".."):
            raise errors.BadInput(f"'{path}' is not an absolute path of a file in the image")
        real = self.real(folder, wanted=path)
        found = self.at(real)
        if found is not None and found.kind != "dir":
            raise errors.BadInput(f"'{path}' is below '{real}', which is a {found.kind} in the image")
        return posixpath.join(real, name)

    def real(self, path: str, *, wanted: str | None = None, clamp: bool = False) -> str:
        """Return a path without symlinks; what does not exist yet stays as it is.

        Raises BadInput naming `wanted` if it leads round in circles, through a file, or out of the image: with
        `clamp` the parent of the root is the root, as for the guest.
        """
        wanted = wanted or path
        pending = path.split("/")[::-1]
        trail: list[str] = []
        followed = 0
        while pending:
            name = pending.pop()
            if name in ("", "."):
                continue
            if name == "..":
                if not trail and not clamp:
                    raise errors.BadInput(f"'{wanted}' leads out of the image")
                del trail[-1:]
                continue
            here = "/" + "/".join([*trail, name])
            found = self.at(here)
            if found is not None and found.kind == "symlink":
                followed += 1
                if followed > MAX_LINKS_FOLLOWED:
                    raise errors.BadInput(f"'{wanted}' is below a loop of symlinks in the image")
                target = os.fsdecode(self.content(found, s.MAX_SYMLINK))
                pending += target.split("/")[::-1]
                trail = [] if target.startswith("/") else trail
            elif found is not None and found.kind != "dir" and any(pending):
                raise errors.BadInput(f"'{wanted}' is below '{here}', which is a {found.kind} in the image")
            else:
                trail.append(name)
        return "/" + "/".join(trail)

    def _number(self, path: str) -> int | None:
        number: int | None = s.ROOT_INO
        for part in os.fsencode(path).split(b"/"):
            if part and number is not None:
                number = self._folder(number).get(part)
        return number

    def _folder(self, number: int) -> dict[bytes, int]:
        """Return the names in a folder of the image, read once; none if it is no folder."""
        if number not in self._folders:
            inode = self.image.inode(number)
            is_folder = self.image.kind(inode) == "dir"
            self._folders[number] = dict(self.image.names(inode)) if is_folder else {}
        return self._folders[number]
