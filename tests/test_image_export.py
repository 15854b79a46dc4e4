"""Images of the store written for other programs, which judge them: GNU tar, qemu-img, our own pull."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from tests import stored, stored_images, support
from tests.stored_images import disk, image, image_ok, publish, said


@pytest.fixture
def rootfs(banger_home: Path, tmp_path: Path) -> Path:
    """The disk of a published image."""
    return publish(disk(tmp_path), "web", image={"architecture": "amd64"}) / "rootfs.ext4"


def test_tar_has_the_files(rootfs: Path, tmp_path: Path) -> None:
    target = tmp_path / "web.tar"
    assert image_ok("export", "web", str(target)) == f"{target}\n"
    listed = subprocess.run(["tar", "-tvf", target], check=True, capture_output=True, text=True).stdout
    assert [line.split()[-1] for line in listed.splitlines()] == ["./", "greeting"]
    done = subprocess.run(["tar", "-xOf", target, "greeting"], check=True, capture_output=True)
    assert done.stdout == b"hello\n"
    assert image("export", "web", "-").stdout == target.read_bytes()


def test_disks_are_the_same_in_every_format(rootfs: Path, tmp_path: Path) -> None:
    support.need("qemu-img")
    names = ("a.raw", "a.img", "a.ext4", "other", "a.qcow2")
    for name in names:
        words = ["--format=raw"] if name == "other" else []
        image_ok("export", *words, "web", str(tmp_path / name))
    for name in names[:-1]:
        assert (tmp_path / name).read_bytes() == rootfs.read_bytes()
    back = tmp_path / "back.raw"
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", tmp_path / "a.qcow2", back], check=True)
    assert back.read_bytes() == rootfs.read_bytes()


def test_bundle_is_an_image_again_by_the_entry_that_it_prints(rootfs: Path, tmp_path: Path, banger_home: Path) -> None:
    place = tmp_path / "catalog"
    place.mkdir()
    made = json.loads(image_ok("export", "--json", "web", str(place)))
    path = Path(made["path"])
    assert made["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (made["size"], made["format"]) == (path.stat().st_size, "bundle")
    assert path.name == f"web-amd64-{made['sha256'][:12]}.tar.zst"
    (place / "catalog.json").write_text(json.dumps({"schema": "banger-catalog/1", "images": [made["entry"]]}))
    (banger_home / "config").mkdir()
    (banger_home / "config" / "config.toml").write_text(f"[[catalogs]]\nfile = '{place}/catalog.json'\n")
    image_ok("delete", "web")
    (tmp_path / "bzImage").write_bytes(stored.bzimage())
    image_ok("pull", "-q", f"--kernel={tmp_path / 'bzImage'}", "web")
    assert said(rootfs) == "hello\n"
    assert image("verify", "web").returncode == 0


def test_kernel_and_url_go_into_the_entry(rootfs: Path, tmp_path: Path) -> None:
    words = ["--url=https://example.org/x/", "--kernel-ref=apt:linux-image-cloud-amd64"]
    entry = json.loads(image_ok("export", "--json", *words, "web", str(tmp_path / "b.tar.zst")))["entry"]
    assert entry["url"] == "https://example.org/x/b.tar.zst"
    assert entry["kernel_ref"] == "apt:linux-image-cloud-amd64"


def test_kernel_that_only_this_machine_has_is_not_named(banger_home: Path, tmp_path: Path) -> None:
    (tmp_path / "bzImage").write_bytes(stored.bzimage())
    image_ok("register", f"--kernel={tmp_path / 'bzImage'}", "--name=web", str(disk(tmp_path)))
    target = tmp_path / "b.tar.zst"
    assert "kernel_ref" not in json.loads(image_ok("export", "--json", "web", str(target)))["entry"]
    record = banger_home / "state" / "images" / "web" / "kernel" / "kernel.json"
    about = {**json.loads(record.read_text()), "source": "apt:linux-image-cloud-amd64"}
    record.unlink()
    record.write_text(json.dumps(about))
    entry = json.loads(image_ok("export", "--json", "--force", "web", str(target)))["entry"]
    assert entry["kernel_ref"] == "apt:linux-image-cloud-amd64"


def test_file_that_is_there_is_kept_unless_it_may_be_replaced(rootfs: Path, tmp_path: Path) -> None:
    target = tmp_path / "web.tar"
    target.write_text("mine")
    assert image("export", "web", str(target)).returncode == 73
    assert target.read_text() == "mine"
    image_ok("export", "--force", "web", str(target))
    assert target.stat().st_size > 1024
    before = os.stat(target)
    image_ok("export", "--force", "web", str(target))  # the same bytes again
    assert os.stat(target).st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize(
    "words",
    [
        ["web", "web.zip"],
        ["--format=zip", "web", "x"],
        ["--format=raw", "web", "-"],
        ["--json", "web", "-"],
        ["--url=https://x.org", "web", "web.tar"],
        ["--kernel-ref=k", "web", "web.raw"],
        ["No", "web.tar"],
    ],
)
def test_command_lines_that_make_no_sense_are_refused(rootfs: Path, tmp_path: Path, words: list[str]) -> None:
    before = sorted(tmp_path.iterdir())
    done = support.run("banger", "image", "export", *words, cwd=tmp_path)
    assert done.returncode == 64, done.stderr.decode()
    assert sorted(tmp_path.iterdir()) == before


def test_image_that_is_missing_or_broken_makes_no_file(rootfs: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    assert image("export", "other", str(tmp_path / "x.tar")).returncode == 66
    subprocess.run(["debugfs", "-w", "-R", "set_super_value state 0", rootfs], check=True, capture_output=True)
    assert image("export", "web", str(tmp_path / "x.tar")).returncode == 65
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.root
def test_full_disk_leaves_no_file(rootfs: Path, small_disk: Path) -> None:
    with open(small_disk / "filler", "wb") as file:
        file.write(bytes(small_disk.stat().st_blksize))
        free = os.statvfs(small_disk)
        file.write(b"x" * (free.f_bavail * free.f_frsize - 8192))
    done = image("export", "web", str(small_disk / "web.raw"))
    assert done.returncode == 74
    assert [path.name for path in small_disk.iterdir()] == ["filler"]
    assert stored_images.listed(rootfs.parents[3]) == ["web"]
