"""Images with one thing wrong, put there by debugfs: what reads them says what it is, and ends."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from banger_tools import errors, seed
from banger_tools.ext4 import xattr
from tests import machines

DEBUGFS = "/sbin/debugfs"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image whose metadata has no checksums, so that nothing but its sense tells that it is wrong."""
    folder = tmp_path_factory.mktemp("sound")
    content = folder / "content" / "root"
    (content / "dir").mkdir(parents=True)
    (content / "dir" / "inner").write_text("inner\n")
    (content / "file").write_bytes(os.urandom(20_000))
    (content / "link").symlink_to("x" * 100)
    for name in ("one", "two", "three"):
        (content / name).touch()
        os.truncate(content / name, 3 << 20)
    for name, size in (("small", 10), ("large", 900)):
        os.setxattr(content / "file", f"user.{name}", b"v" * size)
    return machines.mke2fs(folder / "sound.ext4", folder / "content", "8M", "-O", "^metadata_csum,^has_journal")


def debugfs(image: Path, request: str) -> str:
    argv = [DEBUGFS, "-w", "-R", request, image]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def seeded(image: Path, tmp_path: Path) -> int:
    return seed.main(["-C", str(tmp_path), "-o", str(tmp_path / "seed.ext4"), str(image)])


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ("ssv blocks_per_group 0", "the numbers in its superblock are impossible"),
        ("ssv inodes_count 77", "its superblock contradicts itself"),
        ("set_bg 0 inode_table 8000000", "is outside of it"),
        ("sif /root/file block[4] 0", "a file's extents overlap"),
        ("sif /root/file block[5] 0x7fffffff", "a file's extents lie outside of it"),
        ("sif /root/dir block[4] 0x8001", "a folder has blocks that were never written"),
        ("sif /root/link size 0", "a symlink without a target"),
        ("sif /root/file file_acl 1", "an xattr block is malformed"),
        ("sif /root/file file_acl 8000000", "is outside of it"),
    ],
)
def test_field_that_makes_no_sense_is_told(
    request_: str, said: str, sound: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    image = Path(shutil.copy(sound, tmp_path / "image.ext4"))
    debugfs(image, request_)
    assert seeded(image, tmp_path) == 65
    assert said in capfd.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image.ext4"]


@pytest.mark.parametrize(
    ("place", "data", "said"),
    [
        (24, struct.pack("<I", 1 << 24), "inode 16777216 does not exist"),
        (28, struct.pack("<H", 6), "a folder's entry is malformed"),
        (30, b"\xff", "is damaged: the folder '/dir'"),
    ],
)
def test_entry_of_a_folder_that_makes_no_sense_is_told(
    place: int, data: bytes, said: str, sound: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    image = Path(shutil.copy(sound, tmp_path / "image.ext4"))
    block = int(debugfs(image, "bmap /root/dir 0"))
    with image.open("r+b") as file:
        file.seek(block * 4096 + place)
        file.write(data)
    assert seeded(image, tmp_path) == 65
    assert said in capfd.readouterr().err


def test_files_that_share_blocks_do_not_make_a_seed_larger_than_their_image(
    sound: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    image = Path(shutil.copy(sound, tmp_path / "image.ext4"))
    header, length, start = 0x0001F30A, (3 << 20) // 4096, int(debugfs(image, "bmap /root/file 0"))
    for name in ("one", "two", "three"):
        for place, value in ((0, header), (3, 0), (4, length), (5, start)):
            debugfs(image, f"sif /root/{name} block[{place}] {value}")
    assert seeded(image, tmp_path) == 65
    assert "shares blocks with other files" in capfd.readouterr().err


def test_the_same_image_without_damage_is_read(sound: Path, tmp_path: Path) -> None:
    assert seeded(sound, tmp_path) == 0
    found = subprocess.run([DEBUGFS, "-R", "cat /dir/inner", tmp_path / "seed.ext4"], capture_output=True).stdout
    assert found == b"inner\n"


ATTRIBUTES = bytes(xattr.encode_block([(1, b"name", b"value")], 4096))


@pytest.mark.parametrize(
    ("place", "field", "length", "said"),
    [  # fields of ext4_xattr_entry, the first of which stands behind the header of 32 bytes
        (32 + 2, b"\xff\xff", 4096, "an xattr value is malformed"),
        (32 + 8, b"\xff\xff\xff\x7f", 4096, "an xattr value is malformed"),
        (32 + 4, b"\x0c", 4096, "an xattr is kept in an inode of its own"),
        (32, b"\xff", 200, "an xattr entry is malformed"),
        (32, b"\x04", 40, "an xattr entry is malformed"),
    ],
)
def test_damaged_attributes_are_told(place: int, field: bytes, length: int, said: str) -> None:
    assert list(xattr.in_block(ATTRIBUTES)) == [("user.name", b"value")]
    damaged = (ATTRIBUTES[:place] + field + ATTRIBUTES[place + len(field) :])[:length]
    with pytest.raises(errors.BadInput, match=said):
        list(xattr.in_block(damaged))
