"""Images whose disks stay where they are: registered, promoted, machines made of them; judged by e2fsprogs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from banger_tools import errors
from banger_tools.store import images, promotion
from tests import machines, stored, stored_images, support
from tests.stored_images import disk, image, image_ok, publish, record, said


def sha256(path: Path) -> str:
    return subprocess.run(["sha256sum", path], check=True, capture_output=True, text=True).stdout.split()[0]


def register(source: Path, *words: str) -> Path:
    name = image_ok("register", *words, str(source)).strip()
    return images.root() / name


def test_registered_disk_stays_where_it_is_and_machines_are_made_of_it(banger_home: Path, tmp_path: Path) -> None:
    source = disk(tmp_path, "My Disk")
    folder = register(source)
    assert folder == banger_home / "state" / "images" / "my-disk"
    assert (folder / "rootfs.ext4").readlink() == source
    made = stored_images.machine("vm", "my-disk") / "root.ext4"
    assert not made.is_symlink() and sha256(made) == sha256(source)
    source.write_bytes(disk(tmp_path, "again", "changed\n").read_bytes())
    assert said(stored_images.machine("later", "my-disk") / "root.ext4") == "changed\n"
    assert said(made) == "hello\n"


def test_manifest_says_what_the_disk_is(banger_home: Path, tmp_path: Path) -> None:
    source = disk(tmp_path)
    stage = tmp_path / "stage.json"
    stage.write_text(machines.manifest(source, image={"architecture": "arm64", "config": {"Cmd": ["/bin/x"]}}))
    found = json.loads(image_ok("register", "--json", "--name=web", f"--manifest={stage}", str(source)))
    uuid = subprocess.run(["blkid", "-o", "value", "-s", "UUID", source], check=True, capture_output=True, text=True)
    assert found["rootfs"]["uuid"] == uuid.stdout.strip()
    assert found["image"] == {"architecture": "arm64", "config": {"Cmd": ["/bin/x"]}}
    free = subprocess.run(["dumpe2fs", "-h", source], check=True, capture_output=True, text=True).stdout
    assert f"Free blocks:              {found['rootfs']['free_bytes'] // 4096}\n" in free
    assert f"Free inodes:              {found['rootfs']['free_inodes']}\n" in free


def test_kernel_and_work_seed_go_along(banger_home: Path, tmp_path: Path) -> None:
    (tmp_path / "bzImage").write_bytes(stored.bzimage())
    work = disk(tmp_path, "seed", "work\n")
    folder = register(disk(tmp_path), "--name=web", f"--kernel={tmp_path / 'bzImage'}", f"--work-seed={work}")
    assert (folder / "kernel" / "vmlinuz").read_bytes() == stored.bzimage()
    assert (folder / "work-seed.ext4").readlink() == work
    made = stored_images.machine("vm", "web")
    assert said(made / "work.ext4") == "work\n"


@pytest.mark.parametrize(
    ("damage", "status", "text"),
    [
        ("missing", 66, "no such file"),
        ("text", 65, "is not an ext4 image"),
        ("dirty", 65, "is not marked clean"),
        ("seed", 65, "is not an ext4 image"),
    ],
)
def test_what_is_no_clean_disk_is_refused(
    banger_home: Path, tmp_path: Path, damage: str, status: int, text: str
) -> None:
    source, words = disk(tmp_path), []
    if damage == "missing":
        source.unlink()
    if damage == "text":
        source.write_text("x" * 5000)
    if damage == "dirty":
        subprocess.run(["debugfs", "-w", "-R", "set_super_value state 0", source], check=True, capture_output=True)
    if damage == "seed":
        (tmp_path / "seed").write_text("x" * 5000)
        words = [f"--work-seed={tmp_path / 'seed'}"]
    done = image("register", "--name=web", *words, str(source))
    assert done.returncode == status
    assert text in done.stderr.decode()
    assert stored_images.listed(banger_home) == []


def test_taken_name_is_refused_and_replaced_only_when_asked(banger_home: Path, tmp_path: Path) -> None:
    folder = publish(disk(tmp_path), "web")
    other = disk(tmp_path, "other")
    done = image("register", "--name=web", str(other))
    assert done.returncode == 73
    assert not (folder / "rootfs.ext4").is_symlink()
    register(other, "--name=web", "--replace")
    assert (folder / "rootfs.ext4").readlink() == other
    assert stored_images.listed(banger_home) == ["web"]


@pytest.mark.parametrize(
    "words", [["--kernel=x", "--kernel-ref=y"], ["--initrd=x"], ["--modules=x"], ["--name=No Name"], []]
)
def test_command_lines_that_make_no_sense_are_refused(banger_home: Path, tmp_path: Path, words: list[str]) -> None:
    source = [str(disk(tmp_path))] if words else []
    assert image("register", *words, *source).returncode == 64
    assert stored_images.listed(banger_home) == []


def test_image_whose_file_went_is_broken_and_not_missing(banger_home: Path, tmp_path: Path) -> None:
    source = disk(tmp_path)
    register(source, "--name=web")
    source.unlink()
    done = image("show", "web")
    assert done.returncode == 65
    assert f"the image 'web' is broken: '{source}' is missing" in done.stderr.decode()
    assert image("delete", "web").returncode == 0


def test_deleted_image_leaves_the_files_of_others(banger_home: Path, tmp_path: Path) -> None:
    source = disk(tmp_path)
    before = sha256(source)
    register(source, "--name=web")
    assert image("delete", "web").returncode == 0
    assert stored_images.listed(banger_home) == []
    assert sha256(source) == before


@pytest.mark.root
def test_machine_is_no_overlay_over_a_disk_that_others_write_to(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    support.need("qemu-img")
    monkeypatch.setenv("BANGER_HOME", str(small_disk))
    (tmp_path / "content").mkdir()
    (tmp_path / "content" / "noise").write_bytes(b"x" * (5 << 20))
    source = machines.mke2fs(small_disk / "disk.ext4", tmp_path / "content", "32M")
    publish(source, "own", "--move")
    assert (stored_images.machine("vm", "own") / "root.qcow2").exists()
    support.run_ok("banger", "vm", "delete", "--force", "vm")
    register(images.root() / "own" / "rootfs.ext4", "--name=far")
    with pytest.raises(errors.IOFailure, match="no room for a copy"):
        stored_images.machine("vm", "far")


# Promoting


def test_promoted_image_has_disks_of_its_own(banger_home: Path, tmp_path: Path) -> None:
    source, work = disk(tmp_path), disk(tmp_path, "seed", "work\n")
    folder = register(source, "--name=web", f"--work-seed={work}")
    before = sha256(source)
    assert image_ok("promote", "web") == "web\n"
    for path in (source, work):
        path.write_bytes(b"somebody else's by now")
    assert not (folder / "rootfs.ext4").is_symlink()
    assert sha256(folder / "rootfs.ext4") == before
    stored_images.fsck(folder / "work-seed.ext4")
    assert said(folder / "work-seed.ext4") == "work\n"
    assert sorted(record(folder)["published"]["digests"]) == ["rootfs.ext4", "work-seed.ext4"]
    assert stored_images.listed(banger_home) == ["web"]
    assert image("verify", "web").returncode == 0


def test_managed_image_is_not_promoted(banger_home: Path, tmp_path: Path) -> None:
    publish(disk(tmp_path), "web")
    done = image("promote", "web")
    assert (done.returncode, done.stdout) == (73, b"")
    assert "is managed already" in done.stderr.decode()
    assert image("promote", "nobody").returncode == 66


def test_disk_that_is_written_to_meanwhile_is_not_taken(
    banger_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = disk(tmp_path)
    folder = register(source, "--name=web")
    copy = images.files.copy

    def copy_and_write(one: Path, target: Path) -> str:
        how = copy(one, target)
        with open(source, "r+b") as file:
            file.truncate(9 << 20)
        return how

    monkeypatch.setattr(images.files, "copy", copy_and_write)
    with pytest.raises(errors.BadInput, match="was written to while it was copied"):
        promotion.promote("web")
    assert (folder / "rootfs.ext4").readlink() == source
    assert stored_images.listed(banger_home) == ["web"]


def test_disk_that_is_in_use_is_not_promoted(banger_home: Path, tmp_path: Path) -> None:
    source = disk(tmp_path)
    folder = register(source, "--name=web")
    subprocess.run(["debugfs", "-w", "-R", "set_super_value state 0", source], check=True, capture_output=True)
    done = image("promote", "web")
    assert done.returncode == 65
    assert "is not marked clean" in done.stderr.decode()
    assert (folder / "rootfs.ext4").is_symlink()


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_promotion_killed_at_any_rename_is_an_image_that_can_be_promoted(
    banger_home: Path, tmp_path: Path, renames: int
) -> None:
    source, work = disk(tmp_path), disk(tmp_path, "seed", "work\n")
    folder = register(source, "--name=web", f"--work-seed={work}")
    script = (
        "import os, signal, sys\nfrom banger_tools.store import promotion\nreal, left = os.rename, [int(sys.argv[1])]\n"
    )
    script += (
        "def rename(*names):\n if not left[0]: os.kill(os.getpid(), signal.SIGKILL)\n left[0] -= 1; real(*names)\n"
    )
    script += "os.rename = rename\npromotion.promote('web')\nos.kill(os.getpid(), signal.SIGKILL)"
    done = subprocess.run([sys.executable, "-c", script, str(renames)], cwd=support.ROOT)
    assert done.returncode == -signal.SIGKILL
    for path, text in (("rootfs.ext4", "hello\n"), ("work-seed.ext4", "work\n")):
        assert said(folder / path) == text
    assert image("verify", "web").returncode == 0
    assert image("promote", "web").returncode == (73 if renames == 2 else 0)
    assert sorted(record(folder)["published"]["digests"]) == ["rootfs.ext4", "work-seed.ext4"]
    assert not (folder / "rootfs.ext4").is_symlink() and not (folder / "work-seed.ext4").is_symlink()
    assert image("verify", "web").returncode == 0


@pytest.mark.parametrize("meanwhile", ["deleted", "replaced"])
def test_image_that_went_meanwhile_is_not_promoted(
    banger_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    register(disk(tmp_path), "--name=web")
    other = disk(tmp_path, "other")
    copy = images.files.copy

    def copy_while(one: Path, target: Path) -> str:
        how = copy(one, target)
        support.run_ok("banger", "image", "delete", "web")
        if meanwhile == "replaced":
            register(other, "--name=web")
        return how

    monkeypatch.setattr(images.files, "copy", copy_while)
    with pytest.raises(errors.BangerError):
        promotion.promote("web")
    left = stored_images.listed(banger_home)
    assert left == (["web"] if meanwhile == "replaced" else [])
    if left:
        assert (images.root() / "web" / "rootfs.ext4").readlink() == other


@pytest.mark.root
def test_full_disk_leaves_the_image_as_it_was(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = tmp_path / "content"
    content.mkdir()
    (content / "noise").write_bytes(b"x" * (9 << 20))
    source = machines.mke2fs(tmp_path / "disk.ext4", content, "32M")
    monkeypatch.setenv("BANGER_HOME", str(small_disk))
    folder = register(source, "--name=web")
    done = image("promote", "web")
    assert done.returncode == 74, done.stderr.decode()
    assert (folder / "rootfs.ext4").readlink() == source
    assert stored_images.listed(small_disk) == ["web"]
