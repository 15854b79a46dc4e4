"""Filesystems in a file, mounted for as long as they are measured, where root may."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import timing
from bench.scale import Scale

MAKERS = {"xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"], "btrfs": ["mkfs.btrfs", "-q"]}


@contextmanager
def mounted(image: Path, folder: Path, options: str) -> Iterator[Path]:
    """Mount a file on a folder; the loop device goes with the mount."""
    done = subprocess.run(["mount", "-o", f"loop,{options}", image, folder], capture_output=True, text=True)
    if done.returncode:
        raise timing.Missing(done.stderr.strip())
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@contextmanager
def new(scale: Scale, kind: str, size: int) -> Iterator[Path]:
    """Make a filesystem of a kind that shares blocks between files, of so many bytes, and mount it."""
    image = scale.fresh("filesystem") / kind
    image.touch()
    os.truncate(image, size)
    subprocess.run([*MAKERS[kind], image], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with mounted(image, scale.fresh("mounted"), "rw") as folder:
        yield folder
