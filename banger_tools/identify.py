"""What a file is, told by its content and never by its name."""

from __future__ import annotations

import os
from pathlib import Path

from banger_tools import errors

MANIFEST, TREE, EXT4, TAR, FOLDER, UNKNOWN = "manifest", "tree", "ext4 image", "tar", "folder", "unknown"

_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\x00": "xz",
    b"BZh": "bzip2",
}
_HEAD = 2048


def kind(path: Path) -> str:
    """Return what stands at `path`: one of the constants above, or the name of a compression.

    Raises NoInput or Denied if it cannot be read.
    """
    try:
        if path.is_dir():
            os.listdir(path)
            return FOLDER
        with open(path, "rb") as file:
            return kind_of_bytes(file.read(_HEAD))
    except OSError as error:
        raise errors.os_error(error, f"cannot read '{path}'") from error


def kind_of_bytes(head: bytes) -> str:
    """Return what a file is that begins with these (at least 2048, if it has them) bytes.

    What ext4 is told by are two bytes in the midst of what may be anything: all else goes before.
    """
    if head[:1] == b"{":
        first = head.split(b"\n", 1)[0]
        return TREE if b'"tree"' in first else MANIFEST
    for magic, name in _COMPRESSED.items():
        if head.startswith(magic):
            return name
    if head[257:262] == b"ustar" or (len(head) >= 512 and _is_old_tar(head[:512])):
        return TAR
    return EXT4 if head[1080:1082] == b"\x53\xef" else UNKNOWN


def _is_old_tar(header: bytes) -> bool:
    """Tell a tar header without magic (v7) by its checksum."""
    try:
        stated = int(header[148:156].split(b"\0")[0].strip() or b"x", 8)
    except ValueError:
        return False
    return sum(header) - sum(header[148:156]) + 8 * 32 == stated
