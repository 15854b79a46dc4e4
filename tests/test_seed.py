"""bg-seed judged by the kernel's mount, by e2fsck and by the folder that the image was made of."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests import support, trees


def image_of(tmp_path: Path, archive: Path) -> Path:
    return Path(support.run_ok("bg-mkext4", "--path", "-C", tmp_path, archive).decode().strip())


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "home.tar"
    with trees.new_tar(path) as out:
        trees.add(out, "root", tarfile.DIRTYPE, mode=0o775, uid=5, gid=5)
        trees.add(out, "root/.profile", data=b"export A=1\n")
        trees.add(out, "root/.ssh", tarfile.DIRTYPE, mode=0o700)
        trees.add(out, "root/.ssh/authorized_keys", data=b"ssh-ed25519 AAAA\n", mode=0o600)
        trees.add(out, "root/large", data=os.urandom(500_000), uid=1000, gid=1000)
        trees.add(out, "root/hard", tarfile.LNKTYPE, linkname="root/large")
        trees.add(out, "root/link", tarfile.SYMTYPE, linkname="/" + "x" * 100, mode=0o777, uid=9)
        trees.add(out, "root/device", tarfile.CHRTYPE, devmajor=10, devminor=300)
        trees.add(out, "root/attr", data=b"x", pax_headers={"SCHILY.xattr.user.big": "v" * 2000})
        trees.add(out, "root/" + "deep/" * 30 + "file", data=b"deep")
        trees.add(out, "etc/passwd", data=b"root")
    return path


@pytest.mark.root
def test_seed_holds_everything_below_root_exactly(archive: Path, tmp_path: Path) -> None:
    image = image_of(tmp_path, archive)
    out = support.manifest_of(support.run_ok("bg-seed", "-C", tmp_path, image))
    seed = Path(out["work_seed"]["path"])
    trees.fsck(seed)
    with trees.mounted(image, tmp_path / "mount") as whole:
        reference = trees.of_folder(whole / "root")
    with trees.mounted(seed, tmp_path / "mount") as folder:
        ours = trees.of_folder(folder, ignore=frozenset([b"/lost+found"]))
    reference[b"/"] = reference[b"/"]._replace(uid=0, gid=0, mode=reference[b"/"].mode & ~0o022)
    assert trees.differences(ours, reference) == []


@pytest.mark.parametrize("kind", [["-O", "inline_data"], ["-O", "^extent,^64bit"], ["-b", "1024"]])
def test_seed_of_an_image_that_mke2fs_made(kind: list[str], tmp_path: Path) -> None:
    source = tmp_path / "source/root"
    source.mkdir(parents=True)
    (source / "tiny").write_bytes(b"tiny")
    (source / "medium").write_bytes(b"m" * 140)
    (source / "large").write_bytes(os.urandom(700_000))
    image = tmp_path / "theirs.ext4"
    subprocess.run(["/sbin/mke2fs", "-q", "-t", "ext4", *kind, "-d", source.parent, image, "32M"], check=True)
    seed = support.run_ok("bg-seed", "--path", "-C", tmp_path, image).decode().strip()
    trees.fsck(Path(seed))
    for name in ("tiny", "medium", "large"):
        subprocess.run(["/sbin/debugfs", "-R", f"dump /{name} {tmp_path}/out", seed], check=True, capture_output=True)
        assert (tmp_path / "out").read_bytes() == (source / name).read_bytes()


def test_same_image_gives_the_same_seed(archive: Path, tmp_path: Path) -> None:
    image = image_of(tmp_path, archive)
    support.run_ok("bg-seed", "-o", tmp_path / "one", image)
    support.run_ok("bg-seed", "-o", tmp_path / "two", image)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("home", ["missing", "empty", "a file"])
def test_nothing_to_copy_is_a_warning_and_null_with_the_reason(home: str, tmp_path: Path) -> None:
    archive = tmp_path / "in.tar"
    with trees.new_tar(archive) as out:
        trees.add(out, "etc", tarfile.DIRTYPE)
        if home != "missing":
            trees.add(out, "root", tarfile.DIRTYPE if home == "empty" else tarfile.REGTYPE)
    image = image_of(tmp_path, archive)
    done = support.run("bg-seed", "-C", tmp_path, image)
    assert done.returncode == 0
    out_manifest = support.manifest_of(done.stdout)
    assert out_manifest["work_seed"] is None
    assert "/root" in out_manifest["work_seed_reason"]
    assert "warning" in done.stderr.decode()
    assert not (tmp_path / "work-seed.ext4").exists()
    assert support.run("bg-seed", "--require", "-C", tmp_path, image).returncode == 65


def test_another_home_can_be_seeded(archive: Path, tmp_path: Path) -> None:
    image = image_of(tmp_path, archive)
    seed = support.run_ok("bg-seed", "--path", "--home=/etc", "-C", tmp_path, image).decode().strip()
    said = subprocess.run(["/sbin/debugfs", "-R", "cat /passwd", seed], capture_output=True).stdout
    assert said == b"root"
