"""The same tree gives the same bytes, and nothing but what is in the tree gets into the image."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from banger_tools import files
from tests import support, trees
from tests.stacks import holding, layer, manifest, write_layers

SECRET = b"the password that the author removed"
FAKETIME = "/usr/lib/{}/faketime/libfaketime.so.1"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tar with a hashed folder, links, devices, xattrs, and files of several sizes."""
    path = tmp_path_factory.mktemp("same") / "archive.tar"
    with trees.new_tar(path) as out:
        trees.add(out, "folder", tarfile.DIRTYPE)
        for number in range(500):
            trees.add(out, f"folder/name-{number}", data=b"%d" % number * number, uid=number)
        trees.add(out, "large", data=bytes(range(256)) * 2000, pax_headers={"SCHILY.xattr.user.x": "v" * 900})
        trees.add(out, "hard", tarfile.LNKTYPE, linkname="large")
        trees.add(out, "soft", tarfile.SYMTYPE, linkname="l" * 200)
        trees.add(out, "null", tarfile.CHRTYPE, devmajor=1, devminor=3)
    return path


def image(archive: Path, folder: Path, env: Mapping[str, str] | None = None) -> bytes:
    """Return the bytes of the image that is made of a tar in a folder."""
    folder.mkdir(parents=True)
    support.run_ok("bg-mkext4", "--size=64M", "-C", folder, archive, env=env)
    return (folder / "rootfs.ext4").read_bytes()


@pytest.mark.parametrize(
    "env",
    [
        {"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8"},
        {"TZ": "Asia/Kathmandu"},
        {"PYTHONHASHSEED": "7"},
        {"HOME": "/nowhere", "USER": "somebody", "MKE2FS_CONFIG": "/nowhere"},
    ],
)
def test_surroundings_do_not_matter(archive: Path, tmp_path: Path, env: dict[str, str]) -> None:
    assert image(archive, tmp_path / "a") == image(archive, tmp_path / "b/c/long name", env)


def test_umask_does_not_matter(archive: Path, tmp_path: Path) -> None:
    before = image(archive, tmp_path / "a")
    old = os.umask(0o077)
    try:
        assert image(archive, tmp_path / "b") == before
    finally:
        os.umask(old)


@pytest.mark.parametrize("shift", ["-9000d", "+9000d"])
def test_day_does_not_matter(archive: Path, tmp_path: Path, shift: str) -> None:
    library = Path(FAKETIME.format(f"{os.uname().machine}-linux-gnu"))
    if not library.exists():
        support.cannot("libfaketime is not installed")
    env = {"LD_PRELOAD": str(library), "FAKETIME": shift}
    year = support.run_ok("date", "+%Y", env=env)
    assert year != support.run_ok("date", "+%Y")
    assert image(archive, tmp_path / "a") == image(archive, tmp_path / "b", env)


def test_way_in_does_not_matter_for_layers(archive: Path, tmp_path: Path) -> None:
    """A tree that is written and read back in another folder gives what it gave at once."""
    text = manifest([archive])
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        flat = support.run_ok("bg-flatten", "-C", tmp_path / name, stdin=text)
        support.run_ok("bg-mkext4", "--size=64M", "-C", tmp_path / name, stdin=flat)
    assert (tmp_path / "a/rootfs.ext4").read_bytes() == (tmp_path / "b/rootfs.ext4").read_bytes()


def test_source_date_epoch_is_the_time_of_the_filesystem(archive: Path, tmp_path: Path) -> None:
    image(archive, tmp_path / "a", {"SOURCE_DATE_EPOCH": "1700000000"})
    said = support.run_ok("dumpe2fs", "-h", tmp_path / "a/rootfs.ext4", env={"TZ": "UTC", "LC_ALL": "C"}).decode()
    assert "Filesystem created:       Tue Nov 14 22:13:20 2023" in said


def test_file_that_was_there_before_leaves_nothing(archive: Path, tmp_path: Path) -> None:
    before = image(archive, tmp_path / "a")
    (tmp_path / "a/rootfs.ext4").write_bytes(SECRET * 3_000_000)
    support.run_ok("bg-mkext4", "--force", "--size=64M", "-C", tmp_path / "a", archive)
    assert (tmp_path / "a/rootfs.ext4").read_bytes() == before


def pieces(path: Path) -> Iterator[bytes]:
    """Yield the data of a sparse file, and enough of what is before each piece to see words across borders."""
    with open(path, "rb") as file:
        for start, end in files.data_ranges(file.fileno(), 0, path.stat().st_size):
            file.seek(start)
            while start < end:
                yield file.read(min(end - start, 8 << 20) + 100)
                start += 8 << 20
                file.seek(start)


@pytest.mark.parametrize("way", ["whiteout", "opaque", "overwritten", "folder", "linked", "shorter"])
def test_bytes_of_deleted_layers_are_nowhere_in_the_image(tmp_path: Path, way: str) -> None:
    big = SECRET * 9000
    lower = layer("home/", holding("home/secret", SECRET), holding("home/large", big), holding("home/kept", b"keep"))
    upper = {
        "whiteout": layer("home/.wh.secret", "home/.wh.large"),
        "opaque": layer("home/.wh..wh..opq", "home/new"),
        "overwritten": layer(holding("home/secret", b"new"), holding("home/large", b"")),
        "folder": layer("home/secret/", "home/.wh.large"),
        "linked": layer(("home/secret", {"kind": tarfile.SYMTYPE, "linkname": "x"}), "home/.wh.large"),
        "shorter": layer(holding("home/secret", b"x"), holding("home/large", b"y" * 70_001)),
    }[way]
    flat = support.run_ok("bg-flatten", "-C", tmp_path, stdin=manifest(write_layers([lower, upper], tmp_path)))
    support.run_ok("bg-mkext4", "-C", tmp_path, stdin=flat)
    trees.fsck(tmp_path / "rootfs.ext4")
    assert not any(SECRET in piece for piece in pieces(tmp_path / "rootfs.ext4"))
    kept = any(b"keep" in piece for piece in pieces(tmp_path / "rootfs.ext4"))
    assert kept is (way != "opaque")


@pytest.mark.parametrize("size", [1, 511, 4095, 4097, 70_000, 300_001])
def test_what_follows_a_file_in_its_tar_is_not_in_the_tail_of_its_last_block(tmp_path: Path, size: int) -> None:
    path = tmp_path / "archive.tar"
    with trees.new_tar(path) as out:
        trees.add(out, "file", data=b"x" * size)
        trees.add(out, "fifo", tarfile.FIFOTYPE)
    raw = bytearray(path.read_bytes())
    start = raw.index(b"x" * min(size, 500)) + size
    end = -(-start // 512) * 512
    raw[start:end] = (SECRET * 20)[: end - start]  # padding that is not zero
    path.write_bytes(raw)
    shutil.copy(path, tmp_path / "again.tar")
    support.run_ok("bg-mkext4", "-C", tmp_path, path)
    assert not any(SECRET[:8] in piece for piece in pieces(tmp_path / "rootfs.ext4"))
