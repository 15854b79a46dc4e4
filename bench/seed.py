"""The home folder of an image as a filesystem of its own: bg-seed beside debugfs, and beside a mount."""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path

from banger_tools.tree import Entry
from bench import ext4, inputs, mounts, timing
from bench.scale import Scale
from bench.timing import Run, Table, Way


def seed(scale: Scale) -> Table:
    """Compare copies of /root into an image of its own."""
    timing.need_root("an image is mounted")
    image = with_home(scale)
    ways = {
        "bg-seed": Way(partial(ours, scale, image)),
        "debugfs rdump, mkfs.ext4 -d": Way(partial(dump_and_mkfs, scale, image), ["debugfs", "mkfs.ext4"]),
        "mount, mkfs.ext4 -d": Way(partial(mount_and_mkfs, scale, image), ["mount", "mkfs.ext4"]),
    }
    return timing.compare("seed", f"{scale.home} files of /root as a seed", ways, scale.rounds)


def with_home(scale: Scale) -> Path:
    """Return an image with files in /root, a hundred a folder."""
    folder = scale.fresh("image")
    entries = (moved(entry) for entry in inputs.small_files(scale.home))
    tree, image = inputs.written(scale, [Entry("/", "dir"), *entries], "home"), folder / "rootfs.ext4"
    subprocess.run(
        [inputs.program("bg-mkext4"), "-q", "--path", "-o", image, tree], check=True, stdout=subprocess.DEVNULL
    )
    return image


def moved(entry: Entry) -> Entry:
    entry.path = f"/root{entry.path}".rstrip("/")
    return entry


def ours(scale: Scale, image: Path) -> Run:
    return timing.run([inputs.program("bg-seed"), "-q", "--path", "-o", scale.fresh("ours") / "seed.ext4", image])


def dump_and_mkfs(scale: Scale, image: Path) -> Run:
    folder = scale.fresh("theirs")
    dumped = timing.run(["debugfs", "-R", f"rdump /root {folder}", image])
    return timing.together([dumped, mkfs(scale, folder / "root")])


def mount_and_mkfs(scale: Scale, image: Path) -> Run:
    with mounts.mounted(image, scale.fresh("mounted"), "ro,noload") as folder:
        return mkfs(scale, folder / "root")


def mkfs(scale: Scale, folder: Path) -> Run:
    image = scale.fresh("made") / "seed.ext4"
    return timing.run(["mkfs.ext4", "-q", "-F", "-d", folder, image, f"{ext4.mebibytes(folder)}M"])
