"""Editing an ext4 image in place; an interrupted edit is seen: dirty before the first write, clean after the last."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from banger_tools.ext4 import checksum
from banger_tools.ext4 import structures as s
from banger_tools.ext4.image import Image
from banger_tools.ext4.structures import Inode


@contextlib.contextmanager
def editing(image: Image) -> Iterator[None]:
    """Mark the image dirty, and clean again only if the body succeeded; both marks are synced."""
    _set_state(image, image.superblock.s_state & ~s.VALID_FS)
    yield
    os.fsync(image.descriptor)
    _set_state(image, image.superblock.s_state | s.VALID_FS)


def _set_state(image: Image, state: int) -> None:
    # Whoever edited meanwhile (debugfs) wrote a superblock of its own: only this field is ours.
    superblock = s.Superblock(os.pread(image.descriptor, s.SUPERBLOCK_SIZE, s.SUPERBLOCK_OFFSET))
    superblock.s_state = state
    if superblock.has("metadata_csum"):
        superblock.s_checksum = checksum.superblock_checksum(superblock)
    os.pwrite(image.descriptor, superblock.raw, s.SUPERBLOCK_OFFSET)
    os.fsync(image.descriptor)


def write_inode(image: Image, number: int, inode: Inode) -> None:
    """Write an inode back, with its checksum."""
    if image.superblock.has("metadata_csum"):
        checksum.seal_inode(image.seed, inode, number)
    os.pwrite(image.descriptor, inode.raw, image.inode_place(number))
