"""bg-seed on homes filled by the kernel, behind symlinks, nested and damaged; judged by mounts and debugfs."""

from __future__ import annotations

import os
import socket
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests import support, trees
from tests.images import debugfs, mke2fs, stat


def seed_of(image: Path, folder: Path, *arguments: str) -> Path:
    seed = Path(support.run_ok("bg-seed", "--path", "-f", "-C", folder, *arguments, image).decode().strip())
    trees.fsck(seed)
    return seed


def refused(image: Path, folder: Path, *arguments: str) -> str:
    """Run bg-seed, which must fail and leave everything as it was; return what it said."""
    before, names = image.read_bytes(), sorted(os.listdir(folder))
    done = support.run("bg-seed", "-C", folder, *arguments, image)
    assert done.returncode == 65, done.stderr.decode()
    assert done.stdout == b""
    assert image.read_bytes() == before
    assert sorted(os.listdir(folder)) == names
    return done.stderr.decode()


def fill(home: Path) -> None:
    """Let the kernel write all kinds of files."""
    (home / "flat").mkdir()
    for number in range(1000):
        (home / "flat" / f"a name that fills the index {number}").touch()
    with open(home / "holes", "wb") as file:
        for offset in (0, 5 << 10, 70 << 10, 3 << 20, 1 << 26):
            file.seek(offset)
            file.write(os.urandom(1500))
    with open(home / "unwritten", "w+b") as file:
        file.write(b"x" * 5000)
        os.posix_fallocate(file.fileno(), 0, 1 << 20)
    with open(home / "torn", "wb") as torn, open(home / "other", "wb") as other:
        for number in range(40):  # synced in turns, so that neither gets its blocks in one piece
            for file in (torn, other):
                file.write(number.to_bytes(2, "big") * 2048)
                file.flush()
                os.fsync(file.fileno())
    os.setxattr(home / "torn", "user.small", b"1")
    os.setxattr(home / "torn", "user.large", os.urandom(700))
    os.setxattr(home / "torn", b"user.n\xffme", b"x")
    os.setxattr(home / "torn", "security.capability", bytes.fromhex("0100000202040000000000000000000000000000"))
    subprocess.run(["setfacl", "-m", "u:1234:rwx,g:70000:r", home / "torn"], check=True)
    subprocess.run(["setfacl", "-d", "-m", "u:4000000000:rx", home / "flat"], check=True)
    (home / "link").symlink_to("x" * 1000)
    (home / "short").symlink_to("torn")
    os.link(home / "torn", home / "flat/torn again")
    os.mknod(home / "device", 0o20600, os.makedev(4095, 1048575))
    os.mkfifo(home / "fifo")
    os.mkdir(os.fsencode(home) + b"/n\xffme")
    os.utime(home / "fifo", ns=(0, -(10**18) - 1))
    os.utime(home / "short", ns=(0, 10**19 + 1), follow_symlinks=False)
    os.chown(home / "link", 4294967294, 4294967294, follow_symlinks=False)
    os.chmod(home / "holes", 0o4711)


@pytest.mark.root
@pytest.mark.parametrize(
    "kind",
    [
        ["-O", "metadata_csum_seed,orphan_file"],
        ["-b", "1024", "-O", "inline_data,^metadata_csum"],
        ["-b", "2048", "-O", "^extent,^64bit"],
        ["-O", "bigalloc", "-C", "16384"],
    ],
    ids=" ".join,
)
def test_home_that_the_kernel_filled_is_copied_exactly(kind: list[str], tmp_path: Path) -> None:
    support.need("setfacl")
    image = mke2fs(tmp_path / "image.ext4", *kind, size="96M")
    with trees.mounted(image, tmp_path / "mount", "rw,loop") as whole:
        (whole / "root").mkdir(mode=0o700)
        fill(whole / "root")
    with trees.mounted(image, tmp_path / "mount") as whole:
        reference = trees.of_folder(whole / "root")
        holes = os.stat(whole / "root/holes").st_blocks
    seed = seed_of(image, tmp_path)
    with trees.mounted(seed, tmp_path / "mount") as folder:
        ours = trees.of_folder(folder, ignore=frozenset([b"/lost+found"]))
        assert os.stat(folder / "holes").st_blocks <= max(holes, 5 * 2 * 8)
        assert len(list((folder / "lost+found").iterdir())) == 0
    assert trees.differences(ours, reference) == []


