"""bg-chown judged by debugfs and e2fsck, on our images and on those of mke2fs of several kinds."""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests import support, trees


def stat(image: Path, path: str) -> tuple[int, int, str]:
    """Return owner, group and the whole i_mode as debugfs sees them."""
    said = subprocess.run(["/sbin/debugfs", "-R", f"stat {path}", image], capture_output=True, text=True).stdout
    raw = subprocess.run(["/sbin/debugfs", "-R", f"inode_dump {path}", image], capture_output=True, text=True).stdout
    match = re.search(r"User:\s+(-?\d+)\s+Group:\s+(-?\d+)", said)
    assert match, said
    low = raw.split()[1]  # the first two bytes of the dump are i_mode, little-endian
    return int(match[1]) % 2**32, int(match[2]) % 2**32, f"{int(low[2:4] + low[0:2], 16):o}"


@pytest.fixture
def content(tmp_path: Path) -> Path:
    archive = tmp_path / "content.tar"
    with trees.new_tar(archive) as out:
        trees.add(out, "bin", tarfile.DIRTYPE, mode=0o755)
        trees.add(out, "bin/su", data=b"x", mode=0o4755, uid=0)
        trees.add(out, "bin/link", tarfile.SYMTYPE, linkname="su", uid=3, gid=4, mode=0o777)
        trees.add(out, "home", data=b"y", uid=1000, gid=70000)
        trees.add(out, "again", tarfile.LNKTYPE, linkname="home")
        trees.add(out, "null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666)
    return archive


@pytest.fixture
def tree(content: Path, tmp_path: Path) -> Path:
    return Path(support.run_ok("bg-flatten", "--path", "-C", tmp_path, content).decode().strip())


@pytest.fixture
def image(content: Path, tmp_path: Path) -> Path:
    return Path(support.run_ok("bg-mkext4", "--path", "-C", tmp_path, "--size=16M", content).decode().strip())


def test_pipe_finds_nothing_to_change_in_our_own_images(content: Path, tmp_path: Path) -> None:
    flat = support.run_ok("bg-flatten", "-C", tmp_path, content)
    made = support.run_ok("bg-mkext4", "-C", tmp_path, stdin=flat)
    before = (tmp_path / "rootfs.ext4").read_bytes()
    owned = support.manifest_of(support.run_ok("bg-chown", stdin=made))
    assert owned["ownership"] == {"checked": 6, "changed": 0}
    assert (tmp_path / "rootfs.ext4").read_bytes() == before


KINDS = {
    "default": [],
    "1k blocks": ["-b", "1024"],
    "2k blocks": ["-b", "2048"],
    "no checksums": ["-O", "^metadata_csum"],
    "gdt checksums": ["-O", "^metadata_csum,uninit_bg"],
    "no 64bit": ["-O", "^64bit"],
    "no flex_bg": ["-O", "^flex_bg"],
    "meta_bg": ["-O", "meta_bg,^resize_inode"],
    "small inodes": ["-I", "128"],
    "large inodes": ["-I", "512"],
    "checksum seed": ["-O", "metadata_csum_seed"],
    "inline data": ["-O", "inline_data"],
    "block maps": ["-O", "^extent,^64bit"],
}


@pytest.mark.root  # the folder that mke2fs copies holds a device
@pytest.mark.parametrize("kind", KINDS)
def test_owners_of_an_image_that_mke2fs_made_are_set_from_the_tree(
    kind: str, content: Path, tree: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "extracted"
    folder.mkdir()
    subprocess.run(["tar", "-C", folder, "--no-same-owner", "-xf", content], check=True)
    image = tmp_path / "theirs.ext4"
    subprocess.run(["/sbin/mke2fs", "-q", "-t", "ext4", *KINDS[kind], "-d", folder, image, "16M"], check=True)
    support.run_ok("bg-chown", "--from", tree, image)
    trees.fsck(image)
    assert stat(image, "/home")[:2] == (1000, 70000)
    assert stat(image, "/again")[:2] == (1000, 70000)
    assert stat(image, "/bin/su") == (0, 0, "104755")
    assert stat(image, "/bin/link") == (3, 4, "120777")
    assert stat(image, "/null") == (0, 0, "20666")
    after = image.read_bytes()
    support.run_ok("bg-chown", "--from", tree, image)
    assert image.read_bytes() == after


def test_set_keeps_the_type_of_what_it_changes(image: Path) -> None:
    support.run_ok("bg-chown", "--set=/bin=5:6:0700", "--set=/null=7:4294967294", image)
    trees.fsck(image)
    assert stat(image, "/bin") == (5, 6, "40700")
    assert stat(image, "/null") == (7, 4294967294, "20666")


def test_check_reports_and_changes_nothing(image: Path, tree: Path) -> None:
    assert support.run("bg-chown", "--check", "--from", tree, image).returncode == 0
    support.run_ok("bg-chown", "--set=/home=9:9", image)
    before = image.read_bytes()
    done = support.run("bg-chown", "--check", "--from", tree, image)
    assert done.returncode == 1
    assert "'/again' is 9:9:0644, not 1000:70000:0644" in done.stderr.decode()
    assert image.read_bytes() == before


@pytest.mark.parametrize(
    ("spec", "status"),
    [
        ("/missing=0:0", 65),
        ("/home/below=0:0", 65),
        ("/home=4294967295:0", 64),
        ("/home=0:0:100644", 64),
        ("/home=root:root", 64),
        ("home=0:0", 64),
        ("/home=0:0:0999", 64),
    ],
)
def test_bad_spec_leaves_the_image_untouched(image: Path, spec: str, status: int) -> None:
    before = image.read_bytes()
    done = support.run("bg-chown", "--set=/bin=1:1", f"--set={spec}", image)
    assert done.returncode == status, done.stderr.decode()
    assert image.read_bytes() == before


def test_another_type_than_the_tree_says_is_refused(image: Path, tree: Path) -> None:
    tree.write_text(tree.read_text().replace('"path":"/bin/su","type":"file"', '"path":"/bin/su","type":"fifo"'))
    done = support.run("bg-chown", "--from", tree, image)
    assert done.returncode == 65
    assert "'/bin/su' is a file" in done.stderr.decode()


def test_copy_is_edited_with_output(image: Path, tmp_path: Path) -> None:
    before = image.read_bytes()
    support.run_ok("bg-chown", "--set=/home=1:2", "-o", tmp_path / "copy.ext4", image)
    assert image.read_bytes() == before
    assert stat(tmp_path / "copy.ext4", "/home")[:2] == (1, 2)


def test_unclean_image_is_refused_with_a_hint(image: Path, tmp_path: Path) -> None:
    subprocess.run(["/sbin/debugfs", "-w", "-R", "set_super_value state 0", image], check=True, capture_output=True)
    done = support.run("bg-chown", "--set=/home=1:2", image)
    assert done.returncode == 65
    assert "e2fsck -fy" in done.stderr.decode()


@pytest.mark.root
def test_image_with_an_unreplayed_journal_is_refused(image: Path, tmp_path: Path) -> None:
    with trees.mounted(image, tmp_path / "mount", "rw,loop") as folder:
        (folder / "new").write_text("x")
        subprocess.run(["sync", "-f", folder], check=True)
        shutil.copy(image, tmp_path / "torn.ext4")
    done = support.run("bg-chown", "--set=/home=1:2", tmp_path / "torn.ext4")
    assert done.returncode == 65
    assert "journal" in done.stderr.decode()


def test_what_is_no_image_is_named(content: Path) -> None:
    done = support.run("bg-chown", "--set=/x=1:1", content)
    assert done.returncode == 65
    assert "is a tar" in done.stderr.decode()
