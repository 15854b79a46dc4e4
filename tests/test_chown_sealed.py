"""What bg-chown believes of an image without reading it, and that no write to the file goes unnoticed."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from banger_tools.ext4 import seal
from tests import support, trees
from tests.images import debugfs, stat

DIGEST = "sha256:" + "0" * 64
BELIEVED = "nobody wrote to the image"


@pytest.fixture
def made(tmp_path: Path) -> bytes:
    """The manifest of an image that bg-mkext4 has just made."""
    archive = tmp_path / "content.tar"
    with trees.new_tar(archive) as out:
        trees.add(out, "home", data=b"y", uid=1000, gid=70000)
        trees.add(out, "again", tarfile.LNKTYPE, linkname="home")
        trees.add(out, "bin", tarfile.DIRTYPE, mode=0o755)
    flat = support.run_ok("bg-flatten", "-C", tmp_path, archive)
    return support.run_ok("bg-mkext4", "-C", tmp_path, "--size=16M", stdin=flat)


@pytest.fixture
def image(made: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "rootfs.ext4"
    try:
        os.setxattr(tmp_path / "content.tar", "user.banger-test", b"x")
    except OSError:
        support.cannot(f"no extended attributes in '{tmp_path}'")
    assert seal.ATTRIBUTE in os.listxattr(path)
    return path


def chown(made: bytes, *options: str) -> tuple[str, dict[str, int]]:
    """Run bg-chown; return what it said, and the counts of its manifest."""
    done = support.run("bg-chown", "-v", *options, stdin=made)
    assert done.returncode == 0, done.stderr
    return done.stderr.decode(), support.manifest_of(done.stdout)["ownership"]


def test_image_just_made_is_not_read_and_has_the_owners_of_its_tree(made: bytes, image: Path) -> None:
    said, counts = chown(made)
    assert BELIEVED in said
    assert counts == {"checked": 3, "changed": 0}
    support.run_ok("bg-chown", "--check", stdin=made)
    assert stat(image, "/home")[:2] == (1000, 70000)


def test_check_compares_all_the_same(made: bytes, image: Path) -> None:
    debugfs(image, "sif /home uid 7", write=True)
    sealed = image.read_bytes()
    seal.put(image, support.manifest_of(made)["tree"]["digest"], 3)
    assert BELIEVED in chown(made)[0]
    assert support.run("bg-chown", "--check", stdin=made).returncode == 1
    assert image.read_bytes() == sealed


def with_debugfs(image: Path) -> None:
    debugfs(image, "sif /home uid 7", write=True)


def with_inject(image: Path) -> None:
    support.run_ok("bg-inject", "--file=/etc/hostname:/motd", image)


def without_attribute(image: Path) -> None:
    os.removexattr(image, seal.ATTRIBUTE)


def copied(image: Path) -> None:
    data = image.read_bytes()
    image.unlink()
    image.write_bytes(data)


@pytest.mark.parametrize("change", [with_debugfs, with_inject, without_attribute, copied])
def test_image_that_was_written_to_is_compared(change: Callable[[Path], None], made: bytes, image: Path) -> None:
    change(image)
    said, counts = chown(made)
    assert BELIEVED not in said
    assert counts["changed"] == (1 if change is with_debugfs else 0)
    assert stat(image, "/home")[:2] == (1000, 70000)


@pytest.mark.root
def test_image_that_was_mounted_is_compared(made: bytes, image: Path, tmp_path: Path) -> None:
    with trees.mounted(image, tmp_path / "mount", "rw,loop") as folder:
        os.chown(folder / "home", 5, 6)
    said, counts = chown(made)
    assert BELIEVED not in said
    assert counts["changed"] == 1
    assert stat(image, "/home")[:2] == (1000, 70000)


def test_owners_of_another_tree_are_compared(made: bytes, image: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree.jsonl"
    tree.write_bytes(tree.read_bytes().replace(b'"uid":1000', b'"uid":1001'))
    manifest = support.manifest_of(made)
    flat = support.manifest_of(support.run_ok("bg-flatten", "-o", tmp_path / "other.jsonl", tree))
    manifest["tree"] = flat["tree"]
    said, counts = chown(json.dumps(manifest).encode())
    assert BELIEVED not in said
    assert counts["changed"] == 1
    assert stat(image, "/home")[0] == 1001


def test_copy_has_what_was_believed_of_the_image(made: bytes, image: Path, tmp_path: Path) -> None:
    said, _ = chown(made, "-o", str(tmp_path / "copy.ext4"))
    assert BELIEVED in said
    assert (tmp_path / "copy.ext4").read_bytes() == image.read_bytes()


def test_write_that_follows_at_once_breaks_the_seal(image: Path) -> None:
    for _ in range(200):
        with open(image, "r+b") as file:
            os.pwrite(file.fileno(), b"x", 5000)
            seal.put(image, DIGEST, 1)
            assert seal.inodes(image, DIGEST) == 1
            os.pwrite(file.fileno(), b"x", 5000)
            assert seal.inodes(image, DIGEST) is None


def test_seal_does_not_outlive_a_boot(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seal.put(image, DIGEST, 1)
    assert seal.inodes(image, DIGEST) == 1
    monkeypatch.setattr(seal.mark, "boot", lambda: 5)
    assert seal.inodes(image, DIGEST) is None


@pytest.mark.parametrize("said", [b"", b"x", b"1", b"\xff", b"-1 a b c d"])
def test_attribute_that_makes_no_sense_is_no_seal(said: bytes, made: bytes, image: Path) -> None:
    os.setxattr(image, seal.ATTRIBUTE, said)
    assert BELIEVED not in chown(made)[0]
