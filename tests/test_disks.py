"""A machine's disks without a machine: copies, overlays where none fits, and their growth."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from msgspec import structs

from banger_tools import errors
from banger_tools.vmm import disks
from banger_tools.vmm import spec as specs
from tests import machines, support
from tests.boots import fsck


def free_bytes(disk: Path) -> int:
    text = subprocess.run(["dumpe2fs", "-h", str(disk)], capture_output=True, env=support.environment()).stdout.decode()
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return int(fields["Free blocks"]) * int(fields["Block size"])


def debugfs(disk: Path, request: str) -> bytes:
    argv = ["debugfs", "-R", request, str(disk)]
    return subprocess.run(argv, capture_output=True, env=support.environment(), check=True).stdout


def qemu_img(*words: str | Path) -> str:
    support.need("qemu-img")
    return subprocess.run(["qemu-img", *words], capture_output=True, text=True, check=True).stdout


def image(folder: Path, size: str = "16M", data: int = 0) -> Path:
    """Make an image of which so many bytes are data that no hole can stand for."""
    content = folder / "content"
    content.mkdir()
    (content / "file").write_bytes(b"kept" + os.urandom(data))
    return machines.mke2fs(folder / "source", content, size)


def image_on(disk: Path, folder: Path, size: str, data: int) -> Path:
    """Make an image in a folder, and put it on another disk without its holes."""
    subprocess.run(["cp", "--sparse=always", image(folder, size, data), disk / "source"], check=True)
    return disk / "source"


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_grown_disk_has_its_filesystem_grown_and_its_content(tmp_path: Path) -> None:
    disks.place(image(tmp_path), tmp_path / "disk", 1 << 30, "--disk")
    assert fsck(tmp_path / "disk") == 0
    assert free_bytes(tmp_path / "disk") > 900 << 20
    assert allocated(tmp_path / "disk") < 64 << 20
    assert debugfs(tmp_path / "disk", "cat /file") == b"kept"


def test_disk_does_not_shrink(tmp_path: Path) -> None:
    source = machines.mke2fs(tmp_path / "source", size="16M")
    with pytest.raises(errors.BadUsage, match="--disk"):
        disks.place_root(source, tmp_path, 8 << 20, overlay=True)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_empty_work_disk_is_a_home_that_sshd_accepts(tmp_path: Path) -> None:
    disks.empty(tmp_path / "work", 64 << 20)
    assert fsck(tmp_path / "work") == 0
    assert b"Type: directory    Mode:  0700" in debugfs(tmp_path / "work", "stat <2>")


def test_copy_takes_no_room_for_holes(small_disk: Path, tmp_path: Path) -> None:
    source = image_on(small_disk, tmp_path, "256M", 1 << 20)  # larger than its disk, which cannot reflink
    disks.place_root(source, make(small_disk / "vm"), None, overlay=True)
    made = small_disk / "vm" / specs.ROOT_DISK
    assert (made.stat().st_size, made.read_bytes() == source.read_bytes()) == (256 << 20, True)
    assert allocated(made) <= allocated(source)


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


# Overlays: the disk is too small for a second copy ----------------------------


@pytest.fixture
def overlaid(small_disk: Path, tmp_path: Path) -> Path:
    """A folder with an overlay over an image that fills more than half of its disk."""
    support.need("qemu-img")
    folder = make(small_disk / "vm")
    disks.place_root(image_on(small_disk, tmp_path, "64M", 5 << 20), folder, 256 << 20, overlay=True)
    return folder


def test_root_disk_that_fits_only_once_is_an_overlay(overlaid: Path) -> None:
    assert specs.disks(overlaid, specs.Guest())[0] == specs.Disk(specs.OVERLAY, "qcow2", False)
    assert allocated(overlaid / specs.OVERLAY) < 1 << 20
    assert disks.size(overlaid / specs.OVERLAY) == 256 << 20
    said = qemu_img("info", overlaid / specs.OVERLAY)
    assert re.search(r"virtual size: 256 MiB", said)
    assert "backing file: base.ext4" in said


def test_overlay_shows_the_image_and_keeps_it_when_its_own_name_is_gone(overlaid: Path, tmp_path: Path) -> None:
    source = overlaid.parent / "source"
    expected = source.read_bytes()
    source.unlink()
    disks.check_base(overlaid)
    qemu_img("convert", "-O", "raw", overlaid / specs.OVERLAY, tmp_path / "raw")
    assert (tmp_path / "raw").read_bytes() == expected.ljust(256 << 20, b"\0")


def test_overlay_is_made_longer_and_not_shorter_than_a_block(overlaid: Path) -> None:
    disks.extend(overlaid / specs.OVERLAY, (300 << 20) + 1)
    assert disks.size(overlaid / specs.OVERLAY) == (300 << 20) + 4096
    assert qemu_img("check", overlaid / specs.OVERLAY).startswith("No errors")


def test_overlay_whose_base_somebody_edited_is_refused(overlaid: Path) -> None:
    with open(overlaid.parent / "source", "r+b") as file:
        file.write(b"x")
    os.utime(overlaid.parent / "source", (1, 1))
    with pytest.raises(errors.BadInput, match=r"base\.ext4' was changed"):
        disks.check_base(overlaid)


def test_disk_that_does_not_fit_is_refused_before_anything_is_copied(small_disk: Path, tmp_path: Path) -> None:
    source, folder = image_on(small_disk, tmp_path, "64M", 5 << 20), make(small_disk / "vm")
    with pytest.raises(errors.IOFailure, match=r"no room .* has 5\.\dM of data, and 2\.\dM are free"):
        disks.place_root(source, folder, None, overlay=False)
    assert list(folder.iterdir()) == []


def test_image_on_another_disk_cannot_be_a_base(small_disk: Path, tmp_path: Path) -> None:
    source, folder = image(tmp_path, "64M", 9 << 20), make(small_disk / "vm")
    with pytest.raises(errors.IOFailure, match="no room"):
        disks.place_root(source, folder, None, overlay=True)


def test_read_only_overlay_is_told_so(overlaid: Path) -> None:
    guest = structs.replace(specs.Guest(), read_only=True)
    assert specs.disks(overlaid, guest)[0].read_only


def test_size_that_no_file_can_have_is_an_error_of_the_disk(tmp_path: Path) -> None:
    disk = machines.mke2fs(tmp_path / "disk", size="16M")
    for grow in (disks.grow, disks.extend):
        with pytest.raises(errors.BangerError, match=r"cannot make '.*' larger"):
            grow(disk, 1 << 62)
    assert (disk.stat().st_size, fsck(disk)) == (16 << 20, 0)
