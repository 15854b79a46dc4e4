"""bg-mkext4 judged by e2fsck, by debugfs and by the kernel's own mount."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from banger_tools.ext4 import dirhash
from tests import support, trees


def extract(archive: Path, folder: Path) -> Path:
    """Extract a tar as root with GNU tar, the reference."""
    folder.mkdir()
    flags = ["--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "--same-owner", "-p"]
    subprocess.run(["tar", "-C", folder, *flags, "-xf", archive], check=True)
    return folder


def build(source: Path, image: Path, *options: str) -> Path:
    """Make an image of a tar and let e2fsck look at it."""
    support.run_ok("bg-mkext4", "-o", image, *options, source)
    trees.fsck(image)
    return image


def assert_same_as_tar(archive: Path, tmp_path: Path, *options: str) -> Path:
    """Make an image of a tar and compare it, mounted by the kernel, with what GNU tar extracts."""
    image = build(archive, tmp_path / "made.ext4", *options)
    extracted = extract(archive, tmp_path / "reference")
    if (extracted / "acl").exists():  # GNU tar keeps ACLs under another key than runtimes do
        os.setxattr(extracted / "acl", "system.posix_acl_access", ACL)
    reference = trees.of_folder(extracted)
    with trees.mounted(image, tmp_path / "mount") as folder:
        ours = trees.of_folder(folder, ignore=frozenset([b"/lost+found"]))
    assert trees.differences(ours, reference) == []
    return image


ACL = bytes.fromhex("0200000001000600ffffffff02000400e803000004000400ffffffff10000600ffffffff20000400ffffffff")
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tar with one of everything that ext4 can hold."""
    path = tmp_path_factory.mktemp("varied") / "varied.tar"
    with trees.new_tar(path) as archive:
        trees.add(archive, ".", tarfile.DIRTYPE, mode=0o750, uid=7, gid=8)
        trees.add(archive, "empty")
        trees.add(archive, "small", data=b"hello\n", mode=0o4755, uid=1000, gid=1001)
        trees.add(archive, "secret", data=b"x", mode=0o000)
        trees.add(archive, "block", data=bytes(range(256)) * 16)
        trees.add(archive, "large", data=os.urandom(300_000), uid=4_000_000_000, gid=4_294_967_294)
        trees.add(archive, "old", data=b"1", mtime=-1.5, pax_headers={"mtime": "-1.5"})
        trees.add(archive, "late", data=b"1", pax_headers={"mtime": "4800000000.123456789"})
        trees.add(archive, "folder", tarfile.DIRTYPE, mode=0o1777)
        trees.add(archive, "folder/hard", tarfile.LNKTYPE, linkname="small")
        trees.add(archive, "folder/soft", tarfile.SYMTYPE, linkname="../small", mode=0o777, uid=5, gid=6)
        trees.add(archive, "folder/long", tarfile.SYMTYPE, linkname="/" + "t" * 3000, mode=0o777)
        trees.add(archive, "folder/60", tarfile.SYMTYPE, linkname="x" * 60, mode=0o777)
        trees.add(archive, "folder/59", tarfile.SYMTYPE, linkname="x" * 59, mode=0o777)
        trees.add(archive, "n" * 255, data=b"long name")
        trees.add(archive, "null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666)
        trees.add(archive, "disk", tarfile.BLKTYPE, devmajor=259, devminor=70_000)
        trees.add(archive, "pipe", tarfile.FIFOTYPE, mode=0o600)
        cap = CAPABILITY.decode("utf-8", "surrogateescape")
        trees.add(archive, "ping", data=b"\x7fELF", pax_headers={"SCHILY.xattr.security.capability": cap})
        big = {"SCHILY.xattr.user.big": "v" * 3000, "SCHILY.xattr.user.a": "1", "SCHILY.xattr.trusted.t": "2"}
        trees.add(archive, "xattrs", data=b"x", pax_headers=big)
        acl = {"SCHILY.xattr.system.posix_acl_access": ACL.decode("utf-8", "surrogateescape")}
        trees.add(archive, "acl", data=b"x", mode=0o664, pax_headers=acl)
    return path


@pytest.mark.root
def test_kernel_sees_everything_that_the_tar_holds(varied: Path, tmp_path: Path) -> None:
    archive = tmp_path / "binary.tar"
    shutil.copy(varied, archive)
    assert_same_as_tar(archive, tmp_path)


@pytest.mark.root
def test_names_that_are_not_utf8_survive(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / os.fsdecode(b"caf\xe9")).write_bytes(b"latin-1")
    os.symlink(b"\xff\xfe", os.fsencode(source) + b"/li\xf1k")
    archive = tmp_path / "names.tar"
    subprocess.run(["tar", "-C", source, "-cf", archive, "."], check=True)
    assert_same_as_tar(archive, tmp_path)


@pytest.mark.root
@pytest.mark.parametrize("count", [300, 3_000, 40_000])
def test_folders_of_many_names_are_indexed_and_every_name_is_found(tmp_path: Path, count: int) -> None:
    archive = tmp_path / "flat.tar"
    with trees.new_tar(archive) as out:
        for number in range(count):
            trees.add(out, f"flat/entry-{number:06d}")
    image = build(archive, tmp_path / "flat.ext4")
    index = subprocess.run(["/sbin/debugfs", "-R", "htree_dump /flat", image], capture_output=True, text=True)
    assert "Root node dump" in index.stdout
    with trees.mounted(image, tmp_path / "mount") as folder:
        for number in range(0, count, 97):
            assert (folder / f"flat/entry-{number:06d}").stat().st_size == 0
        assert len(os.listdir(folder / "flat")) == count


@pytest.mark.root
def test_kernel_can_write_to_what_we_made(tmp_path: Path, varied: Path) -> None:
    image = build(varied, tmp_path / "made.ext4")
    with trees.mounted(image, tmp_path / "mount", "rw,loop") as folder:
        for number in range(2_000):
            (folder / f"folder/new-{number}").write_text(str(number))
        (folder / "large").unlink()
        (folder / "small").rename(folder / "moved")
        os.truncate(folder / "block", 10)
    trees.fsck(image)


@pytest.mark.parametrize("way", ["0.0", "0.1", "1.0", "old"])
def test_holes_of_gnu_sparse_entries_stay_holes(tmp_path: Path, way: str) -> None:
    source = tmp_path / "sparse"
    with open(source, "wb") as file:
        file.truncate(50_000_000)
        for place in range(0, 50_000_000, 5_000_000):
            file.seek(place + 1234)
            file.write(b"data %d" % place)
    archive = tmp_path / "sparse.tar"
    version = ["--format=gnu"] if way == "old" else ["--format=pax", f"--sparse-version={way}"]
    subprocess.run(["tar", "-C", tmp_path, "--sparse", *version, "-cf", archive, "sparse"], check=True)
    image = build(archive, tmp_path / "made.ext4")
    dumped = tmp_path / "dumped"
    subprocess.run(["/sbin/debugfs", "-R", f"dump /sparse {dumped}", image], check=True, capture_output=True)
    assert hashlib.sha256(dumped.read_bytes()).digest() == hashlib.sha256(source.read_bytes()).digest()
    said = subprocess.run(["/sbin/debugfs", "-R", "stat /sparse", image], capture_output=True, text=True).stdout
    blocks = int(said.split("Blockcount:")[1].split()[0])
    assert blocks <= 20 * 8 + 8


def test_same_tree_gives_same_bytes_in_another_folder_and_as_another_user(
    tmp_path: Path, varied: Path, user: support.OrdinaryUser
) -> None:
    image = build(varied, tmp_path / "made.ext4")
    copy = user.home / "varied.tar"
    shutil.copy(varied, copy)
    copy.chmod(0o644)
    done = user.run("bg-mkext4", "-o", "theirs.ext4", "varied.tar")
    assert done.returncode == 0, done.stderr.decode()
    assert (user.home / "theirs.ext4").read_bytes() == image.read_bytes()


def test_too_small_a_size_is_refused_with_one_that_works(tmp_path: Path) -> None:
    archive = tmp_path / "content.tar"
    with trees.new_tar(archive) as out:
        for number in range(40):
            trees.add(out, f"file-{number}", data=os.urandom(500_000))
    done = support.run("bg-mkext4", "--size=16M", "-o", tmp_path / "small.ext4", archive)
    assert done.returncode == 64
    assert sorted(path.name for path in tmp_path.iterdir()) == ["content.tar"]
    said = r"a filesystem of 16M is too small: this tree needs (\d+)M at least\n.*: --size=\1M\n"
    named = re.search(said, done.stderr.decode())
    assert named
    least = int(named[1])
    build(archive, tmp_path / "least.ext4", f"--size={least}M")
    assert support.run("bg-mkext4", f"--size={least - 1}M", "-o", tmp_path / "x", archive).returncode == 64


@pytest.mark.parametrize("size", ["8M", "64M", "3G", "100G"])
def test_sizes_from_tiny_to_huge_are_clean_and_sparse(tmp_path: Path, size: str) -> None:
    archive = tmp_path / "one.tar"
    with trees.new_tar(archive) as out:
        trees.add(out, "one", data=b"1" * 10_000)
    image = build(archive, tmp_path / "made.ext4", f"--size={size}")
    assert image.stat().st_blocks * 512 < 40 << 20
    assert (image.stat().st_size >> 20) == {"8M": 8, "64M": 64, "3G": 3072, "100G": 102_400}[size]


def test_more_links_than_ext4_allows_is_an_error(tmp_path: Path) -> None:
    archive = tmp_path / "links.tar"
    with trees.new_tar(archive) as out:
        trees.add(out, "first", data=b"1")
        for number in range(65_000):
            trees.add(out, f"link-{number}", tarfile.LNKTYPE, linkname="first")
    done = support.run("bg-mkext4", "-o", tmp_path / "x.ext4", archive)
    assert done.returncode == 65
    assert "65000 links" in done.stderr.decode()
    assert not (tmp_path / "x.ext4").exists()


def test_full_disk_is_said_and_nothing_is_left(tmp_path: Path, small_disk: Path) -> None:
    archive = tmp_path / "content.tar"
    with trees.new_tar(archive) as out:
        trees.add(out, "large", data=os.urandom(12 << 20))
    done = support.run("bg-mkext4", "-C", small_disk, archive)
    assert done.returncode == 74, done.stderr.decode()
    assert "no space left" in done.stderr.decode()
    assert list(small_disk.iterdir()) == []


@given(st.lists(st.binary(min_size=1, max_size=255).filter(lambda n: b"/" not in n and b"\0" not in n), min_size=1))
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_directory_hash_is_the_one_of_e2fsprogs(names: list[bytes]) -> None:
    plain = [name for name in names if name.isascii() and name.decode().isalnum()] or [b"a" * len(names[0])]
    seed = (1, 2, 3, 4)
    word = "01000000-0200-0000-0300-000004000000"
    script = "".join(f"dx_hash -h half_md4 -s {word} {name.decode()}\n" for name in plain)
    said = subprocess.run(["/sbin/debugfs", "-f", "-"], input=script, capture_output=True, text=True).stdout
    expected = [int(line.split(" is ")[1].split()[0], 16) for line in said.splitlines() if line.startswith("Hash of")]
    assert dirhash.half_md4(plain, seed) == expected


def test_devices_have_their_type_and_numbers(tmp_path: Path, varied: Path) -> None:
    image = build(varied, tmp_path / "made.ext4")
    said = subprocess.run(["/sbin/debugfs", "-R", "stat /disk", image], capture_output=True, text=True).stdout
    assert "Type: block special" in said
    assert "(New-style) Device Number: 259:70000" in said.replace("\n", " ") or "259:70000" in said
    assert stat.S_ISREG(image.stat().st_mode)
