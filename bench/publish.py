"""Putting an image into the store, durably: bg-publish beside cp and sync, with shared blocks and without."""

from __future__ import annotations

import shutil
import subprocess
from functools import partial
from pathlib import Path

from bench import inputs, mounts, timing
from bench.scale import Scale
from bench.timing import Run, Table, Way

ROOM = 1 << 30  # what a mounted filesystem has besides two images


def publish(scale: Scale) -> Table:
    """Compare copies on the filesystem of the work folder."""
    return _compare(scale, "publish", "on this filesystem", scale.fresh("store"), "--sparse=always")


def publish_reflink(scale: Scale) -> Table:
    """Compare copies on a filesystem that shares blocks: XFS, or btrfs without it."""
    timing.need_root("a filesystem is mounted")
    kind = next((kind for kind, argv in mounts.MAKERS.items() if shutil.which(argv[0])), None)
    if kind is None:
        raise timing.Missing("not installed: mkfs.xfs or mkfs.btrfs")
    room = 3 * inputs.image_tar(scale).stat().st_size + ROOM
    with mounts.new(scale, kind, room) as folder:
        return _compare(scale, "publish-reflink", f"by reflink on {kind}", folder, "--reflink=always")


def _compare(scale: Scale, slug: str, where: str, folder: Path, option: str) -> Table:
    tar, image = inputs.image_tar(scale), folder / "rootfs.ext4"
    subprocess.run(
        [inputs.program("bg-mkext4"), "-q", "--path", "-o", image, tar], check=True, stdout=subprocess.DEVNULL
    )
    ways = {
        "bg-publish": Way(partial(ours, folder, image)),
        "bg-publish --move": Way(partial(move, folder, image)),
        f"cp {option}, sync": Way(partial(copy, folder, image, option)),
    }
    title = f"an image of {image.stat().st_blocks >> 11} MiB {where}, flushed to the disk"
    return timing.compare(slug, title, ways, scale.rounds)


def ours(folder: Path, image: Path, *options: str) -> Run:
    """Publish into a store that holds nothing."""
    home = folder / "home"
    shutil.rmtree(home, ignore_errors=True)
    argv: timing.Words = [inputs.program("bg-publish"), "-q", "--name=bench", "--no-kernel", *options, image]
    return timing.run(argv, env=inputs.environment(home))


def move(folder: Path, image: Path) -> Run:
    other = folder / "other.ext4"
    subprocess.run(["cp", "--sparse=always", image, other], check=True)
    subprocess.run(["sync", other], check=True)
    return ours(folder, other, "--move")


def copy(folder: Path, image: Path, option: str) -> Run:
    target = folder / "copy"
    target.unlink(missing_ok=True)
    copied = timing.run(["cp", option, image, target])
    return timing.together([copied, timing.run(["sync", target])])
