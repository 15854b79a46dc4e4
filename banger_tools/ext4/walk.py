"""Every name of an ext4 image, each folder read once; a hostile image ends in an error, never in an endless walk."""

from __future__ import annotations

from collections.abc import Iterator

from banger_tools import errors
from banger_tools.ext4 import structures as s
from banger_tools.ext4.image import KINDS, Image
from banger_tools.ext4.structures import Inode
from banger_tools.tree import MAX_PATH

# A name in an image: its path below where the walk began, and number, i_mode, i_uid and i_gid of its inode
Node = tuple[bytes, int, int, int, int]


def walk(image: Image, number: int = s.ROOT_INO) -> Iterator[Node]:
    """Yield everything below a folder, itself as `/`; all names of a folder come together, before what is in them.

    Raises BadInput if the image is damaged, or holds an encrypted folder.
    """
    owner, seen = image.owner, {number}
    pending = [(b"", number)]
    yield (b"/", number, *owner(number))
    while pending:
        path, folder = pending.pop()
        prefix = path + b"/"
        for name, child in _names(image, path, folder).items():
            mode, uid, gid = owner(child)
            yield prefix + name, child, mode, uid, gid
            kind = mode & s.S_IFMT
            if kind == s.S_IFDIR:
                if child in seen:
                    raise image.broken(f"the folder {quoted(prefix + name)} has more than one name")
                seen.add(child)
                pending.append((prefix + name, child))
            elif kind not in KINDS:
                raise image.broken(f"{quoted(prefix + name)} names an inode that is not in use")


def _names(image: Image, path: bytes, folder: int) -> dict[bytes, int]:
    """Return the names in a folder, each of which is possible and there once."""
    inode = image.inode(folder)
    refuse_encrypted(image, path or b"/", inode)
    entries = list(image.names(inode))
    names = dict(entries)
    if len(names) != len(entries):
        raise image.broken(f"the folder {quoted(path or b'/')} has a name twice")
    everything = b"".join(names)
    if b"" in names or b"/" in everything or b"\0" in everything:
        raise image.broken(f"the folder {quoted(path or b'/')} holds an impossible name")
    if names and len(path) + 1 + max(map(len, names)) > MAX_PATH:
        raise errors.BadInput(f"'{image.path}' has folders so deep that a path has more than {MAX_PATH} bytes")
    return names


def refuse_encrypted(image: Image, path: bytes, inode: Inode) -> None:
    """Raise BadInput naming an inode that is encrypted: neither its names nor its content can be read."""
    if inode.i_flags & s.ENCRYPT_FL:
        raise errors.BadInput(f"{quoted(path)} of '{image.path}' is encrypted, and cannot be read without its key")


def quoted(path: bytes) -> str:
    """Return a path for a message."""
    return f"'{path.decode(errors='replace')}'"
