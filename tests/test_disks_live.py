"""Disks under real machines: what survives, what grows, what is mended, and a host's disk that fills up."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger_tools.store import vms
from banger_tools.vmm import qemu
from tests import boots, guest_lab, images, machines, support
from tests.boots import delete, fsck, said

pytestmark = pytest.mark.boot

SECONDS = 300.0
NAME = "disks"


@pytest.fixture(scope="module")
def folder(bootable_home: Path) -> Iterator[Path]:
    """The folder of a machine with a work disk, which the tests stop, change and start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BANGER_HOME", str(bootable_home))
        vm = boots.boot(f"--name={NAME}", "--work-disk=128M", "--memory=256M")
        said(NAME, "mkdir -m 777 /root/.ssh; echo key > /root/.ssh/authorized_keys; echo data | tee /kept >/root/kept")
        yield Path(vm["path"])
        delete(NAME)


@pytest.fixture(autouse=True)
def _home(home: Path) -> None:
    """Every test runs its programs with the home that has an image."""


def stop() -> None:
    support.run_ok("banger", "vm", "stop", NAME)


def start() -> None:
    support.run_ok("banger", "vm", "start", NAME, f"--timeout={SECONDS:.0f}")


def room(name: str, place: str) -> int:
    """Return the size of a filesystem in a guest, in MiB."""
    return int(said(name, f"df -m {place}").splitlines()[-1].split()[1])


def test_changes_are_refused_while_the_machine_runs_and_change_nothing(folder: Path) -> None:
    record = (folder / "vm.json").read_bytes()
    for word in ("--cpus=2", "--memory=300M", "--disk=1G", "--work-disk=1G"):
        done = support.run("banger", "vm", "set", NAME, word)
        assert (done.returncode, f"banger vm stop {NAME}" in done.stderr.decode()) == (73, True)
    assert (folder / "vm.json").read_bytes() == record
    assert (folder / "work.ext4").stat().st_size == 128 << 20


def test_a_wrong_value_among_right_ones_changes_nothing(folder: Path) -> None:
    stop()
    record = (folder / "vm.json").read_bytes()
    for words in (["--disk=1G", "--work-disk=1M"], ["--work-disk=1G", "--disk=1M"], ["--cpus=2", "--nat=on"]):
        assert support.run("banger", "vm", "set", NAME, *words).returncode == 64
    assert (folder / "vm.json").read_bytes() == record
    assert [(folder / disk).stat().st_size >> 20 for disk in ("root.ext4", "work.ext4")] == [64, 128]


def test_changed_machine_has_what_was_asked_and_all_that_it_had(folder: Path) -> None:
    stop()
    support.run_ok("banger", "vm", "set", NAME, "--cpus=2", "--memory=300M", "--disk=256M", "--work-disk=512M")
    assert [fsck(folder / disk) for disk in ("root.ext4", "work.ext4")] == [0, 0]
    start()
    assert said(NAME, "grep -c ^processor /proc/cpuinfo") == "2\n"
    assert 230 < int(said(NAME, "grep MemTotal /proc/meminfo").split()[1]) >> 10 <= 300
    assert room(NAME, "/") > 200
    assert room(NAME, "/root") > 400
    assert said(NAME, "cat /kept /root/kept") == "data\ndata\n"
    stop()
    assert [fsck(folder / disk) for disk in ("root.ext4", "work.ext4")] == [0, 0]
    assert (folder / "root.ext4").stat().st_blocks * 512 < 64 << 20


def test_growth_that_a_kill_cuts_short_leaves_disks_that_a_journal_mends(folder: Path) -> None:
    stop()
    support.run_ok("banger", "vm", "set", NAME, "--disk=1G", "--work-disk=1G")
    start()
    os.kill(boots.show(NAME)["pid"], signal.SIGKILL)
    assert guest_lab.until(lambda: boots.show(NAME)["state"] != "running", SECONDS)
    for disk in ("root.ext4", "work.ext4"):
        assert fsck(folder / disk, "-p") in (0, 1)
        assert fsck(folder / disk) == 0
    start()
    assert room(NAME, "/") > 900
    assert room(NAME, "/root") > 900
    assert said(NAME, "cat /kept /root/kept") == "data\ndata\n"


def test_work_disk_that_sshd_would_refuse_is_mended_by_the_next_start(folder: Path) -> None:
    stop()
    work = folder / "work.ext4"
    places = {"/": "040777", "/.ssh": "040777", "/.ssh/authorized_keys": "0100666"}
    for place, mode in places.items():
        for change in (f"mode {mode}", "uid 1000", "gid 1000"):
            images.debugfs(work, f"set_inode_field {place} {change}", write=True)
    start()
    told = said(NAME, "cd /root; stat -c '%a %u:%g' . .ssh .ssh/authorized_keys; cat .ssh/authorized_keys")
    assert told == "755 0:0\n700 0:0\n600 0:0\nkey\n"


