"""Every name of an ext4 image, each folder read once; a hostile image ends in an error, never in an endless walk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from banger_tools import errors
from banger_tools.ext4 import structures as s
from banger_tools.ext4.image import Image, Name
from banger_tools.ext4.structures import Inode
from banger_tools.tree import MAX_PATH


class Node(NamedTuple):
    """A name in an image: its path below where the walk began, and number, mode, owner and group of its inode."""

    path: bytes
    number: int
    mode: int
    uid: int
    gid: int

    @property
    def is_folder(self) -> bool:
        return self.mode & s.S_IFMT == s.S_IFDIR


def walk(image: Image, number: int = s.ROOT_INO) -> Iterator[Node]:
    """Yield everything below a folder, itself as `/`; all names of a folder come together, before what is in them.

    Raises BadInput if the image is damaged, or holds an encrypted folder.
    """
    yield Node(b"/", number, *image.owner(number))
    seen = {number}
    pending = [(b"", number)]
    while pending:
        path, folder = pending.pop()
        for name, child in _names(image, path, folder):
            node = Node(path + b"/" + name, child, *image.owner(child))
            if not node.mode & s.S_IFMT:
                raise image.broken(f"{quoted(node.path)} names an inode that is not in use")
            yield node
            if node.is_folder:
                if child in seen:
                    raise image.broken(f"the folder {quoted(node.path)} has more than one name")
                seen.add(child)
                pending.append((node.path, child))


def _names(image: Image, path: bytes, folder: int) -> list[Name]:
    inode = image.inode(folder)
    refuse_encrypted(image, path or b"/", inode)
    found = list(image.names(inode))
    if len({name.name for name in found}) != len(found):
        raise image.broken(f"the folder {quoted(path or b'/')} has a name twice")
    if found and len(path) + 1 + max(len(name.name) for name in found) > MAX_PATH:
        raise errors.BadInput(f"'{image.path}' has folders so deep that a path has more than {MAX_PATH} bytes")
    return found


def refuse_encrypted(image: Image, path: bytes, inode: Inode) -> None:
    """Raise BadInput naming an inode that is encrypted: neither its names nor its content can be read."""
    if inode.i_flags & s.ENCRYPT_FL:
        raise errors.BadInput(f"{quoted(path)} of '{image.path}' is encrypted, and cannot be read without its key")


def quoted(path: bytes) -> str:
    """Return a path for a message."""
    return f"'{path.decode(errors='replace')}'"
