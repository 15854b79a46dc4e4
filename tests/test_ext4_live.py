"""Images in use: the kernel writes to them for long, is cut off in the middle, and resize2fs moves their end."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from banger_tools import files, tree
from banger_tools.tree import Entry, SourceFile, Tree
from tests import machines, support, trees

pytestmark = pytest.mark.root
MIB = 1 << 20


def image_in_use(folder: Path, *options: str) -> Path:
    """Make an image with a hashed folder, files in pieces, links and xattrs."""
    source = folder / "source"
    source.write_bytes(random.Random(1).randbytes(4 * MIB))
    entries = [Entry("/", "dir"), Entry("/many", "dir"), Entry("/busy", "dir")]
    entries += [Entry(f"/many/name-{n:05}", "file", size=n * 3, data=(0, n)) for n in range(3000)]
    entries.append(Entry("/large", "file", size=4 * MIB, data=(0, 0), xattrs={"user.big": "QUJD" * 300}))
    pieces = [(n * 12_288, n, 4096) for n in range(900)]
    entries += [Entry("/pieces", "file", size=12 * MIB, data=(0, 0), segments=pieces)]
    entries += [
        Entry("/busy/hard", "hardlink", target="/large"),
        Entry("/busy/soft", "symlink", target="t" * 100, mode="0777"),
    ]
    tree.write(folder / "tree.jsonl", Tree([SourceFile(str(source))], entries))
    support.run_ok("bg-mkext4", "-C", folder, *options, folder / "tree.jsonl")
    return folder / "rootfs.ext4"


class Workload:
    """Random operations done in two folders alike: one in the image, one of the host as the reference."""

    def __init__(self, folders: tuple[Path, Path], seed: int) -> None:
        self.folders = folders
        self.random = random.Random(seed)
        self.done = 0

    def run(self, count: int) -> None:
        steps: list[Callable[[Path, Path, int], None]] = [
            self.create, self.append, self.overwrite, self.truncate, self.rename, self.link, self.unlink, self.mkdir,
            self.rmdir, self.set_xattr, self.remove_xattr, self.chmod, self.allocate, self.symlink,
        ]  # fmt: skip
        for _ in range(count):
            step = self.random.choice(steps)
            names = [self.name(), self.name()]
            number = self.random.randrange(1 << 20)
            results = {self.attempt(step, folder, names, number) for folder in self.folders}
            assert len(results) == 1, (step, names, results)

    def attempt(self, step: Callable[[Path, Path, int], None], folder: Path, names: list[str], number: int) -> int:
        try:
            step(folder / names[0], folder / names[1], number)
        except OSError as error:
            return error.errno or -1
        self.done += 1
        return 0

    def name(self) -> str:
        """Return one of a few hundred paths, old ones of the image too, so that operations meet."""
        top = self.random.choice(["busy", "busy", "busy/a", "busy/b", "many"])
        if top == "many":
            return f"many/name-{self.random.randrange(3200):05}"
        return f"{top}/{self.random.choice(['f', 'g', 'n' * 200])}{self.random.randrange(60)}"

    def create(self, path: Path, other: Path, number: int) -> None:
        path.write_bytes(b"c" * (number % 50_000))

    def append(self, path: Path, other: Path, number: int) -> None:
        with open(os.open(path, os.O_WRONLY | os.O_APPEND), "wb") as file:
            file.write(b"a" * (number % 9000))

    def overwrite(self, path: Path, other: Path, number: int) -> None:
        with open(path, "r+b") as file:
            file.seek(number % 100_000)
            file.write(b"o" * (number % 700))

    def truncate(self, path: Path, other: Path, number: int) -> None:
        os.truncate(path, number % 200_000)

    def rename(self, path: Path, other: Path, number: int) -> None:
        os.rename(path, other)

    def link(self, path: Path, other: Path, number: int) -> None:
        os.link(path, other)

    def unlink(self, path: Path, other: Path, number: int) -> None:
        os.unlink(path)

    def mkdir(self, path: Path, other: Path, number: int) -> None:
        (path if number % 3 else path.parent.parent / path.parent.name).mkdir()

    def rmdir(self, path: Path, other: Path, number: int) -> None:
        os.rmdir(path)

    def set_xattr(self, path: Path, other: Path, number: int) -> None:
        os.setxattr(path, f"user.x{number % 3}", b"v" * (number % 300))

    def remove_xattr(self, path: Path, other: Path, number: int) -> None:
        os.removexattr(path, f"user.x{number % 3}")

    def chmod(self, path: Path, other: Path, number: int) -> None:
        os.chmod(path, number % 0o10000)

    def allocate(self, path: Path, other: Path, number: int) -> None:
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), number % 50_000, 1 + number % 90_000)

    def symlink(self, path: Path, other: Path, number: int) -> None:
        os.symlink("s" * (1 + number % 300), path)


@pytest.mark.parametrize("options", [(), ("--features=^metadata_csum,^64bit,fast_commit",)])
def test_10_000_random_operations_do_what_they_do_elsewhere_and_leave_a_clean_filesystem(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    image = image_in_use(tmp_path, "--free=200M", *options)
    reference = tmp_path / "reference"
    with trees.mounted(image, tmp_path / "mount", "rw,loop") as mount:
        shutil.copytree(mount, reference, symlinks=True, ignore=shutil.ignore_patterns("lost+found"))
        (reference / "busy/hard").unlink()
        os.link(reference / "large", reference / "busy/hard")
        for folder in (mount, reference):
            (folder / "busy/a").mkdir()
        workload = Workload((mount, reference), seed=len(options))
        workload.run(10_000 if not options else 2_500)
        assert workload.done > (2_000 if not options else 500)
        os.sync()
        ours = trees.of_folder(mount, ignore=frozenset([b"/lost+found"]))
    theirs = trees.of_folder(reference)
    assert trees.differences(without_times(ours), without_times(theirs)) == []
    trees.fsck(image)


def without_times(seen: dict[bytes, trees.Seen]) -> dict[bytes, trees.Seen]:
    return {path: one._replace(mtime=(0, 0)) for path, one in seen.items()}


@pytest.mark.parametrize("options", [(), ("--features=^metadata_csum",), ("--free=5M",)])
@pytest.mark.parametrize("way", ["mount", "e2fsck"])
def test_journal_is_replayed_after_a_cut(tmp_path: Path, options: tuple[str, ...], way: str) -> None:
    image = image_in_use(tmp_path, *options)
    cut = tmp_path / "cut.ext4"
    with trees.mounted(image, tmp_path / "mount", "rw,loop") as mount:
        for number in range(300):
            (mount / f"busy/new-{number}").touch()
        (mount / "many/name-00007").unlink()
        descriptor = os.open(mount / "busy", os.O_RDONLY)
        os.fsync(descriptor)  # into the journal; its own place comes later
        os.close(descriptor)
        files.copy(image, cut)
    said = subprocess.run(["/sbin/dumpe2fs", "-h", cut], capture_output=True, text=True).stdout
    assert "needs_recovery" in said
    if way == "e2fsck":
        assert subprocess.run(["/sbin/e2fsck", "-fy", cut], capture_output=True).returncode in (0, 1)
    with trees.mounted(cut, tmp_path / "mount", "rw,loop") as mount:
        assert len(list((mount / "busy").glob("new-*"))) == 300
        assert not (mount / "many/name-00007").exists()
        assert (mount / "large").read_bytes() == (tmp_path / "source").read_bytes()
    trees.fsck(cut)


def resize(*arguments: str | Path) -> None:
    done = subprocess.run(["/sbin/resize2fs", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def content(image: Path, folder: Path) -> dict[bytes, trees.Seen]:
    with trees.mounted(image, folder / "mount") as mount:
        return trees.of_folder(mount)


@pytest.mark.parametrize("options", [(), ("--features=^resize_inode",), ("--features=^64bit,^flex_bg",)])
def test_resize2fs_makes_it_larger_and_as_small_as_can_be(tmp_path: Path, options: tuple[str, ...]) -> None:
    image = image_in_use(tmp_path, "--size=150M", *options)
    before = content(image, tmp_path)
    for size in ("700M", "3G"):
        resize(image, size)
        trees.fsck(image)
        assert content(image, tmp_path) == before
    resize("-M", image)
    trees.fsck(image)
    assert content(image, tmp_path) == before
    assert image.stat().st_size < 100 * MIB


@pytest.mark.boot
def test_resize2fs_makes_the_root_larger_in_a_running_guest(tmp_path: Path, banger_home: Path) -> None:
    """Online, where the kernel moves the end of a filesystem that is mounted."""
    support.need("apt-get", "dpkg-deb", "busybox", "resize2fs")
    root = machines.busybox_root(tmp_path / "root")
    copy_program("/sbin/resize2fs", root)
    subprocess.run(["tar", "-C", root, "-cf", tmp_path / "root.tar", "."], check=True)
    support.run_ok("bg-mkext4", "-C", tmp_path, "--free=8M", tmp_path / "root.tar")
    image = tmp_path / "rootfs.ext4"
    os.truncate(image, 700 * MIB)  # as `banger` grows a disk: five groups more
    support.run_ok("bg-publish", "--name=grows", stdin=machines.manifest(image))
    support.run_ok("bg-boot", "--image=grows", "--name=grows")
    try:
        done = support.run("banger", "vm", "exec", "grows", "sh", "-c", "resize2fs /dev/vda && df -k / && sync")
        assert done.returncode == 0, done.stderr.decode()
        assert int(done.stdout.decode().splitlines()[-1].split()[1]) > 600_000
        support.run_ok("banger", "vm", "stop", "grows")
        disk = next((banger_home / "state/vms/grows").glob("root*"))
        assert subprocess.run(["/sbin/e2fsck", "-fp", disk], capture_output=True).returncode == 0
        trees.fsck(disk)
    finally:
        support.run("banger", "vm", "delete", "grows", "--force")


def copy_program(program: str, root: Path) -> None:
    """Copy a program of this host and the libraries that it needs."""
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    libraries = [word for word in said.split() if word.startswith("/")]
    for path in [program, *libraries]:
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
