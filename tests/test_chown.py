"""bg-chown judged by debugfs and e2fsck, on our images and on those of mke2fs of several kinds."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests import support, trees
from tests.images import debugfs, mke2fs, stat


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chown")


@pytest.fixture(scope="module")
def content(folder: Path) -> Path:
    archive = folder / "content.tar"
    with trees.new_tar(archive) as out:
        trees.add(out, "bin", tarfile.DIRTYPE, mode=0o755)
        trees.add(out, "bin/su", data=b"x", mode=0o4755, uid=0)
        trees.add(out, "bin/link", tarfile.SYMTYPE, linkname="su", uid=3, gid=4, mode=0o777)
        trees.add(out, "home", data=b"y", uid=1000, gid=70000)
        trees.add(out, "again", tarfile.LNKTYPE, linkname="home")
        trees.add(out, "null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666)
    return archive


@pytest.fixture(scope="module")
def extracted(content: Path, folder: Path) -> Path:
    """What a tool that knows nothing of owners makes of it."""
    target = folder / "extracted"
    target.mkdir()
    subprocess.run(["tar", "-C", target, "--no-same-owner", "-xf", content], check=True)
    return target


@pytest.fixture(scope="module")
def tree(content: Path, folder: Path) -> Path:
    return Path(support.run_ok("bg-flatten", "--path", "-C", folder, content).decode().strip())


@pytest.fixture(scope="module")
def made(content: Path, folder: Path) -> Path:
    return Path(support.run_ok("bg-mkext4", "--path", "-C", folder, "--size=16M", content).decode().strip())


@pytest.fixture
def image(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(made, tmp_path / "image.ext4"))


def test_pipe_finds_nothing_to_change_in_our_own_images(content: Path, tmp_path: Path) -> None:
    flat = support.run_ok("bg-flatten", "-C", tmp_path, content)
    made = support.run_ok("bg-mkext4", "-C", tmp_path, stdin=flat)
    before = (tmp_path / "rootfs.ext4").read_bytes()
    owned = support.manifest_of(support.run_ok("bg-chown", stdin=made))
    assert owned["ownership"] == {"checked": 6, "changed": 0}
    support.run_ok("bg-chown", "--check", stdin=made)
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
    "inline data in large inodes": ["-O", "inline_data", "-I", "1024"],
    "bigalloc": ["-O", "bigalloc", "-C", "16384"],
    "bigalloc with 4 KiB blocks": ["-O", "bigalloc", "-b", "4096"],
    "bigalloc and meta_bg": ["-O", "bigalloc,meta_bg,^resize_inode", "-b", "1024"],
    "quota": ["-O", "quota"],
    "names without types": ["-O", "^filetype"],
    "casefold": ["-O", "casefold", "-E", "encoding=utf8"],
    "encryption not used": ["-O", "encrypt"],
    "mounted by nobody": ["-O", "mmp"],
    "orphan file": ["-O", "orphan_file"],
    "large xattrs": ["-O", "ea_inode"],
    "no journal": ["-O", "^has_journal"],
    "sparse_super2": ["-O", "sparse_super2,^resize_inode"],
    "64 KiB blocks": ["-b", "65536"],
    # The default features of e2fsprogs 1.43 to 1.46, of 1.42, and of ext3 and ext2
    "1.43": ["-O", "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,"
             "large_file,huge_file,dir_nlink,extra_isize,metadata_csum"],
    "1.42": ["-O", "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,flex_bg,sparse_super,large_file,"
             "huge_file,uninit_bg,dir_nlink,extra_isize"],
    "1.47": ["-O", "metadata_csum_seed,orphan_file"],
    "ext3": ["-O", "none,has_journal,ext_attr,resize_inode,dir_index,filetype,sparse_super,large_file", "-I", "128"],
    "ext2": ["-O", "none,ext_attr,filetype,sparse_super"],
    "revision 0": ["-r", "0", "-O", "none"],
    "block maps": ["-O", "^extent,^64bit"],
}  # fmt: skip


@pytest.mark.root  # the folder that mke2fs copies holds a device
@pytest.mark.parametrize("kind", KINDS)
def test_owners_of_an_image_that_mke2fs_made_are_set_from_the_tree(
    kind: str, extracted: Path, tree: Path, tmp_path: Path
) -> None:
    image = mke2fs(tmp_path / "theirs.ext4", *KINDS[kind], "-d", extracted)
    support.run_ok("bg-chown", "--from", tree, image)
    trees.fsck(image)
    assert stat(image, "/home")[:2] == (1000, 70000)
    assert stat(image, "/again")[:2] == (1000, 70000)
    assert stat(image, "/bin/su") == (0, 0, "104755")
    assert stat(image, "/bin/link") == (3, 4, "120777")
    assert stat(image, "/null") == (0, 0, "20666")
    after, when = image.read_bytes(), image.stat().st_mtime_ns
    support.run_ok("bg-chown", "--from", tree, image)
    assert image.read_bytes() == after
    assert image.stat().st_mtime_ns == when


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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("rm /bin/su", "'/bin/su' is in the tree, and not there"),
        ("rm /bin/su\ncd /bin\nmknod su p", "'/bin/su' is a fifo, and a file in the tree"),
    ],
)
def test_image_that_is_not_the_one_of_the_manifest_is_refused(
    change: str, words: str, content: Path, tmp_path: Path
) -> None:
    made = support.run_ok("bg-mkext4", "-C", tmp_path, stdin=support.run_ok("bg-flatten", "-C", tmp_path, content))
    image = tmp_path / "rootfs.ext4"
    debugfs(image, *change.split("\n"), "sif / uid 7", write=True)
    before = image.read_bytes()
    done = support.run("bg-chown", stdin=made)
    assert done.returncode == 65
    assert words in done.stderr.decode()
    assert image.read_bytes() == before


def test_copy_is_edited_with_output(image: Path, tmp_path: Path) -> None:
    before = image.read_bytes()
    support.run_ok("bg-chown", "--set=/home=1:2", "-o", tmp_path / "copy.ext4", image)
    assert image.read_bytes() == before
    assert stat(tmp_path / "copy.ext4", "/home")[:2] == (1, 2)


def test_unclean_image_is_refused_with_a_hint(image: Path, tmp_path: Path) -> None:
    debugfs(image, "set_super_value state 0", write=True)
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