@pytest.mark.root
def test_socket_is_left_out_with_a_warning(tmp_path: Path) -> None:
    image = mke2fs(tmp_path / "image.ext4")
    with trees.mounted(image, tmp_path / "mount", "rw,loop") as whole:
        (whole / "root").mkdir()
        (whole / "root/file").touch()
        socket.socket(socket.AF_UNIX).bind(str(whole / "root/s"))
    done = support.run("bg-seed", "-C", tmp_path, image)
    assert done.returncode == 0
    assert "left out '/s': a socket" in done.stderr.decode()
    assert "Type: regular" in debugfs(tmp_path / "work-seed.ext4", "stat /file")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image with homes behind symlinks."""
    archive = tmp_path / "in.tar"
    with trees.new_tar(archive) as out:
        trees.add(out, "var/home/me", tarfile.DIRTYPE, mode=0o710, uid=1000, gid=1000)
        trees.add(out, "var/home/me/file", data=b"mine", uid=1000)
        trees.add(out, "home", tarfile.SYMTYPE, linkname="/var/home")
        trees.add(out, "root", tarfile.SYMTYPE, linkname="../../home/me")
        trees.add(out, "round", tarfile.SYMTYPE, linkname="round")
        trees.add(out, "lost", tarfile.SYMTYPE, linkname="/nowhere")
    return Path(support.run_ok("bg-mkext4", "--path", "-C", tmp_path, "--size=16M", archive).decode().strip())


@pytest.mark.parametrize("home", ["/root", "/home/me", "/home/me/", "/var/../home/./me", "/../root"])
def test_symlinked_home_is_followed_inside_the_image(home: str, image: Path, tmp_path: Path) -> None:
    seed = seed_of(image, tmp_path, f"--home={home}")
    assert "mine" in debugfs(seed, "cat /file")
    assert stat(seed, "/") == (0, 0, "40710")
    assert stat(seed, "/file")[0] == 1000


@pytest.mark.parametrize(
    ("home", "reason"),
    [
        ("/round", "symlink to nowhere"),
        ("/lost", "symlink to nowhere"),
        ("/root/file", "is no folder"),
        ("/root/file/below", "has no '/root/file/below'"),
        ("/home/you", "has no '/home/you'"),
    ],
)
def test_home_that_leads_nowhere_is_named_with_the_reason(home: str, reason: str, image: Path, tmp_path: Path) -> None:
    out = support.manifest_of(support.run_ok("bg-seed", "-C", tmp_path, f"--home={home}", image))
    assert out["work_seed"] is None
    assert reason in out["work_seed_reason"]
    assert reason in refused(image, tmp_path, "--require", f"--home={home}")


def test_relative_home_is_refused(image: Path, tmp_path: Path) -> None:
    assert support.run("bg-seed", "-C", tmp_path, "--home=root", image).returncode == 64


def test_whole_image_can_be_the_home(image: Path, tmp_path: Path) -> None:
    seed = seed_of(image, tmp_path, "--home=/")
    assert "mine" in debugfs(seed, "cat /var/home/me/file")


def nested_tar(path: Path, *more: str) -> Path:
    """Make a tar of a work disk whose home was copied into it as a folder, twice."""
    with trees.new_tar(path) as out:
        trees.add(out, "root", tarfile.DIRTYPE, mode=0o750, uid=3)
        trees.add(out, "root/history", data=b"later")
        trees.add(out, "root/.ssh", tarfile.DIRTYPE, mode=0o755)
        trees.add(out, "root/.ssh/known", data=b"k")
        trees.add(out, "root/root", tarfile.DIRTYPE, mode=0o700, uid=9)
        trees.add(out, "root/root/.profile", data=b"p", uid=9)
        trees.add(out, "root/root/.ssh", tarfile.DIRTYPE, mode=0o700, uid=9)
        trees.add(out, "root/root/.ssh/keys", data=b"s", mode=0o600)
        trees.add(out, "root/root/hard", tarfile.LNKTYPE, linkname="root/root/.ssh/keys")
        trees.add(out, "root/root/root", tarfile.DIRTYPE, mode=0o711)
        trees.add(out, "root/root/root/deep", data=b"d")
        trees.add(out, "root/also_hard", tarfile.LNKTYPE, linkname="root/root/.profile")
        for name in more:
            trees.add(out, name, data=b"clash")
    return path


@pytest.mark.root
def test_nested_home_is_lifted_up(tmp_path: Path) -> None:
    archive = nested_tar(tmp_path / "in.tar")
    image = Path(support.run_ok("bg-mkext4", "--path", "-C", tmp_path, "--size=16M", archive).decode().strip())
    seed = seed_of(image, tmp_path, "--flatten-nested")
    assert stat(seed, "/") == (0, 0, "40711")
    with trees.mounted(seed, tmp_path / "mount") as folder:
        found = trees.of_folder(folder, ignore=frozenset([b"/lost+found"]))
    names = b"/ /.profile /.ssh /.ssh/keys /.ssh/known /also_hard /deep /hard /history".split()
    assert sorted(found) == names
    assert (found[b"/.ssh"].mode, found[b"/.ssh"].uid) == (0o700, 9)
    assert found[b"/hard"].names == (b"/.ssh/keys", b"/hard")
    assert found[b"/also_hard"].names == (b"/.profile", b"/also_hard")


def test_work_disk_with_a_nested_home_is_mended(tmp_path: Path) -> None:
    """The disk itself is the home: other tools put the folder `root` into it, a machine wrote beside it."""
    folder = tmp_path / "disk"
    (folder / "root/.config").mkdir(parents=True)
    (folder / "root/.config/app").write_text("setting")
    (folder / ".bash_history").write_text("ls\n")
    disk = mke2fs(tmp_path / "work.ext4", "-d", folder)
    seed = seed_of(disk, tmp_path, "--home=/", "--flatten-nested")
    assert "setting" in debugfs(seed, "cat /.config/app")
    assert "ls" in debugfs(seed, "cat /.bash_history")
    assert "/root/" not in debugfs(seed, "ls -p /")


def test_nested_home_stays_unless_asked_and_is_no_home_if_a_file(tmp_path: Path) -> None:
    archive = tmp_path / "in.tar"
    with trees.new_tar(archive) as out:
        trees.add(out, "root/root", data=b"a file of that name")
        trees.add(out, "srv/srv/x", data=b"nested")
    image = Path(support.run_ok("bg-mkext4", "--path", "-C", tmp_path, "--size=16M", archive).decode().strip())
    assert "a file of that name" in debugfs(seed_of(image, tmp_path, "--flatten-nested"), "cat /root")
    assert "nested" in debugfs(seed_of(image, tmp_path, "--home=/srv"), "cat /srv/x")
    assert "nested" in debugfs(seed_of(image, tmp_path, "--home=/srv", "--flatten-nested"), "cat /x")


@pytest.mark.parametrize("name", ["root/.profile", "root/.ssh/keys", "root/deep"])
def test_name_that_both_homes_have_is_an_error(name: str, tmp_path: Path) -> None:
    archive = nested_tar(tmp_path / "in.tar", name)
    image = Path(support.run_ok("bg-mkext4", "--path", "-C", tmp_path, "--size=16M", archive).decode().strip())
    said = refused(image, tmp_path, "--flatten-nested")
    assert f"'{name.removeprefix('root')}'" in said
    assert "are two" in said


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (["sif /var/home/me/file flags 0x80800"], "'/file' of '"),
        (["sif /var/home/me flags 0x80800"], "is encrypted"),
        (["ln /var/home /var/home/me/up"], "more than one name"),
        (["sif /var/home/me/file size 0x7fffffffffff0000"], "more than an ext4 file can have"),
        (["sif /var/home/me/file mode 0"], "not in use"),
        (["sif /var/home/me/file block[0] 0xabcd"], "extent tree is malformed"),
        (["sif /var/home/me block[5] 0x7fffffff"], "outside of it"),
    ],
)
def test_damaged_home_is_refused_and_the_image_stays_publishable(
    damage: list[str], words: str, image: Path, tmp_path: Path
) -> None:
    debugfs(image, *damage, write=True)
    assert words in refused(image, tmp_path, "--home=/home/me")
    done = support.run("bg-seed", "-C", tmp_path, "--optional", "--home=/home/me", image)
    assert done.returncode == 0, done.stderr.decode()
    assert words in support.manifest_of(done.stdout)["work_seed_reason"]
    assert b"warning: no work seed: " in done.stderr
    assert not (tmp_path / "work-seed.ext4").exists()


def test_size_that_is_too_small_is_refused_with_the_least(image: Path, tmp_path: Path) -> None:
    done = support.run("bg-seed", "-C", tmp_path, "--size=64K", image)
    assert done.returncode == 64
    assert "--size=" in done.stderr.decode()
    assert not (tmp_path / "work-seed.ext4").exists()
    seed = seed_of(image, tmp_path, "--size=8M")
    assert seed.stat().st_size == 8 << 20
