"""An image in the forms that others take: its disk raw or as qcow2, its files as a tar, or all of it as a bundle.

For bg-publish and `banger image export`. Every function takes the path of the image's ext4 file, in the store or not,
which it only reads, and makes `target` whole or not at all, flushed to no disk, as any artifact. `force` lets it take
the place of a file that is there. All raise CannotCreate before any work if the target exists or its folder does not,
NoInput, Denied or BadInput if the ext4 file cannot be read, IOFailure for a full disk.
"""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from banger_tools import errors, files, process
from banger_tools.manifest import Bundle, Manifest
from banger_tools.store import names

if TYPE_CHECKING:
    from banger_tools.catalog.packing import Packed

_HASH_LETTERS = 12
_LOST_FOUND = b"/lost+found"


def raw(disk: Path, target: Path, *, force: bool = False) -> None:
    """Copy the disk byte by byte; shared blocks where the filesystem can, else with its holes."""
    with _making(target, force=force) as temporary:
        files.copy(disk, temporary)


def qcow2(disk: Path, target: Path, *, force: bool = False) -> None:
    """Write the disk as a qcow2 file, as large as its data; raises Unavailable too, without qemu-img."""
    with _making(target, force=force) as temporary:
        # Absolute, since qemu would take a colon in a relative name for a protocol's.
        source, made = os.path.abspath(disk), os.path.abspath(temporary)
        process.run(["qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", source, made])


def tar(disk: Path, target: Path, *, force: bool = False) -> None:
    """Write all files of the image as a tar: owners, times, xattrs, devices, links, holes; see `tar_to`."""
    with _making(target, force=force) as temporary, open(temporary, "xb") as file:
        tar_to(disk, file.fileno())


def tar_to(disk: Path, descriptor: int) -> None:
    """Write the tar of an image's files to a descriptor, which may be a pipe.

    It is what pax.write makes of a tree: the same bytes for the same files. An empty lost+found, which every ext4 has,
    is left out, and so are sockets, with a warning.
    """
    from banger_tools import contents, pax
    from banger_tools.ext4 import structures, subtree
    from banger_tools.ext4.image import opened
    from banger_tools.tree import SourceFile, Tree, path_bytes

    with opened(disk) as image:
        entries = subtree.entries(image, structures.ROOT_INO)
        size = os.fstat(image.descriptor).st_size
    if not any(path_bytes(entry).startswith(_LOST_FOUND + b"/") for entry in entries):
        entries = [entry for entry in entries if path_bytes(entry) != _LOST_FOUND]
    sources = [SourceFile(str(disk), size=size)]
    with contents.opened(sources, entries) as found:
        pax.write(Tree(sources, entries), found, descriptor)


def bundle(
    image: Manifest,
    disk: Path,
    place: Path,
    *,
    url: str | None = None,
    kernel_ref: str | None = None,
    force: bool = False,
) -> Bundle:
    """Write an image, whose manifest says what it is, as a bundle; return where, and the entry for a catalog.

    `place` is a new file, or a folder: there its name is NAME-ARCHITECTURE-HASH.tar.zst, with the first letters of its
    own SHA-256, so that no cache on the way can serve an old one for it; what stands there under that name with the
    same bytes stays. `url` is the folder that it will be served from, `kernel_ref` the kernel that images made of it
    are to have; both are for the entry only.
    """
    from banger_tools.catalog import packing

    in_folder = place.is_dir()
    target = place / "bundle.tar.zst" if in_folder else place
    if not in_folder:
        files.refuse_existing(target, force=force)
    temporary = files.temporary_name(target)
    try:
        packed = packing.pack(image, disk, temporary)
        if in_folder:
            target = place / "-".join([*_words(image), f"{packed.sha256[:_HASH_LETTERS]}.tar.zst"])
        if not (in_folder and _has_digest(target, packed.sha256)):
            files.refuse_existing(target, force=force)
            files.place(temporary, target, force=force)
    except OSError as error:
        raise errors.os_error(error, f"cannot write '{target}'") from error
    finally:
        files.discard(temporary)
    path = Path(os.path.abspath(target))
    entry = _entry(image, path.name, packed, url)
    with_kernel = {"kernel_ref": kernel_ref} if kernel_ref else {}
    return Bundle(str(path), packed.sha256, packed.size, {**entry, **with_kernel})


def _words(image: Manifest) -> list[str]:
    """Return what the name of a bundle begins with: the image's name, and its architecture if that is known."""
    architecture = image.image.get("architecture")
    name = re.sub(r"([._-])[._-]+", r"\1", names.derived(image.name))  # a catalog's names have no two of them
    return [name, architecture] if isinstance(architecture, str) else [name]


def _has_digest(path: Path, sha256: str) -> bool:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return False


def _entry(image: Manifest, file_name: str, packed: Packed, url: str | None) -> dict[str, str | int]:
    """Return the entry of a bundle as banger-catalog(5) has it.

    With a URL it can stand in any catalog; without one it names the file, so in a catalog that lies in the same folder.
    """
    from urllib.parse import quote

    name, *architecture = _words(image)
    arch = {"arch": architecture[0]} if architecture else {}
    origin = {"url": f"{url.rstrip('/')}/{quote(file_name)}"} if url else {"source": f"bundle:{file_name}"}
    return {"name": name, **arch, **origin, "sha256": packed.sha256, "size": packed.size}


def _making(target: Path, *, force: bool) -> AbstractContextManager[Path]:
    return files.atomic(target, force=force, durable=False, keep_same=True)
