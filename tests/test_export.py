"""Disks and tars that bg-publish writes, judged by GNU tar, bsdtar, qemu-img and the kernel's mount."""

from __future__ import annotations

import filecmp
import os
import pty
import subprocess
from pathlib import Path

import pytest

from banger_tools import errors, process
from banger_tools.store import export as store
from tests import folders, machines, support, trees

FORMS = ("--bundle={}/out.tar.zst", "--tar={}/out", "--qcow2={}/out", "--raw={}/out")


def export(*words: str | os.PathLike[str]) -> subprocess.CompletedProcess[bytes]:
    return support.run("bg-publish", *words)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ext4 image with one of everything, whose owner is not always root."""
    support.need_root()
    folder = tmp_path_factory.mktemp("everything")
    folders.make(folder / "root")
    support.run_ok("bg-mkext4", "-C", folder, "-o", folder / "disk.ext4", folder / "root")
    return folder / "disk.ext4"


@pytest.fixture
def disk(tmp_path: Path, banger_home: Path) -> Path:
    """A small ext4 image of another maker."""
    (tmp_path / "content").mkdir()
    (tmp_path / "content" / "file").write_bytes(os.urandom(100_000))
    return machines.mke2fs(tmp_path / "disk.ext4", tmp_path / "content", "16M", "-E", "root_owner=0:0")


# Tars


@pytest.mark.root
def test_gnu_tar_extracts_what_the_kernel_sees_in_the_image(everything: Path, tmp_path: Path) -> None:
    archive, out = tmp_path / "out.tar", tmp_path / "out"
    out.mkdir()
    assert export(f"--tar={archive}", everything).returncode == 0
    flags = ["--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "--same-owner", "-p"]
    done = subprocess.run(["tar", "-C", out, *flags, "-xf", archive], capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if "time stamp" not in line and "hdrcharset" not in line]
    assert (done.returncode, said) == (0, [])
    with trees.mounted(everything, tmp_path / "mount") as mounted:
        wanted = trees.of_folder(mounted, ignore=frozenset([b"/lost+found"]))
    assert len(wanted) > 30
    assert trees.differences(trees.of_folder(out), wanted) == []


@pytest.mark.root
def test_bsdtar_extracts_every_name_with_its_owner(everything: Path, tmp_path: Path) -> None:
    support.need("bsdtar")
    (tmp_path / "out.tar").write_bytes(support.run_ok("bg-publish", "--tar=-", everything))
    flags = ["--acls", "--xattrs", "--numeric-owner", "--same-owner", "-p"]
    (tmp_path / "out").mkdir()
    subprocess.run(["bsdtar", "-C", tmp_path / "out", *flags, "-xf", tmp_path / "out.tar"], check=True)
    with trees.mounted(everything, tmp_path / "mount") as mounted:
        wanted = trees.of_folder(mounted, ignore=frozenset([b"/lost+found"]))
    ours = trees.of_folder(tmp_path / "out")
    fields = ("type", "mode", "uid", "gid", "size", "target", "rdev", "content", "names")
    assert {path: [getattr(seen, name) for name in fields] for path, seen in ours.items()} == {
        path: [getattr(seen, name) for name in fields] for path, seen in wanted.items()
    }


@pytest.mark.parametrize("kind", [["-O", "inline_data"], ["-O", "^extent,^64bit"], ["-b", "1024"]])
def test_image_of_any_ext4_leaves_as_a_tar(kind: list[str], tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    contents = {"tiny": b"tiny", "medium": b"m" * 140, "large": os.urandom(700_000)}
    for name, data in contents.items():
        (source / name).write_bytes(data)
    image = tmp_path / "theirs.ext4"
    argv = ["mke2fs", "-q", "-t", "ext4", *kind, "-d", source, image, "16M"]
    subprocess.run(argv, check=True, env=support.environment(), capture_output=True)
    assert export(f"--tar={tmp_path}/out.tar", image).returncode == 0
    for name, data in contents.items():
        assert subprocess.run(["tar", "-xOf", tmp_path / "out.tar", name], capture_output=True).stdout == data


def test_lost_and_found_goes_along_only_if_something_is_in_it(disk: Path, tmp_path: Path) -> None:
    def names() -> list[str]:
        done = export("--tar=-", disk)
        return subprocess.run(["tar", "-t"], input=done.stdout, capture_output=True, check=True).stdout.decode().split()

    assert names() == ["./", "file"]
    write = ["debugfs", "-w", "-R", f"write {tmp_path}/content/file lost+found/#12", disk]
    subprocess.run(write, check=True, env=support.environment(), capture_output=True)
    assert names() == ["./", "file", "lost+found/", "lost+found/#12"]


def test_tar_never_goes_to_a_terminal(disk: Path) -> None:
    main, side = pty.openpty()
    argv = support.argv("bg-publish", "--tar=-", disk)
    done = subprocess.run(argv, stdout=side, stderr=subprocess.PIPE, env=support.environment())
    os.close(main)
    os.close(side)
    assert (done.returncode, b"stdout is a terminal" in done.stderr) == (64, True)


# Disks


def test_raw_disk_is_the_same_with_its_holes(disk: Path, tmp_path: Path) -> None:
    raw = tmp_path / "out.raw"
    assert export("--path", f"--raw={raw}", disk).stdout.decode() == f"{raw}\n"
    assert filecmp.cmp(raw, disk, shallow=False)
    assert raw.stat().st_blocks <= disk.stat().st_blocks


def test_qcow2_disk_has_the_same_content_and_no_more(disk: Path, tmp_path: Path) -> None:
    support.need("qemu-img")
    out = tmp_path / "with:colon.qcow2"
    done = support.run("bg-publish", f"--qcow2={out.name}", disk, cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", out], check=True)
    subprocess.run(["qemu-img", "compare", "-q", "-f", "raw", "-F", "qcow2", disk, out], check=True)
    assert out.stat().st_size < 4 << 20


def test_missing_qemu_img_names_the_package(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "search_path", lambda: str(tmp_path))
    with pytest.raises(errors.Unavailable) as caught:
        store.qcow2(disk, tmp_path / "out")
    assert caught.value.hint == "apt-get install qemu-utils"
    assert not (tmp_path / "out").exists()


# What all have in common


def test_nothing_is_published_unless_a_name_is_given(disk: Path, tmp_path: Path, banger_home: Path) -> None:
    text = machines.manifest(disk, note="kept")
    printed = support.manifest_of(support.run_ok("bg-publish", f"--raw={tmp_path}/a", stdin=text))
    assert printed["note"] == "kept"
    assert "published" not in printed
    assert not (banger_home / "state").exists()
    words = ("--no-kernel", "--name=tiny", "--move", f"--raw={tmp_path}/b", f"--tar={tmp_path}/c")
    printed = support.manifest_of(support.run_ok("bg-publish", *words, stdin=text))
    assert Path(printed["published"]["rootfs"]).read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "c").exists()


@pytest.mark.parametrize("form", FORMS)
def test_file_that_exists_is_refused_before_stdin_is_read_and_replaced_by_force(
    form: str, disk: Path, tmp_path: Path
) -> None:
    word = form.format(tmp_path)
    target = Path(word.partition("=")[2])
    target.write_text("mine")
    argv = support.argv("bg-publish", word)
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=support.environment()) as running:
        assert running.wait(120) == 73  # and nobody has written a manifest
    assert target.read_text() == "mine"
    assert export("--force", word, disk).returncode == 0
    assert target.stat().st_size > 1000


@pytest.mark.root
@pytest.mark.parametrize("form", FORMS)
def test_full_disk_leaves_no_file(form: str, small_disk: Path, tmp_path: Path) -> None:
    (tmp_path / "content").mkdir()
    (tmp_path / "content" / "file").write_bytes(os.urandom(9 << 20))
    disk = machines.mke2fs(tmp_path / "disk.ext4", tmp_path / "content", "16M")
    done = export(form.format(small_disk), disk)
    assert done.returncode == 74, done.stderr.decode()
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--raw=a", "--move"], "--move goes with --name"),
        (["--tar=a", "--replace"], "--replace goes with --name"),
        (["--raw=a", "--kernel"], "--raw and --kernel exclude each other"),
        (["--url=https://example.org"], "--url goes with --bundle"),
        (["--bundle=a.tar.zst", "--url=ftp://example.org"], "is no URL of the web"),
        (["--bundle=a.tar"], "does not end in .tar.zst"),
        (["--tar=-", "--path"], "both want stdout"),
        (["--raw=a", "--qcow2=./a"], "is to be two outputs"),
        (["-f"], "-f goes with --bundle, --tar, --qcow2, --raw"),
    ],
)
def test_options_that_make_no_sense_are_refused(words: list[str], named: str, disk: Path, tmp_path: Path) -> None:
    done = support.run("bg-publish", *words, disk, cwd=tmp_path)
    assert (done.returncode, named in done.stderr.decode()) == (64, True), done.stderr.decode()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["content", "disk.ext4", "home"]
