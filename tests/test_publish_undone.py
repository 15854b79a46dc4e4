"""bg-publish where something fails late: the name is free again, the old image back, and no disk is lost."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests import crashes, machines, stored, support


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return machines.mke2fs(tmp_path / "disk.ext4", size="1M")


def names(home: Path, kind: str = "images") -> list[str]:
    folder = home / "state" / kind
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def publish(text: str, *words: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[bytes]:
    argv = support.argv("bg-publish", *words)
    env = support.environment()
    return subprocess.run(argv, input=text.encode(), stdout=stdout, stderr=subprocess.PIPE, env=env, timeout=300)


def publish_to(device: str, text: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Publish with stdout on a device, or on a pipe that nobody reads."""
    if device == "closed pipe":
        reader, stdout = os.pipe()
        os.close(reader)
    else:
        stdout = os.open(device, os.O_WRONLY)
    try:
        return publish(text, *words, stdout=stdout)
    finally:
        os.close(stdout)


@pytest.mark.parametrize(("device", "status"), [("/dev/full", 74), ("closed pipe", 141)])
@pytest.mark.parametrize("move", [[], ["--move"]])
def test_image_that_cannot_be_told_of_is_not_published(
    device: str, status: int, move: list[str], banger_home: Path, disk: Path
) -> None:
    text, before = machines.manifest(disk), disk.read_bytes()
    assert publish_to(device, text, "--no-kernel", "--name=tiny", *move).returncode == status
    assert names(banger_home) == []
    assert (disk.read_bytes(), disk.stat().st_nlink) == (before, 1)
    assert publish(text, "--no-kernel", "--name=tiny", *move).returncode == 0


@pytest.mark.parametrize(("device", "status"), [("/dev/full", 74), ("closed pipe", 141)])
def test_replacement_that_cannot_be_told_of_leaves_the_old_image(
    device: str, status: int, banger_home: Path, disk: Path
) -> None:
    publish(machines.manifest(disk, version=1), "--no-kernel", "--name=tiny")
    record = banger_home / "state" / "images" / "tiny" / "image.json"
    before = record.read_bytes(), record.stat().st_ino
    text = machines.manifest(disk, version=2)
    assert publish_to(device, text, "--no-kernel", "--name=tiny", "--replace").returncode == status
    assert (record.read_bytes(), record.stat().st_ino) == before
    assert names(banger_home) == ["tiny"]


@pytest.mark.parametrize(("device", "status"), [("/dev/full", 74), ("closed pipe", 141)])
def test_kernel_that_cannot_be_told_of_is_not_kept(device: str, status: int, banger_home: Path, tmp_path: Path) -> None:
    (tmp_path / "bzImage").write_bytes(stored.bzimage())
    text = support.run_ok("bg-fetch", f"kernel:{tmp_path / 'bzImage'}").decode()
    assert publish_to(device, text, "--kernel", "--name=mine").returncode == status
    assert names(banger_home, "kernels") == []
    assert publish(text, "--kernel", "--name=mine").returncode == 0
    assert publish_to(device, text, "--kernel", "--name=mine").returncode == status  # it was here before
    assert names(banger_home, "kernels") == ["mine"]


@pytest.mark.parametrize("call", ["link", "fsync", "renameat2"])
def test_disk_that_is_moved_survives_any_kill(call: str, banger_home: Path, disk: Path) -> None:
    support.need("strace")
    before = disk.read_bytes()
    words = ["--no-kernel", "--name=tiny", "--move"]
    program = crashes.Program("publish", words, machines.manifest(disk), banger_home, banger_home.parent)
    assert program.killed_at(crashes.Step(call, 1))
    crashes.prune()
    assert names(banger_home) == []
    assert (disk.read_bytes(), disk.stat().st_nlink) == (before, 1)


def test_disk_behind_a_symlink_is_moved_itself(banger_home: Path, disk: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(disk.name)
    inode = disk.stat().st_ino
    assert publish(machines.manifest(link), "--no-kernel", "--name=tiny", "--move").returncode == 0
    stored_disk = banger_home / "state" / "images" / "tiny" / "rootfs.ext4"
    assert not stored_disk.is_symlink()
    assert (stored_disk.stat().st_ino, stored_disk.stat().st_nlink, disk.exists()) == (inode, 1, False)


@pytest.mark.root
def test_disk_of_another_filesystem_is_copied_and_stays(banger_home: Path, disk: Path, small_disk: Path) -> None:
    other = small_disk / "disk.ext4"
    other.write_bytes(disk.read_bytes())
    done = publish(machines.manifest(other), "--no-kernel", "--name=tiny", "--move")
    assert (done.returncode, b"is copied and not moved" in done.stderr) == (0, True)
    assert (banger_home / "state" / "images" / "tiny" / "rootfs.ext4").read_bytes() == other.read_bytes()


def test_taken_name_is_refused_before_stdin_is_read(banger_home: Path, disk: Path) -> None:
    publish(machines.manifest(disk), "--no-kernel", "--name=tiny")
    argv = support.argv("bg-publish", "--no-kernel", "--name=tiny")
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=support.environment()) as running:
        assert running.wait(120) == 73  # and nobody has written a manifest
        assert running.stderr is not None
        assert b"the image 'tiny' exists already" in running.stderr.read()


def test_what_has_an_image_open_keeps_it_when_it_is_replaced(banger_home: Path, disk: Path, tmp_path: Path) -> None:
    publish(machines.manifest(disk), "--no-kernel", "--name=tiny")
    path = banger_home / "state" / "images" / "tiny" / "rootfs.ext4"
    os.link(path, tmp_path / "base")  # as a machine's overlay has it
    other = machines.mke2fs(tmp_path / "other.ext4", size="2M")
    with open(path, "rb") as opened:
        assert publish(machines.manifest(other), "--no-kernel", "--name=tiny", "--replace").returncode == 0
        assert opened.read() == disk.read_bytes()
    assert (tmp_path / "base").read_bytes() == disk.read_bytes()
    assert path.read_bytes() == other.read_bytes()


def test_replacing_what_is_not_there_is_publishing(banger_home: Path, disk: Path) -> None:
    assert publish(machines.manifest(disk), "--no-kernel", "--name=tiny", "--replace").returncode == 0
    assert names(banger_home) == ["tiny"]


def test_store_that_may_not_be_written_to_is_denied(user: support.OrdinaryUser, tmp_path: Path) -> None:
    disk = machines.mke2fs(user.home / "disk.ext4", size="1M")
    disk.chmod(0o644)
    store = user.home / "store"
    store.mkdir(mode=0o555)  # that of root, or one that its owner has locked
    done = user.run("bg-publish", "--no-kernel", str(disk), env={"BANGER_HOME": str(store)})
    assert done.returncode == 77, done.stderr.decode()
    assert "cannot make the image 'disk'" in done.stderr.decode()


def test_new_folders_of_the_store_are_flushed_too(tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    support.need("strace")
    home = tmp_path / "new" / "home"
    monkeypatch.setenv("BANGER_HOME", str(home))
    text = machines.manifest(disk)
    done = crashes.Program("publish", ["--no-kernel", "--name=tiny"], text, home, tmp_path).run()
    assert done.returncode == 0, done.stderr.decode()
    trace = (tmp_path / "trace").read_text()
    for folder in (tmp_path, home.parent, home, home / "state", home / "state" / "images"):
        assert any("fsync(" in line and f"<{folder}>)" in line for line in trace.splitlines()), folder
