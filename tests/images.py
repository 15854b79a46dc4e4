"""ext4 images for tests, made by mke2fs or by debugfs, and what debugfs sees in one."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path


def debugfs(image: Path, *commands: str, write: bool = False) -> str:
    """Return what debugfs says to commands; fail if it complains."""
    options = ["-w"] if write else []
    script = "\n".join(commands)
    done = subprocess.run(["/sbin/debugfs", *options, "-f", "-", image], input=script, capture_output=True, text=True)
    complaints = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("debugfs 1.")]
    assert not complaints, complaints
    return done.stdout


def stat(image: Path, path: str) -> tuple[int, int, str]:
    """Return owner, group and the whole i_mode as debugfs sees them."""
    said = debugfs(image, f'stat "{path}"', f'inode_dump "{path}"')
    match = re.search(r"User:\s+(-?\d+)\s+Group:\s+(-?\d+)", said)
    low = re.search(r"^0000\s+(\w{4})", said, re.MULTILINE)
    assert match and low, said
    # The first two bytes of the dump are i_mode, little-endian.
    return int(match[1]) % 2**32, int(match[2]) % 2**32, f"{int(low[1][2:4] + low[1][0:2], 16):o}"


def inode_number(image: Path, path: str) -> int:
    """Return the number of the inode at a path."""
    match = re.search(r"Inode: (\d+)", debugfs(image, f'stat "{path}"'))
    assert match
    return int(match[1])


def mke2fs(image: Path, *options: str | Path, size: str = "16M") -> Path:
    """Make an ext4 image at `image` and return it."""
    subprocess.run(["/sbin/mke2fs", "-q", "-F", "-t", "ext4", *options, image, size], check=True, capture_output=True)
    return image
