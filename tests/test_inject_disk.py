"""What bg-inject does to a filesystem where it replaces and removes files, judged by e2fsck and the kernel's mount."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests import support, trees

ACL = "user::rw-,user:1000:r--,group::r--,mask::r--,other::r--"
KINDS = [
    "ext4",
    "ext4:^metadata_csum",
    "ext4:^metadata_csum,uninit_bg",
    "ext4:^64bit,^flex_bg",
    "ext4:metadata_csum_seed",
    "ext4:bigalloc",
    "ext4:inline_data",
    "ext4:ea_inode",
    "ext4:quota",
    "ext4:^has_journal,^resize_inode",
    "ext3",
    "ext2",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files to be replaced and removed: with attributes, hard links, in small and in hashed folders."""
    support.need_root()
    support.need("setfattr", "setfacl")
    root = tmp_path_factory.mktemp("disk") / "root"
    ssh, many = root / "etc/ssh", root / "many"
    ssh.mkdir(parents=True)
    many.mkdir()
    for number in range(600):
        (many / f"a-name-that-is-rather-long-{number:04}").touch()
    for place in (ssh, many):
        for kind in ("rsa", "ed25519"):
            (place / f"ssh_host_{kind}_key").write_bytes(b"THE-SECRET" * 300)
            (place / f"ssh_host_{kind}_key.pub").write_bytes(b"public\n")
        (place / "replaced").write_bytes(b"THE-SECRET" * 4000)
        (place / "linked").write_bytes(b"linked content\n")
        os.link(place / "linked", place / "other-name")
        os.symlink("x" * 200, place / "ssh_host_slow_key")
        os.symlink("x", place / "ssh_host_fast_key")
        for name in ("ssh_host_rsa_key", "replaced", "linked"):
            subprocess.run(["setfattr", "-n", "user.large", "-v", "v" * 900, place / name], check=True)
        subprocess.run(["setfacl", "-m", ACL, place / "replaced"], check=True)
        for name in ("ssh_host_slow_key", "ssh_host_fast_key"):
            subprocess.run(["setfattr", "-h", "-n", "trusted.x", "-v", "v" * 900, place / name], check=True)
    return root


def made(kind: str, folder: Path, image: Path) -> Path:
    """Make an image of a folder by mke2fs itself, of a kind that we do not make."""
    what, _, features = kind.partition(":")
    options = ["-O", features] if features else []
    argv = ["/sbin/mke2fs", "-q", "-t", what, "-b", "4096", *options, "-d", folder, image, "64M"]
    subprocess.run(argv, check=True, capture_output=True)
    return image


def mounted_files(image: Path, where: Path) -> dict[str, bytes]:
    with trees.mounted(image, where) as root:
        paths = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
        return {str(path.relative_to(root)): path.read_bytes() for path in paths}


@pytest.mark.root
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_ext4_is_edited(kind: str, folder: Path, tmp_path: Path) -> None:
    image = made(kind, folder, tmp_path / "image")
    new, large = tmp_path / "new", tmp_path / "large"
    new.write_bytes(b"new content\n")
    large.write_bytes(os.urandom(3 << 20))
    before = mounted_files(image, tmp_path / "mnt")
    names = ("replaced", "linked", "brand-new")
    options = [f"--file={new}:{place}/{name}" for place in ("/etc/ssh", "/many") for name in names]
    support.run_ok("bg-inject", *options, f"--file={large}:/large:0600:5:70000", image)
    trees.fsck(image)
    after = mounted_files(image, tmp_path / "mnt")
    for place in ("etc/ssh", "many"):
        for name in names:
            assert after[f"{place}/{name}"] == b"new content\n"
        assert after[f"{place}/other-name"] == b"linked content\n"
    assert after["large"] == large.read_bytes()
    gone = {path for path in before if re.fullmatch("etc/ssh/ssh_host_.*", path)}
    assert len(gone) == 4 and before.keys() - after.keys() == gone
    unchanged = before.keys() & after.keys() - {f"{p}/{n}" for p in ("etc/ssh", "many") for n in ("replaced", "linked")}
    assert all(after[path] == before[path] for path in unchanged) and len(unchanged) > 600
    again = image.read_bytes()
    support.run_ok("bg-inject", *options, f"--file={large}:/large:0600:5:70000", image)
    assert image.read_bytes() == again
