"""What bg-inject does to a filesystem where it replaces and removes files, judged by e2fsck and the kernel's mount."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from banger_tools import inject
from banger_tools.ext4.view import View
from banger_tools.guest import plan
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


@pytest.mark.root
def test_attributes_that_inodes_share_are_left_for_the_others(tmp_path: Path) -> None:
    support.need_root()
    support.need("setfattr")
    (tmp_path / "empty").mkdir()
    image = made("ext4", tmp_path / "empty", tmp_path / "image")
    names = ("kept", "replaced", "other")
    with trees.mounted(image, tmp_path / "mnt", "rw,loop") as root:  # the kernel lets equal attributes share a block
        for name in names:
            (root / name).write_text(name)
            subprocess.run(["setfattr", "-n", "user.large", "-v", "v" * 2000, root / name], check=True)
    blocks = {re.search(r"File ACL: (\d+)", said(image, f"stat {name}"))[1] for name in names}  # type: ignore[index]
    assert len(blocks) == 1 and blocks != {"0"}
    new = tmp_path / "new"
    new.write_text("new")
    support.run_ok("bg-inject", "--no-agent", f"--file={new}:/replaced", f"--file={new}:/other", image)
    trees.fsck(image)
    with trees.mounted(image, tmp_path / "mnt") as root:
        assert os.getxattr(root / "kept", "user.large") == b"v" * 2000
        assert os.listxattr(root / "replaced") == []
    support.run_ok("bg-inject", "--no-agent", f"--file={new}:/kept", image)
    trees.fsck(image)


def said(image: Path, request: str) -> str:
    return subprocess.run(["/sbin/debugfs", "-R", request, image], capture_output=True, text=True).stdout


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """An image that we made ourselves, without root: with sshd's host keys, and little room."""
    ssh = tmp_path / "root/etc/ssh"
    ssh.mkdir(parents=True)
    (ssh / "ssh_host_rsa_key").write_bytes(b"THE-SECRET" * 1000)
    (ssh / "ssh_host_rsa_key.pub").write_bytes(b"public")
    (ssh / "moduli").write_bytes(b"THE-CONTENT" * 1000)
    arguments = ["--path", "--size=8M", "--inodes=64", "-C", tmp_path, tmp_path / "root"]
    return Path(support.run_ok("bg-mkext4", *arguments).decode().strip())


def test_host_keys_are_removed_and_not_a_byte_of_them_is_left(small: Path) -> None:
    assert b"THE-SECRET" in small.read_bytes()
    support.run_ok("bg-inject", small)
    trees.fsck(small)
    data = small.read_bytes()
    assert b"THE-SECRET" not in data
    assert b"THE-CONTENT" in data
    assert "ssh_host" not in said(small, "ls /etc/ssh")


