"""The folder that bg-flatten writes: exact as root, as good as can be as an ordinary user, and never a step outside."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from banger_tools import contents, errors, tree, unpack
from tests import folders, support, trees
from tests.stacks import comparable, hard, holding, layer, manifest, soft, umoci_unpack, write_layers


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


def hostile(path: Path, outside: Path) -> Path:
    """A tar whose entries try to leave the folder that they are unpacked in, and to reach a file outside."""
    with trees.new_tar(path) as out:
        trees.add(out, "up", tarfile.SYMTYPE, linkname="../../../../../../../..")
        trees.add(out, "up/escaped-by-climbing", data=b"x")
        trees.add(out, "root", tarfile.SYMTYPE, linkname="/")
        trees.add(out, "root/escaped-by-root", data=b"x")
        trees.add(out, "proc", tarfile.SYMTYPE, linkname="/proc/self/root")
        trees.add(out, "file", tarfile.SYMTYPE, linkname=str(outside))
        trees.add(out, "hard", tarfile.LNKTYPE, linkname="file")
    return path


def test_symlinks_of_an_image_lead_nowhere(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_text("sings")
    before = canary.stat()
    support.run_ok("bg-flatten", "-C", tmp_path, f"--dir={tmp_path}/out", hostile(tmp_path / "hostile.tar", canary))
    assert (tmp_path / "out/escaped-by-climbing").read_bytes() == b"x"
    assert (tmp_path / "out/escaped-by-root").read_bytes() == b"x"
    assert not Path("/escaped-by-root").exists()
    after = canary.stat()
    assert (after.st_mtime_ns, after.st_nlink, after.st_ino) == (before.st_mtime_ns, before.st_nlink, before.st_ino)


# After which call the attacker acts, on which name, and what it puts there.
ATTACKS = [
    ("mkdir", b"dir", "symlink"),
    ("symlink", b"link", "hardlink"),
    ("mknod", b"fifo", "hardlink"),
    ("mknod", b"fifo", "symlink"),
    ("open", b"dir", "symlink"),
    ("open", b"file", "hardlink"),
    ("open", b"file", "symlink"),
    ("link", b"hard", "symlink"),
]


@pytest.mark.root
@pytest.mark.parametrize(("call", "name", "kind"), ATTACKS)
def test_attacker_in_the_folder_gets_nothing_outside_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, name: bytes, kind: str
) -> None:
    """Right after a call that made something, somebody puts a link to a thing outside in its place."""
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.mkdir()
    folder.mkdir()
    (outside / "victim").write_text("mine")
    (outside / "victim").chmod(0o600)
    for path in (outside / "victim", outside):
        os.utime(path, ns=(0, 0))
    original, attacks = getattr(os, call), []

    def attacked(*arguments: Any, **options: Any) -> Any:
        result = original(*arguments, **options)
        if name in arguments and not attacks:
            attacks.append(name)
            place = folder / os.fsdecode(name)
            os.rename(place, folder / "moved-away")
            if kind == "symlink":
                os.symlink_before(outside if name == b"dir" else outside / "victim", place)  # type: ignore[attr-defined]
            else:
                os.link_before(outside / "victim", place)  # type: ignore[attr-defined]
        return result

    monkeypatch.setattr(os, "symlink_before", os.symlink, raising=False)
    monkeypatch.setattr(os, "link_before", os.link, raising=False)
    monkeypatch.setattr(os, call, attacked)
    entries = [tree.Entry("/", "dir"), tree.Entry("/dir", "dir", "0777", uid=1, mtime=(5, 0))]
    entries.append(tree.Entry("/dir/victim", "file", "0777", uid=1, mtime=(5, 0)))
    for one, target in (("fifo", None), ("link", "x"), ("file", None)):
        kind_of_entry = {"link": "symlink"}.get(one, one)
        entries.append(tree.new_entry(b"/" + one.encode(), kind_of_entry))
        entries[-1].mode, entries[-1].uid, entries[-1].mtime, entries[-1].target = "0777", 1, (5, 0), target
    entries.append(tree.Entry("/hard", "hardlink", target="/file"))
    with contents.opened([], entries) as nothing, contextlib.suppress(OSError, errors.BadInput):
        unpack.unpack(tree.Tree([], entries), nothing, folder)
    assert attacks, "the call was never made"
    info = (outside / "victim").stat()
    assert (info.st_mode & 0o777, info.st_uid, info.st_mtime_ns, info.st_size) == (0o600, 0, 0, 4)
    assert [path.name for path in outside.iterdir()] == ["victim"]
    assert outside.stat().st_mtime_ns == 0


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


@pytest.mark.root
def test_mount_point_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with support.tmpfs(tmp_path / "mounted") as mounted:
        done = support.run("bg-flatten", "-C", tmp_path, f"--dir={mounted}", tmp_path / "in")
        assert os.listdir(mounted) == []
    assert done.returncode == 73
    assert b"is a mount point" in done.stderr
    assert sorted(os.listdir(tmp_path)) == ["in", "mounted"]


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


def test_deep_tree_becomes_a_folder_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "deep.tar"
    deep = "/".join(["d"] * 990)
    with trees.new_tar(path) as out:
        trees.add(out, f"{deep}/file", data=b"x")
        trees.add(out, f"{deep}/other", tarfile.LNKTYPE, linkname=f"{deep}/file")
    support.run_ok("bg-flatten", "-C", tmp_path, f"--dir={tmp_path}/out", path)
    depth, place = 0, os.open(tmp_path / "out", os.O_RDONLY)
    while os.listdir(place) == ["d"]:
        below = os.open("d", os.O_RDONLY, dir_fd=place)
        os.close(place)
        depth, place = depth + 1, below
    assert (depth, sorted(os.listdir(place)), os.stat("file", dir_fd=place).st_nlink) == (990, ["file", "other"], 2)
    os.close(place)
    subprocess.run(["rm", "-rf", tmp_path / "out"], check=True)
    found = tree.read(tmp_path / "tree.jsonl")
    found.entries.append(tree.Entry("/zzz", "file", size=5, data=(0, 1 << 30)))
    (tmp_path / "tree.jsonl").unlink()
    tree.write(tmp_path / "broken.jsonl", found)
    done = support.run("bg-flatten", "-C", tmp_path, f"--dir={tmp_path}/out", tmp_path / "broken.jsonl")
    assert done.returncode == 65
    assert sorted(one.name for one in tmp_path.iterdir()) == ["broken.jsonl", "deep.tar"]


@pytest.mark.parametrize("moment", [0.0, 0.02, 0.1])
def test_interrupted_run_leaves_nothing(tmp_path: Path, moment: float) -> None:
    source = tmp_path / "in"
    for number in range(40):
        (source / str(number)).mkdir(parents=True)
        for other in range(60):
            (source / str(number) / str(other)).write_text("x")
    made = tmp_path / "made"
    made.mkdir()
    process = subprocess.Popen(
        support.argv("bg-flatten", f"--dir={made}/out", source),
        cwd=made,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        while process.poll() is None and not list(made.glob(".out.*")):
            time.sleep(0.001)
        time.sleep(moment)
        process.terminate()
        said = process.stderr.read() if process.stderr else b""
    assert b"Traceback" not in said
    if process.returncode == 143:
        assert list(made.iterdir()) == []
    else:  # it was done before the signal came
        assert process.returncode == 0
        assert len(list((made / "out").rglob("*"))) == 40 * 61


@pytest.mark.root
def test_folder_of_layers_is_what_umoci_unpacks(tmp_path: Path) -> None:
    support.need("umoci")
    lower = layer(
        "a/", "a/old", holding("s", b"x", mode=0o6755, uid=1000), hard("a/t", "s"), "usr/", soft("lib", "/usr"), "gone"
    )
    upper = layer("a/new", "a/.wh..wh..opq", ("lib/d/", {"mode": 0o1777, "gid": 7}), ".wh.gone", hard("h", "s"))
    reference = trees.of_folder(umoci_unpack([lower, upper], tmp_path))
    text = manifest(write_layers([lower, upper], tmp_path))
    support.run_ok("bg-flatten", "-C", tmp_path, f"--dir={tmp_path}/out", stdin=text)
    assert trees.differences(comparable(trees.of_folder(tmp_path / "out")), comparable(reference)) == []


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
