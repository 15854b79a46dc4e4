"""Folders as input: everything in them gets into the tree and into an image, judged by the kernel's own mount."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from banger_tools import tree
from tests import folders, support, trees


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    support.need_root()
    return folders.make(tmp_path_factory.mktemp("everything") / "root")


def tree_of(folder: Path, where: Path, *options: str | Path) -> tree.Tree:
    out = support.run_ok("bg-flatten", "--path", "-f", "-C", where, *options, folder)
    return tree.read(Path(out.decode().strip()))


@pytest.mark.root
def test_tree_says_everything_that_is_in_a_folder(everything: Path, tmp_path: Path) -> None:
    assert trees.differences(trees.of_tree(tree_of(everything, tmp_path)), trees.of_folder(everything)) == []


@pytest.mark.root
def test_kernel_finds_everything_of_a_folder_in_the_image(everything: Path, tmp_path: Path) -> None:
    image = tmp_path / "made.ext4"
    support.run_ok("bg-mkext4", "-o", image, everything)
    trees.fsck(image)
    with trees.mounted(image, tmp_path / "mount") as mounted:
        ours = trees.of_folder(mounted, ignore=frozenset([b"/lost+found"]))
        sparse = os.stat(mounted / "nothing-but-hole").st_blocks, os.stat(mounted / "hole-in-front").st_blocks
    assert trees.differences(ours, trees.of_folder(everything)) == []
    assert sparse == (0, 8)


@pytest.mark.root
def test_folder_gives_the_same_image_with_and_without_a_tree_in_between(everything: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.ext4", tmp_path / "second.ext4"
    support.run_ok("bg-mkext4", "-o", first, everything)
    made = support.run_ok("bg-flatten", "-C", tmp_path, everything)
    support.run_ok("bg-mkext4", "-o", second, stdin=made)
    subprocess.run(["cmp", first, second], check=True)


@pytest.mark.root
def test_folder_gives_the_same_image_for_another_user_and_in_another_place(
    tmp_path: Path, user: support.OrdinaryUser
) -> None:
    theirs = user.home / "source"
    theirs.mkdir()
    folders.plain(theirs)
    ours = tmp_path / "copy"
    subprocess.run(["cp", "-a", theirs, ours], check=True)
    image = tmp_path / "ours.ext4"
    support.run_ok("bg-mkext4", "-o", image, ours)
    subprocess.run(["chown", "-hR", support.USER, theirs], check=True)
    done = user.run("bg-mkext4", "-o", user.home / "theirs.ext4", theirs)
    assert done.returncode == 0, done.stderr.decode()
    subprocess.run(["cmp", image, user.home / "theirs.ext4"], check=True)


def test_own_files_of_an_ordinary_user_belong_to_root_in_the_tree(tmp_path: Path, user: support.OrdinaryUser) -> None:
    source = user.home / "owners"
    source.mkdir()
    (source / "mine").touch()
    (source / "not-mine").symlink_to("/")
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", f"{support.USER}:{support.USER}", source], check=True)
        os.lchown(source / "not-mine", 33, 34)
    done = user.run("bg-flatten", "--path", "-o", user.home / "owners.jsonl", source)
    assert done.returncode == 0, done.stderr.decode()
    owners = {e.path: (e.uid, e.gid) for e in tree.read(Path(done.stdout.decode().strip())).entries}
    assert owners["/mine"] == owners["/"] == (0, 0)
    if os.geteuid() == 0:
        assert owners["/not-mine"] == (33, 34)


def test_unreadable_files_are_named_and_may_be_excluded(tmp_path: Path, user: support.OrdinaryUser) -> None:
    source = user.home / "unreadable"
    source.mkdir()
    for name in ("one", "two", "three"):
        (source / name).write_text("x")
        if os.geteuid() == 0:
            os.chown(source / name, 0, 0)
        (source / name).chmod(0 if name != "three" else 0o644)
    done = user.run("bg-flatten", "-C", user.home, source)
    assert done.returncode == 77
    assert b"unreadable/one'" in done.stderr
    assert b"unreadable/two'" in done.stderr
    assert b"three" not in done.stderr
    assert b": permission denied" in done.stderr
    assert not (user.home / "tree.jsonl").exists()
    excluded = ["--exclude=/one", "--exclude=two"]
    assert user.run("bg-flatten", "-o", user.home / "some.jsonl", *excluded, source).returncode == 0


@pytest.mark.parametrize(
    ("change", "status"), [("longer", 65), ("newer", 65), ("gone", 66), ("symlink", 65), ("parent is a symlink", 65)]
)
def test_file_that_changed_after_the_tree_was_made_is_an_error_that_names_it(
    tmp_path: Path, change: str, status: int
) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    path = source / "sub/file"
    path.write_text("content")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/file").write_text("content")
    os.utime(tmp_path / "elsewhere/file", ns=(0, path.stat().st_mtime_ns))
    made = support.run_ok("bg-flatten", "-C", tmp_path, source)
    match change:
        case "longer":
            path.write_text("content and more")
        case "newer":
            os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
        case "gone":
            path.unlink()
        case "symlink":
            path.unlink()
            path.symlink_to(tmp_path / "elsewhere/file")
        case "parent is a symlink":
            (source / "sub").rename(source / "moved")
            (source / "sub").symlink_to(tmp_path / "elsewhere")
    done = support.run("bg-mkext4", "-C", tmp_path, stdin=made)
    assert done.returncode == status
    assert b"sub/file'" in done.stderr
    assert (b"hint: make the tree again" in done.stderr) == (status == 65)
    assert not (tmp_path / "rootfs.ext4").exists()
    assert support.leftovers(tmp_path) == []


def test_times_edited_in_a_tree_do_not_count_as_a_change(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("content")
    found = tree_of(source, tmp_path)
    for entry in found.entries:
        entry.mtime = (0, 0)
    tree.write(tmp_path / "edited.jsonl", found)
    support.run_ok("bg-mkext4", "--size=8M", "-C", tmp_path, tmp_path / "edited.jsonl")


def test_names_like_whiteouts_are_names_in_a_folder_and_whiteouts_in_a_layer(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base/file").write_text("x")
    (tmp_path / "base/.wh.other").touch()
    (tmp_path / "top").mkdir()
    (tmp_path / "top/.wh.file").touch()
    assert [e.path for e in tree_of(tmp_path / "base", tmp_path).entries] == ["/", "/.wh.other", "/file"]
    merged = tree_of(tmp_path / "base", tmp_path, f"--layer={tmp_path}/top")
    assert [e.path for e in merged.entries] == ["/", "/.wh.other"]


def test_socket_is_left_out_with_a_warning(tmp_path: Path) -> None:
    source = tmp_path / "s"
    source.mkdir()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(source / "sock"))
    done = support.run("bg-flatten", "-C", tmp_path, source)
    assert done.returncode == 0
    assert b"left out the socket" in done.stderr
    assert [e.path for e in tree.read(tmp_path / "tree.jsonl").entries] == ["/"]


@pytest.mark.root
def test_other_filesystem_below_is_left_out_with_a_warning(tmp_path: Path) -> None:
    source = tmp_path / "s"
    source.mkdir()
    with support.tmpfs(source / "mounted") as mounted:
        (mounted / "file").touch()
        done = support.run("bg-flatten", "-C", tmp_path, source)
    assert done.returncode == 0
    assert b"another filesystem" in done.stderr
    assert [e.path for e in tree.read(tmp_path / "tree.jsonl").entries] == ["/", "/mounted"]


def test_folder_that_is_not_there_or_cannot_be_entered_is_an_error(tmp_path: Path, user: support.OrdinaryUser) -> None:
    assert support.run("bg-flatten", "-C", tmp_path, tmp_path / "nothing").returncode == 66
    closed = user.home / "closed"
    (closed / "sub").mkdir(parents=True)
    (closed / "sub").chmod(0)
    done = user.run("bg-flatten", "-C", user.home, closed)
    assert done.returncode == 77
    assert b"closed/sub'" in done.stderr


def test_deep_folder_is_walked_and_a_deeper_one_refused(tmp_path: Path) -> None:
    place = tmp_path / "deep"
    place.mkdir()
    below = os.open(place, os.O_RDONLY)
    for _ in range(600):
        os.mkdir("d", dir_fd=below)
        deeper = os.open("d", os.O_RDONLY, dir_fd=below)
        os.close(below)
        below = deeper
    os.close(below)
    done = support.run("bg-flatten", "-C", tmp_path, place)
    assert done.returncode == 65
    assert b"folders deep" in done.stderr
    inside = place.joinpath(*["d"] * 200)
    assert len(tree_of(inside, tmp_path).entries) == 401


def test_file_that_became_unreadable_after_the_tree_was_made_is_denied(user: support.OrdinaryUser) -> None:
    source = user.home / "shut-later"
    source.mkdir()
    (source / "file").write_text("content")
    assert user.run("bg-flatten", "-o", user.home / "shut-later.jsonl", source).returncode == 0
    if os.geteuid() == 0:
        os.chown(source / "file", 0, 0)
    (source / "file").chmod(0)
    done = user.run("bg-mkext4", "-o", user.home / "shut-later.ext4", user.home / "shut-later.jsonl")
    assert done.returncode == 77
    assert b"shut-later/file': permission denied" in done.stderr


def test_source_whose_name_json_cannot_hold_makes_an_image_and_no_tree(tmp_path: Path) -> None:
    source = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    source.mkdir()
    (source / "file").write_text("content")
    done = support.run("bg-flatten", "-C", tmp_path, source)
    assert done.returncode == 65
    assert b"is not UTF-8" in done.stderr
    support.run_ok("bg-mkext4", "--size=8M", "-C", tmp_path, source)
    assert support.leftovers(tmp_path) == []