def test_replaced_content_is_wiped(small: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.write_bytes(b"short")
    support.run_ok("bg-inject", "--no-agent", f"--file={new}:/etc/ssh/moduli", small)
    trees.fsck(small)
    assert b"THE-CONTENT" not in small.read_bytes()


def test_host_keys_are_kept_on_demand_and_without_the_agent(small: Path) -> None:
    support.run_ok("bg-inject", "--no-agent", "--hostname=web", small)
    support.run_ok("bg-inject", "--keep-host-keys", small)
    trees.fsck(small)
    assert "ssh_host_rsa_key" in said(small, "ls /etc/ssh")


def test_host_key_that_is_put_in_by_name_stays(small: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"MINE")
    support.run_ok("bg-inject", f"--file={key}:/etc/ssh/ssh_host_ed25519_key:0600", small)
    trees.fsck(small)
    listing = said(small, "ls /etc/ssh")
    assert "ssh_host_ed25519_key" in listing and "ssh_host_rsa_key" not in listing


def refused(image: Path, status: int, words: str, *options: str) -> None:
    before = image.read_bytes()
    done = support.run("bg-inject", *options, image)
    assert (done.returncode, words in done.stderr.decode()) == (status, True), done.stderr.decode()
    assert image.read_bytes() == before


def test_image_without_free_inodes_is_refused_untouched(small: Path, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    options = [f"--file={tmp_path / 'x'}:/etc/many/{number}" for number in range(64)]
    refused(small, 74, "has no room", "--no-agent", *options)
    refused(small, 74, "inodes are needed", "--no-agent", *options)


def test_image_filled_to_the_last_block_is_refused_or_filled_right(small: Path, tmp_path: Path) -> None:
    free = int(re.search(r"Free blocks: +(\d+)", said(small, "stats"))[1]) * 4096  # type: ignore[index]
    fits = False
    for missing in range(0, 40, 4):
        content = tmp_path / "content"
        content.write_bytes(os.urandom(free - missing * 4096))
        before = small.read_bytes()
        done = support.run("bg-inject", "--no-agent", f"--file={content}:/new/folder/file", small)
        if done.returncode == 0:
            fits = True
            break
        assert (done.returncode, small.read_bytes()) == (74, before)
    assert fits and missing > 0
    trees.fsck(small)


def test_what_is_replaced_makes_room(small: Path, tmp_path: Path) -> None:
    free = int(re.search(r"Free blocks: +(\d+)", said(small, "stats"))[1]) * 4096  # type: ignore[index]
    content = tmp_path / "content"
    for fill in (b"1", b"2"):
        content.write_bytes(fill * (free * 2 // 3))
        support.run_ok("bg-inject", "--no-agent", f"--file={content}:/large", small)
        trees.fsck(small)
    assert said(small, "cat /large") == content.read_text()


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ("ssv state 2", "e2fsck -fy"),
        ("ssv state 3", "e2fsck -fy"),
        ("ssv last_orphan 15", "journal"),
        ("feature needs_recovery", "e2fsck -fy"),
    ],
)
def test_image_that_is_not_clean_is_refused(small: Path, request_: str, words: str) -> None:
    subprocess.run(["/sbin/debugfs", "-w", "-R", request_, small], check=True, capture_output=True)
    refused(small, 65, words)


def test_image_that_another_program_edits_is_left_alone(small: Path) -> None:
    with open(small, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused(small, 75, "is in use by another program")
    support.run_ok("bg-inject", small)


def test_two_at_once_leave_a_sound_image(small: Path, tmp_path: Path) -> None:
    """The first waits in debugfs until the second was refused."""
    marks = tmp_path / "marks"
    marks.mkdir()
    slow = f'touch {marks}/began; while [ ! -e {marks}/refused ]; do sleep 0.1; done; exec /sbin/debugfs "$@"'
    argv, environment = support.argv("bg-inject", small), support.environment(fake_debugfs(tmp_path / "bin", slow))
    with subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL) as first:
        try:
            while not (marks / "began").exists() and first.poll() is None:
                time.sleep(0.05)
            second = support.run("bg-inject", "--hostname=web", small)
        finally:
            (marks / "refused").touch()
    assert (first.returncode, second.returncode) == (0, 75), second.stderr.decode()
    trees.fsck(small)
    support.run_ok("bg-inject", "--hostname=web", small)
    trees.fsck(small)


def test_nobody_edits_an_image_while_its_edit_is_planned(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others: list[int] = []
    carry_out = plan.carry_out

    def and_another_one(wanted: plan.Wishes, view: View) -> None:
        carry_out(wanted, view)
        others.append(support.run("bg-inject", "--hostname=theirs", small).returncode)

    monkeypatch.setattr(plan, "carry_out", and_another_one)
    assert inject.main(["--hostname=ours", str(small)]) == 0
    assert others == [75]
    assert said(small, "cat /etc/hostname") == "ours\n"


def fake_debugfs(folder: Path, text: str) -> dict[str, str]:
    """Return an environment where debugfs is another program."""
    folder.mkdir()
    (folder / "debugfs").write_text(f"#!/bin/sh\n{text}\n")
    (folder / "debugfs").chmod(0o755)
    return {"PATH": f"{folder}:{support.search_path()}"}


@pytest.mark.parametrize(("signal", "status"), [("KILL", -9), ("INT", 130), ("TERM", 143)])
def test_interrupted_edit_is_seen_and_can_be_mended(small: Path, tmp_path: Path, signal: str, status: int) -> None:
    half = 'head -n 40 | /sbin/debugfs "$@"; kill -%s $PPID; sleep 2'.replace("%s", signal)
    done = support.run("bg-inject", small, env=fake_debugfs(tmp_path / "bin", half))
    assert done.returncode == status, done.stderr.decode()
    refused(small, 65, "e2fsck -fy")
    mended = subprocess.run(["/sbin/e2fsck", "-fy", small], capture_output=True)
    assert mended.returncode in (0, 1)
    support.run_ok("bg-inject", small)
    trees.fsck(small)


def test_copy_of_an_interrupted_edit_is_gone(small: Path, tmp_path: Path) -> None:
    before = small.read_bytes()
    environment = fake_debugfs(tmp_path / "bin", "kill -TERM $PPID; sleep 2")
    done = support.run("bg-inject", "-o", tmp_path / "copy", small, env=environment)
    assert done.returncode == 143
    assert small.read_bytes() == before
    assert not (tmp_path / "copy").exists() and support.leftovers(tmp_path) == []


def test_edit_that_debugfs_did_not_do_is_found_out(small: Path, tmp_path: Path) -> None:
    done = support.run("bg-inject", small, env=fake_debugfs(tmp_path / "bin", "cat > /dev/null"))
    assert done.returncode == 74
    refused(small, 65, "e2fsck -fy")


def test_missing_debugfs_is_found_before_the_first_write(small: Path) -> None:
    before = small.read_bytes()
    code = "import sys; from banger_tools import inject, process; process.search_path = lambda: ''; "
    argv = [sys.executable, "-P", "-c", code + "raise SystemExit(inject.main(sys.argv[1:]))", small]
    done = subprocess.run(argv, capture_output=True, env=support.environment({"PYTHONPATH": str(support.ROOT)}))
    assert done.returncode == 69, done.stderr.decode()
    assert b"e2fsprogs" in done.stderr
    assert small.read_bytes() == before
