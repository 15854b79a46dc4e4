"""The folder that bg-flatten writes: exact as root, as good as can be as an ordinary user, and never a step outside."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger_tools import contents, tree, unpack
from tests import folders, support, trees


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    support.need_root()
    return folders.make(tmp_path_factory.mktemp("everything") / "root")


@pytest.mark.root
def test_folder_is_exact_as_root(everything: Path, tmp_path: Path) -> None:
    done = support.run("bg-flatten", "-C", tmp_path, f"--dir={tmp_path}/out", everything)
    assert (done.returncode, done.stderr) == (0, b"")
    assert trees.differences(trees.of_folder(tmp_path / "out"), trees.of_folder(everything)) == []
    assert (tmp_path / "out/hole-in-front").stat().st_blocks <= 8


def hostile(path: Path) -> Path:
    """A tar whose entries try to leave the folder that they are unpacked in."""
    with trees.new_tar(path) as out:
        trees.add(out, "up", tarfile.SYMTYPE, linkname="../../../../../../../..")
        trees.add(out, "up/escaped-by-climbing", data=b"x")
        trees.add(out, "root", tarfile.SYMTYPE, linkname="/")
        trees.add(out, "root/escaped-by-root", data=b"x")
        trees.add(out, "proc", tarfile.SYMTYPE, linkname="/proc/self/root")
        trees.add(out, "file", tarfile.SYMTYPE, linkname="/etc/passwd")
        trees.add(out, "hard", tarfile.LNKTYPE, linkname="file")
    return path


def test_symlinks_of_an_image_lead_nowhere(tmp_path: Path) -> None:
    before = Path("/etc/passwd").stat()
    support.run_ok("bg-flatten", "-C", tmp_path, f"--dir={tmp_path}/out", hostile(tmp_path / "hostile.tar"))
    assert (tmp_path / "out/escaped-by-climbing").read_bytes() == b"x"
    assert (tmp_path / "out/escaped-by-root").read_bytes() == b"x"
    assert not Path("/escaped-by-root").exists()
    after = Path("/etc/passwd").stat()
    assert (after.st_mtime_ns, after.st_nlink, after.st_ino) == (before.st_mtime_ns, before.st_nlink, before.st_ino)


@contextlib.contextmanager
def attacker(folder: Path, outside: Path) -> Iterator[None]:
    """Replace, over and over, what is in a folder by symlinks and hardlinks to things outside."""
    stop = threading.Event()

    def attack() -> None:
        while not stop.is_set():
            for place in list(folder.rglob("*"))[:200]:
                with contextlib.suppress(OSError):
                    aside = place.with_name(f"{place.name}-moved")
                    if place.is_dir() and not place.is_symlink():
                        os.rename(place, aside)
                        os.symlink(outside, place)
                    elif place.is_symlink() or place.is_fifo():
                        os.unlink(place)
                        os.link(outside / "victim", place)

    thread = threading.Thread(target=attack)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.root
def test_attacker_in_the_folder_gets_nothing_outside_touched(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("mine")
    (outside / "victim").chmod(0o600)
    os.utime(outside / "victim", ns=(0, 0))
    os.utime(outside, ns=(0, 0))
    entries = [tree.Entry("/", "dir")]
    for one in "abcdefgh":
        entries.append(tree.Entry(f"/{one}", "dir", "0777", uid=1, mtime=(5, 0)))
        for two in range(30):
            entries.append(tree.Entry(f"/{one}/{two:02}", "dir", "0777", uid=1, mtime=(5, 0)))
            entries.append(tree.Entry(f"/{one}/{two:02}/fifo", "fifo", "0777", uid=1, mtime=(5, 0)))
            entries.append(tree.Entry(f"/{one}/{two:02}/link", "symlink", "0777", uid=1, mtime=(5, 0), target="x"))
            entries.append(tree.Entry(f"/{one}/{two:02}/victim", "file", "0777", uid=1, mtime=(5, 0)))
    found = tree.Tree([], entries)
    outcomes = set()
    for number in range(20):
        folder = tmp_path / f"attacked-{number}"
        folder.mkdir()
        with attacker(folder, outside):
            try:
                with contents.opened([], entries) as nothing:
                    unpack.unpack(found, nothing, folder)
                outcomes.add("done")
            except Exception as error:
                outcomes.add(type(error).__name__)
        info = (outside / "victim").stat()
        assert (info.st_mode & 0o777, info.st_uid, info.st_mtime_ns, info.st_size) == (0o600, 0, 0, 4)
        assert [path.name for path in outside.iterdir()] == ["victim"]
        assert outside.stat().st_mtime_ns == 0
    assert outcomes != {"done"}, "the attacker never came in time"


def test_folder_that_is_not_empty_a_file_or_a_symlink_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file", "link", "missing/out"):
        done = support.run("bg-flatten", "-C", tmp_path, f"--dir={tmp_path}/{name}", tmp_path / "in")
        assert done.returncode == 73, name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full", "in", "link"]


def test_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/file").write_text("x")
    (tmp_path / "out").mkdir()
    support.run_ok("bg-flatten", "-C", tmp_path, f"--dir={tmp_path}/out", tmp_path / "in")
    assert (tmp_path / "out/file").read_text() == "x"


def test_failing_run_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "in"
    (source / "closed").mkdir(parents=True)
    (source / "closed/file").write_text("x")
    (source / "closed").chmod(0o500)
    (source / "zzz").write_text("x")
    made = tmp_path / "made"
    made.mkdir()
    support.run_ok("bg-flatten", "-C", tmp_path, source)
    (source / "zzz").write_text("changed")
    done = support.run("bg-flatten", "-C", made, f"--dir={made}/out", f"--tar={made}/tar", tmp_path / "tree.jsonl")
    assert done.returncode == 65
    assert b"zzz' changed" in done.stderr
    assert list(made.iterdir()) == []


def test_deep_tree_becomes_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "deep.tar"
    with trees.new_tar(path) as out:
        trees.add(out, "/".join(["d"] * 900) + "/file", data=b"x")
    support.run_ok("bg-flatten", "-C", tmp_path, f"--dir={tmp_path}/out", path)
    assert len(list((tmp_path / "out").rglob("*"))) == 901


def made_by_user(user: support.OrdinaryUser, source: Path, name: str) -> tuple[Path, bytes]:
    """Unpack a folder as the ordinary user; return where, and what was said."""
    archive = user.home / f"{name}.tar"
    support.run_ok("bg-flatten", "--tar", archive, "-o", user.home / f"{name}-root.jsonl", source)
    out = user.home / name
    done = user.run("bg-flatten", "-o", user.home / f"{name}.jsonl", f"--dir={out}", archive)
    assert done.returncode == 0, done.stderr.decode()
    return out, done.stderr


@pytest.mark.root
def test_ordinary_user_gets_all_but_what_only_root_may_set_and_is_told(
    everything: Path, user: support.OrdinaryUser
) -> None:
    out, said = made_by_user(user, everything, "by-user")
    wanted = trees.of_folder(everything)
    ours = trees.of_folder(out)
    devices = {path for path, seen in wanted.items() if seen.type in ("char", "block")}
    assert wanted.keys() - ours.keys() == devices
    for path, seen in ours.items():
        mode = wanted[path].mode
        if seen.type != "symlink":
            mode = mode & (0o7777 if seen.type == "dir" else 0o1777) | (0o700 if seen.type == "dir" else 0o400)
        assert seen[4:8] == wanted[path][4:8], path
        assert (seen.type, seen.mode, seen.content) == (wanted[path].type, mode, wanted[path].content), path
        allowed = ("user.", "system.") if seen.type in ("file", "dir") else ()
        assert seen.xattrs == tuple(x for x in wanted[path].xattrs if x[0].startswith(allowed)), path
    assert b"1 devices" in said or b"2 devices" in said
    for word in (b"owners", b"modes", b"xattrs"):
        assert word in said
    assert trees.differences(trees.of_tree(tree.read(user.home / "by-user.jsonl")), wanted) == []


@pytest.mark.root
def test_folder_edited_by_hand_goes_back_into_an_image(tmp_path: Path, user: support.OrdinaryUser) -> None:
    source = tmp_path / "source"
    folders.make(source)
    for name in ("null", "disk", "disk-again"):
        (source / name).unlink()
    out, _ = made_by_user(user, source, "edited")
    (out / "dir/new").write_text("new")
    (out / "small").unlink()
    subprocess.run(["chown", f"{support.USER}:{support.USER}", out / "dir/new"], check=True)
    image = user.home / "edited.ext4"
    assert user.run("bg-mkext4", "-o", image, out).returncode == 0
    done = user.run("bg-chown", f"--from={user.home}/edited.jsonl", image)
    assert done.returncode == 0, done.stderr.decode()
    assert b"/dir/new" in done.stderr
    with trees.mounted(image, tmp_path / "mount") as mounted:
        ours = trees.of_folder(mounted, ignore=frozenset([b"/lost+found"]))
    wanted = trees.of_folder(source)
    for path, seen in ours.items():
        if path not in (b"/dir/new", b"/dir/hard"):
            assert (seen.type, seen.mode, seen.uid, seen.gid) == wanted[path][:4], path
    assert ours[b"/dir/new"][2:4] == (0, 0)
    assert ours.keys() == wanted.keys() - {b"/small"} | {b"/dir/new"}
