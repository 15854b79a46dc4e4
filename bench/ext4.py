"""Filling an ext4 image, and setting the owners in one: bg-mkext4 and bg-chown beside e2fsprogs and others.

The others read a folder, whose extraction is not counted; its owners are right only where root extracted it, or
fakeroot remembers them. genext2fs makes an ext2 filesystem without journal and checksums.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from bench import inputs, timing
from bench.scale import Scale
from bench.timing import Run, Table, Way

INODES = 200_000
SHIFT = "0:100000:65536"  # where all owners are put, to be wrong


def ext4(scale: Scale) -> Table:
    """Compare images made of the same files: from their tree, from the tar, from a folder."""
    timing.need_root("owners are extracted")
    tar = inputs.image_tar(scale)
    tree, folder = inputs.tree_of(scale, tar), inputs.extracted(scale, tar)
    size = mebibytes(folder)
    remembered = cache(partial(fakeroot_folder, scale, tar))
    ways = {
        "bg-mkext4, from the tree": Way(partial(ours, scale, tree)),
        "bg-mkext4, from the tar": Way(partial(ours, scale, tar)),
        "mkfs.ext4 -d": Way(partial(mkfs, scale, folder, size), ["mkfs.ext4"]),
        "fakeroot mkfs.ext4 -d": Way(partial(fakeroot_mkfs, scale, remembered, size), ["fakeroot"]),
        "genext2fs -d": Way(partial(genext2fs, scale, "-d", folder, size), ["genext2fs"]),
        "genext2fs -a, from the tar": Way(partial(genext2fs, scale, "-a", tar, size), ["genext2fs"]),
    }
    if scale.machines:
        ways["virt-make-fs"] = Way(partial(virt_make_fs, scale, folder, size), ["virt-make-fs"])
    title = f"an image of {tar.stat().st_size >> 20} MiB of files"
    return timing.compare("ext4", title, ways, scale.rounds)


def ours(scale: Scale, source: Path) -> Run:
    image = scale.fresh("ours") / "rootfs.ext4"
    return timing.run([inputs.program("bg-mkext4"), "-q", "--path", "-o", image, source])


def mkfs(scale: Scale, folder: Path, size: int) -> Run:
    image = scale.fresh("theirs") / "rootfs.ext4"
    return timing.run(["mkfs.ext4", "-q", "-F", "-d", folder, image, f"{size}M"])


def mebibytes(folder: Path) -> int:
    """Return the size of a filesystem that holds a folder with room to spare, in MiB; mkfs has an inode per 16 KiB."""
    sizes = [path.lstat().st_size for path in folder.rglob("*")]
    used = sum(sizes) + 4096 * len(sizes)
    return max(1024, used * 14 // 10 >> 20, len(sizes) * 20 >> 10)


def fakeroot_folder(scale: Scale, tar: Path) -> tuple[Path, Path]:
    """Return a folder as an ordinary user extracts it under fakeroot, and the file that remembers the owners."""
    folder, state = scale.fresh("fakeroot"), scale.work / "runs/fakeroot.state"
    subprocess.run(["fakeroot", "-s", state, "tar", "-C", folder, "--numeric-owner", "-xpf", tar], check=True)
    return folder, state


def fakeroot_mkfs(scale: Scale, remembered: Callable[[], tuple[Path, Path]], size: int) -> Run:
    folder, state = remembered()
    image = scale.fresh("theirs") / "rootfs.ext4"
    argv: timing.Words = ["fakeroot", "-i", state, "mkfs.ext4", "-q", "-F", "-d", folder, image, f"{size}M"]
    return timing.run(argv)


def genext2fs(scale: Scale, option: str, source: Path, size: int) -> Run:
    image = scale.fresh("theirs") / "rootfs.ext2"
    argv: timing.Words = [
        "genext2fs",
        "-B",
        "4096",
        "-b",
        str(size << 8),
        "-N",
        str(INODES),
        "-z",
        option,
        source,
        image,
    ]
    return timing.run(argv)


def virt_make_fs(scale: Scale, folder: Path, size: int) -> Run:
    """Fill an image in a machine of libguestfs, which boots the host's kernel or the one that the environment names."""
    if not (os.environ.get("SUPERMIN_KERNEL") or any(Path("/boot").glob("vmlinu?-*"))):
        raise timing.Missing("no kernel in /boot, and none in SUPERMIN_KERNEL with its SUPERMIN_MODULES")
    image = scale.fresh("theirs") / "rootfs.ext4"
    env = {**os.environ, "LIBGUESTFS_BACKEND": "direct"}
    return timing.run(["virt-make-fs", "--type=ext4", f"--size={size}M", folder, image], env=env)


def owners(scale: Scale) -> Table:
    """Compare setting all owners and modes of an image whose owners are wrong, and finding that they are right."""
    tar = inputs.image_tar(scale)
    tree = inputs.tree_of(scale, tar)
    right, wrong = images(scale, tree)
    script = scale.work / "runs/owners"
    inodes = write_script(inputs.extracted(scale, tar), script)
    ways = {
        "bg-chown": Way(partial(ours_owners, scale, wrong, tree)),
        "bg-chown, of right owners": Way(partial(ours_owners, scale, right, tree)),
        "bg-chown --check, of right owners": Way(partial(ours_owners, scale, right, tree, "--check")),
        "debugfs -w -f": Way(partial(debugfs, scale, wrong, script), ["debugfs"]),
    }
    return timing.compare("owners", f"owner, group and mode of {inodes} names", ways, scale.rounds)


def images(scale: Scale, tree: Path) -> tuple[Path, Path]:
    """Return an image of a tree, and the same with other owners."""
    folder = scale.fresh("images")
    right, wrong = folder / "right.ext4", folder / "wrong.ext4"
    subprocess.run(
        [inputs.program("bg-mkext4"), "-q", "--path", "-o", right, tree], check=True, stdout=subprocess.DEVNULL
    )
    argv: timing.Words = [
        inputs.program("bg-chown"),
        "-q",
        "--path",
        "-o",
        wrong,
        f"--map-uid={SHIFT}",
        f"--map-gid={SHIFT}",
        right,
    ]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return right, wrong


def _copy(scale: Scale, image: Path) -> Path:
    """Return a copy of an image that may be edited, made before the clock starts."""
    copy = scale.fresh("edited") / image.name
    subprocess.run(["cp", "--sparse=always", image, copy], check=True)
    os.sync()
    return copy


def ours_owners(scale: Scale, image: Path, tree: Path, *options: str) -> Run:
    argv: timing.Words = [inputs.program("bg-chown"), "-q", "--path", *options, f"--from={tree}", _copy(scale, image)]
    return timing.run(argv)


def debugfs(scale: Scale, image: Path, script: Path) -> Run:
    return timing.run(["debugfs", "-w", "-f", script, _copy(scale, image)])


def write_script(rootfs: Path, script: Path) -> int:
    """Write what debugfs is to do for every name in a folder, and return how many there are."""
    paths = [rootfs, *rootfs.rglob("*")]
    script.write_text("".join(_owner(path, rootfs) for path in paths))
    return len(paths)


def _owner(path: Path, rootfs: Path) -> str:
    found = path.lstat()
    name = f'"/{path.relative_to(rootfs)}"'
    fields = {"uid": found.st_uid, "gid": found.st_gid, "mode": f"0{stat.S_IFMT(found.st_mode) | found.st_mode:o}"}
    return "".join(f"sif {name} {field} {value}\n" for field, value in fields.items())
