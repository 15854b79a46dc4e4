"""Images that the kernel wrote, and those that bg-chown refuses with their reason; judged by mounts and e2fsck."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests import support, trees
from tests.images import debugfs, inode_number, mke2fs, stat


def fill(folder: Path) -> None:
    """Let the kernel make an indexed folder, renamed and removed files, long links, attributes and unwritten blocks."""
    (folder / "flat").mkdir()
    for number in range(1500):
        (folder / "flat" / f"a name that fills the index {number}").touch()
    for number in range(0, 1500, 3):
        (folder / "flat" / f"a name that fills the index {number}").unlink()
    for number in range(1, 1500, 3):
        name = f"a name that fills the index {number}"
        (folder / "flat" / name).rename(folder / "flat" / (name + " and is longer now"))
    with open(folder / "unwritten", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 1 << 20)
    os.setxattr(folder / "unwritten", "user.large", b"x" * 800)
    (folder / "link").symlink_to("x" * 500)
    os.mkfifo(folder / "fifo")
    os.mknod(folder / "device", 0o20600, os.makedev(300, 300))
    os.chown(folder / "fifo", 10, 70000)


@pytest.mark.root
@pytest.mark.parametrize(
    "kind",
    [
        ["-O", "metadata_csum_seed,orphan_file"],
        ["-b", "2048", "-O", "^metadata_csum,uninit_bg"],
        ["-b", "1024", "-O", "inline_data"],
        ["-O", "bigalloc"],
    ],
    ids=" ".join,
)
def test_owners_that_the_kernel_wrote_are_mapped(kind: list[str], tmp_path: Path) -> None:
    image = mke2fs(tmp_path / "image.ext4", *kind, size="64M")
    with trees.mounted(image, tmp_path / "mount", "rw,loop") as folder:
        fill(folder)
    with trees.mounted(image, tmp_path / "mount") as folder:
        before = trees.of_folder(folder)
    support.run_ok("bg-chown", "--map-uid=0:4000000000:5", "--map-gid=0:1:100", "--set=/fifo=8:9:0604", image)
    trees.fsck(image)
    wanted = {path: seen._replace(uid=4000000000, gid=1) for path, seen in before.items()}
    wanted[b"/fifo"] = before[b"/fifo"]._replace(uid=8, gid=9, mode=0o604)
    with trees.mounted(image, tmp_path / "mount", "rw,loop") as folder:
        assert trees.differences(trees.of_folder(folder), wanted) == []
        (folder / "flat/one more").touch()
    trees.fsck(image)


def test_quotas_are_counted_again_and_the_same_each_time(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "file").write_bytes(b"x" * 50000)
    image = mke2fs(tmp_path / "image.ext4", "-O", "quota", "-d", folder)
    for name in ("one", "two"):
        support.run_ok("bg-chown", "--set=/file=77:88", "-o", tmp_path / name, image)
    assert re.search(r"^\s*77\s+5\d\d\d\d\s+0\s+0\s+1\s", debugfs(tmp_path / "one", "list_quota user"), re.MULTILINE)
    trees.fsck(tmp_path / "one")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    (folder / "secret/inner").mkdir(parents=True)
    (folder / "file").write_text("x")
    return mke2fs(tmp_path / "image.ext4", "-O", "encrypt", "-d", folder)


def refused(image: Path, *arguments: str) -> str:
    """Run bg-chown, which must refuse the image and leave it as it is; return what it said."""
    before = image.read_bytes()
    done = support.run("bg-chown", *arguments, image)
    assert done.returncode == 65, done.stderr.decode()
    assert image.read_bytes() == before
    return done.stderr.decode()


def test_encrypted_folder_is_refused_by_its_name_but_may_be_changed_itself(image: Path) -> None:
    debugfs(image, "sif /secret flags 0x80800", write=True)
    assert "'/secret' of" in refused(image, "--map-uid=0:1:1")
    assert "encrypted" in refused(image, "--set=/file=1:1", "--set=/secret/inner=1:1")
    support.run_ok("bg-chown", "--set=/secret=5:6:0700", image)
    assert stat(image, "/secret") == (5, 6, "40700")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (["ssv feature_incompat 0x12d2"], "features that are not known here: dirdata"),
        (["ssv last_orphan 12"], "e2fsck -fy"),
        (["ssv feature_ro_compat 0x1046b"], "e2fsck -fy"),
        (["ssv state 2"], "e2fsck -fy"),
        (["sif /file mode 0"], "'/file' names an inode that is not in use"),
        (["ln /secret /secret/inner/up"], "has more than one name"),
        (["ln / /secret/root"], "has more than one name"),
    ],
)
def test_image_that_cannot_be_trusted_is_refused(damage: list[str], words: str, image: Path) -> None:
    debugfs(image, *damage, write=True)
    assert words in refused(image, "--map-uid=0:1:1")


def test_features_that_only_allow_reading_are_enough_for_a_check(tmp_path: Path) -> None:
    plain = mke2fs(tmp_path / "plain.ext4", "-O", "^metadata_csum")
    data = bytearray(plain.read_bytes())
    data[1024 + 0x64 + 2] |= 0x40  # s_feature_ro_compat: one that nobody has heard of
    plain.write_bytes(data)
    assert "may only be read" in refused(plain, "--map-uid=0:1:1")
    assert support.run("bg-chown", "--check", "--map-uid=5:1:1", plain).returncode == 0


def test_filesystem_that_another_host_has_mounted_is_refused(tmp_path: Path) -> None:
    image = mke2fs(tmp_path / "image.ext4", "-O", "mmp")
    said = subprocess.run(["/sbin/dumpe2fs", "-h", image], capture_output=True, text=True).stdout
    block = re.search(r"MMP block number:\s+(\d+)", said)
    assert block
    with open(image, "r+b") as file:
        file.seek(int(block[1]) * 1024 + 4)
        file.write(b"\1\0\0\0")
    assert "mmp" in refused(image, "--set=/=1:1")


def test_inode_with_a_wrong_checksum_is_never_made_right(image: Path) -> None:
    number = inode_number(image, "/file")
    where = re.search(r"block (\d+), offset (0x[0-9a-f]+)", debugfs(image, f"imap <{number}>"))
    assert where
    with open(image, "r+b") as file:
        file.seek(int(where[1]) * 1024 + int(where[2], 16) + 4)
        file.write(b"\x99")
    assert f"the checksum of inode {number} is wrong" in refused(image, "--set=/secret=1:1", "--set=/file=1:1")


@pytest.mark.parametrize("place", [1024 + 0x78, 2048 + 0x10])
def test_wrong_checksum_of_superblock_or_descriptor_is_refused(place: int, image: Path) -> None:
    with open(image, "r+b") as file:
        file.seek(place)
        file.write(b"\x99")
    assert "the checksum of" in refused(image, "--set=/file=1:1")


def test_interrupted_edit_leaves_the_image_marked(image: Path, tmp_path: Path) -> None:
    """strace kills the program at its third write: the mark of the edit and the first inodes are on the disk."""
    support.need("strace")
    argv = support.argv("bg-chown", "--map-uid=0:1:1", image)
    strace = ["strace", "-f", "-qq", "-o", tmp_path / "trace", "-e", "inject=pwrite64:signal=KILL:when=3"]
    subprocess.run([*strace, *argv], capture_output=True, env=support.environment())
    assert "e2fsck -fy" in refused(image, "--map-uid=0:1:1")
    assert subprocess.run(["/sbin/e2fsck", "-fy", image], capture_output=True).returncode in (0, 1)
    support.run_ok("bg-chown", "--map-uid=0:1:1", image)
    trees.fsck(image)
    assert stat(image, "/secret/inner")[0] == stat(image, "/")[0] == 1


def test_block_maps_that_go_round_in_circles_end_soon(tmp_path: Path) -> None:
    """A block of pointers to itself, three levels deep: 2^30 blocks to look at, were there no bound."""
    folder = tmp_path / "in"
    folder.mkdir()
    with open(folder / "large", "wb") as file:
        file.seek(100 << 20)
        file.write(b"x")
    image = mke2fs(tmp_path / "image.ext4", "-b", "4096", "-O", "^extent,^64bit,^metadata_csum", "-d", folder)
    number = re.search(r"\(DIND\):(\d+)", debugfs(image, "stat /large"))
    assert number
    block = int(number[1])
    with open(image, "r+b") as file:
        file.seek(4096 * block)
        file.write(block.to_bytes(4, "little") * 1024)
    fields = [f"sif /large block[TIND] {block}", "sif /large size 0x400000000000", "sif /large mode 040755"]
    debugfs(image, *fields, write=True)
    done = support.run("bg-chown", "--map-uid=0:1:1", image, timeout=60)
    assert done.returncode == 65
    assert "is damaged" in done.stderr.decode()
