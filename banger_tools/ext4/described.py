"""What a manifest says of an ext4 image, read out of the image itself."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from banger_tools import manifest
from banger_tools.ext4.image import opened


def rootfs(path: Path) -> manifest.Rootfs:
    """Return the section that describes the image at a path.

    Raises NoInput, Denied, or BadInput if it is no ext4 image, damaged, or not clean.
    """
    with opened(path) as image:
        superblock = image.superblock
        return manifest.Rootfs(
            str(path),
            os.fstat(image.descriptor).st_size,
            str(uuid.UUID(bytes=superblock.s_uuid)),
            superblock.s_volume_name,
            superblock.s_free_blocks_count * image.geometry.block_size,
            superblock.s_free_inodes_count,
        )