def test_read_only_machine_forgets_its_root_and_keeps_its_work_disk() -> None:
    vm = boots.boot("--name=fixed", "--read-only", "--memory=256M", "--work-disk=64M", "--limit-disk=4M")
    try:
        root = Path(vm["path"], "root.ext4")
        before = hashlib.sha256(root.read_bytes()).digest()
        said("fixed", "echo data > /gone; echo data > /root/kept")
        began = time.monotonic()
        said("fixed", "cat /dev/vda | busybox head -c 29360128 >/dev/null")  # seven seconds' worth, some read before
        assert time.monotonic() - began > 3
        support.run_ok("banger", "vm", "stop", "fixed")
        assert hashlib.sha256(root.read_bytes()).digest() == before
        support.run_ok("banger", "vm", "start", "fixed", f"--timeout={SECONDS:.0f}")
        assert said("fixed", "cat /root/kept; test -e /gone || echo forgotten") == "data\nforgotten\n"
    finally:
        delete("fixed")


# A host's disk that is nearly full ----------------------------------------------


@pytest.fixture
def tight(bootable_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A disk of 256 MiB with a home, whose image fits there once but not twice."""
    support.need_root()
    support.need("qemu-img")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", disk], check=True)
    try:
        (disk / "home").mkdir()
        subprocess.run(["cp", "-a", bootable_home / "state", disk / "home"], check=True)
        subprocess.run(["rm", "-rf", disk / "home" / "state" / "vms"], check=True)
        monkeypatch.setenv("BANGER_HOME", str(disk / "home"))
        content = machines.busybox_root(tmp_path / "content")
        (content / "large").write_bytes(os.urandom(48 << 20))
        image = machines.mke2fs(tmp_path / "big.ext4", content, "128M", "-E", "root_owner=0:0")
        text = machines.manifest(image, "big", image={"architecture": "amd64"})
        support.run_ok("bg-publish", "--name=big", stdin=text)
        yield disk
        support.run("banger", "vm", "delete", "--force", "big")
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk: Path, left: int) -> Path:
    """Leave only so many bytes free on a disk."""
    there = os.statvfs(disk)
    filler = disk / "filler"
    with open(filler, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, there.f_bavail * there.f_frsize - left)
    return filler


@pytest.mark.root
def test_machine_whose_disk_does_not_fit_twice_stops_at_a_full_disk_and_goes_on_without_a_loss(tight: Path) -> None:
    filler = fill(tight, 16 << 20)
    words = ("--image=big", "--name=big", "--disk=512M", "--memory=256M", f"--timeout={SECONDS:.0f}")
    vm = support.manifest_of(support.run_ok("bg-boot", *words))["vm"]
    folder = Path(vm["path"])
    assert not (folder / "root.ext4").exists()
    assert room("big", "/") > 400  # the guest grew it
    script = "busybox head -c 33554432 /dev/urandom > /more; sync; busybox sha256sum /more; echo end"
    argv = support.argv("banger", "vm", "exec", "big", "sh", "-c", script)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=support.environment()) as writer:
        assert guest_lab.until(lambda: qemu.status(vms.load("big")) == "io-error", SECONDS)
        filler.unlink()
        support.run_ok("banger", "vm", "start", "big")
        told = writer.communicate(timeout=SECONDS)[0].decode()
    assert told.endswith("end\n")
    support.run_ok("banger", "vm", "stop", "big")
    check = subprocess.run(["qemu-img", "check", folder / "root.qcow2"], capture_output=True, text=True)
    assert check.stdout.startswith("No errors"), check
    support.run_ok("banger", "vm", "start", "big", f"--timeout={SECONDS:.0f}")
    assert told.startswith(said("big", "busybox sha256sum /more"))
    large = hashlib.sha256((tight / "home/state/images/big/rootfs.ext4").read_bytes()).digest()
    assert hashlib.sha256((folder / "base.ext4").read_bytes()).digest() == large


@pytest.mark.root
def test_overlay_whose_image_was_edited_does_not_start(tight: Path) -> None:
    fill(tight, 32 << 20)
    words = ("--image=big", "--name=big", "--memory=256M", f"--timeout={SECONDS:.0f}")
    support.run_ok("bg-boot", *words)
    support.run_ok("banger", "vm", "stop", "big")
    with open(tight / "home/state/images/big/rootfs.ext4", "r+b") as disk:
        disk.write(b"other")
    done = support.run("banger", "vm", "start", "big")
    assert (done.returncode, b"base.ext4' was changed" in done.stderr) == (65, True)
    assert boots.show("big")["state"] == "stopped"
