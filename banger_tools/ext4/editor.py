"""Editing an ext4 image in place; an interrupted edit is seen: dirty before the first write, clean after the last."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping

from banger_tools import errors, process
from banger_tools.ext4 import checksum
from banger_tools.ext4 import structures as s
from banger_tools.ext4.image import Image
from banger_tools.ext4.structures import Inode

LARGEST_WRITE = 1 << 20
_KNOWN_RO_COMPAT = sum(s.RO_COMPAT.values())


@contextlib.contextmanager
def editing(image: Image) -> Iterator[None]:
    """Mark the image dirty, and clean again only if the body succeeded; both marks are synced.

    Raises BadInput for an image with features that only allow to read it.
    """
    unknown = image.superblock.s_feature_ro_compat & ~_KNOWN_RO_COMPAT
    if unknown:
        raise errors.BadInput(f"'{image.path}' may only be read: features that are not known here: {unknown:#x}")
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


def set_owners(image: Image, changes: Mapping[int, tuple[int, int, int]]) -> None:
    """Write i_mode, i_uid and i_gid of inodes by their numbers.

    Nothing is written if one of them is damaged, or if e2fsck is missing and needed: it counts quotas again.
    """
    inodes = {number: image.inode(number) for number in sorted(changes)}
    quotas = image.superblock.has("quota")
    if quotas:
        process.find("e2fsck")
    with editing(image):
        for number, inode in inodes.items():
            inode.i_mode, inode.i_uid, inode.i_gid = changes[number]
            if image.has_checksums:
                checksum.seal_inode(image.seed, inode.raw, number)
        for place, raw in _joined(inodes.values()):
            _write(image, raw, place)
        if quotas:
            _count_quotas(image)


def _write(image: Image, raw: bytes, place: int) -> None:
    while raw:
        written = os.pwrite(image.descriptor, raw, place)
        raw, place = raw[written:], place + written


def _joined(inodes: Iterable[Inode]) -> Iterator[tuple[int, bytes]]:
    """Yield the bytes of inodes in the order of their places, neighbours in one piece."""
    start, piece = 0, bytearray()
    for inode in inodes:
        if piece and (inode.place != start + len(piece) or len(piece) > LARGEST_WRITE):
            yield start, bytes(piece)
            piece.clear()
        if not piece:
            start = inode.place
        piece += inode.raw
    yield start, bytes(piece)


def _count_quotas(image: Image) -> None:
    """Let e2fsck count what every owner uses: all that it finds to mend in a sound image; its clock stands still."""
    now = str(max(1, image.superblock.s_wtime))
    done = process.run(
        ["e2fsck", "-fp", str(image.path)], env={"E2FSCK_TIME": now, "E2FSPROGS_FAKE_TIME": now}, check=False
    )
    if done.status not in (0, 1):
        raise process.explain("e2fsck", done)
