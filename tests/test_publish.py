"""bg-publish: a named image in the store, whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests import machines, support


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    content = tmp_path / "content"
    content.mkdir()
    (content / "file").write_bytes(os.urandom(100_000))
    return machines.mke2fs(tmp_path / "disk.ext4", content, "200M")


def images(home: Path) -> list[str]:
    folder = home / "state" / "images"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def publish(home: Path, manifest: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    return support.run("bg-publish", "--no-kernel", *words, stdin=manifest, env={"BANGER_HOME": str(home)})


def test_published_image_has_the_disk_byte_for_byte(banger_home: Path, disk: Path) -> None:
    done = publish(banger_home, machines.manifest(disk, note="kept"), "--name", "tiny")
    assert done.returncode == 0, done.stderr
    printed = support.manifest_of(done.stdout)
    assert printed["note"] == "kept"
    assert printed["history"][-1]["tool"] == "bg-publish"
    assert printed["published"]["name"] == printed["name"] == "tiny"
    assert Path(printed["published"]["rootfs"]).read_bytes() == disk.read_bytes()
    assert json.loads(Path(printed["published"]["path"], "image.json").read_bytes()) == printed


def test_holes_stay_holes(banger_home: Path, disk: Path) -> None:
    publish(banger_home, machines.manifest(disk), "--name", "tiny")
    copy = banger_home / "state" / "images" / "tiny" / "rootfs.ext4"
    assert copy.stat().st_size == 200 << 20
    assert copy.stat().st_blocks * 512 < 30 << 20


def test_later_edits_of_the_source_do_not_reach_the_store(banger_home: Path, disk: Path) -> None:
    publish(banger_home, machines.manifest(disk), "--name", "tiny")
    before = disk.read_bytes()
    with open(disk, "r+b") as file:
        file.write(b"changed")
    assert (banger_home / "state" / "images" / "tiny" / "rootfs.ext4").read_bytes() == before


@pytest.mark.parametrize("words", [[], ["--kernel-ref=apt:linux-image-cloud-amd64"], ["--kernel-ref=cloud-amd64"]])
def test_kernel_that_was_never_fetched_is_not_fetched_offline(banger_home: Path, disk: Path, words: list[str]) -> None:
    manifest = machines.manifest(disk)
    done = support.run("bg-publish", "--name=tiny", "--offline", *words, stdin=manifest)
    assert done.returncode == 69, done.stderr
    assert b"is not in the cache" in done.stderr
    assert images(banger_home) == []


def test_name_of_the_manifest_is_the_default(banger_home: Path, disk: Path) -> None:
    assert publish(banger_home, machines.manifest(disk, "docker.io/library/alpine:3.20")).returncode == 0
    assert images(banger_home) == ["alpine-3.20"]


def test_bare_ext4_file_is_published_under_its_name(banger_home: Path, disk: Path) -> None:
    done = support.run("bg-publish", "--no-kernel", "--path", disk)
    assert done.stdout.decode().strip() == str(banger_home / "state" / "images" / "disk")


def test_work_seed_goes_along(banger_home: Path, disk: Path, tmp_path: Path) -> None:
    seed = machines.mke2fs(tmp_path / "seed.ext4", size="8M")
    section = {"path": str(seed), "size": seed.stat().st_size, "uuid": "", "home": "/root", "entries": 1}
    done = publish(banger_home, machines.manifest(disk, work_seed=section))
    printed = support.manifest_of(done.stdout)
    assert Path(printed["published"]["work_seed"]).read_bytes() == seed.read_bytes()


def test_null_work_seed_is_no_work_seed(banger_home: Path, disk: Path) -> None:
    done = publish(banger_home, machines.manifest(disk, work_seed=None))
    assert done.returncode == 0
    assert "work_seed" not in support.manifest_of(done.stdout)["published"]


def test_taken_name_is_refused_and_what_is_there_kept(banger_home: Path, disk: Path) -> None:
    publish(banger_home, machines.manifest(disk), "--name", "tiny")
    before = (banger_home / "state" / "images" / "tiny" / "image.json").read_bytes()
    done = publish(banger_home, machines.manifest(disk), "--name", "tiny")
    assert done.returncode == 73
    assert b"the image 'tiny' exists already" in done.stderr
    assert (banger_home / "state" / "images" / "tiny" / "image.json").read_bytes() == before
    assert images(banger_home) == ["tiny"]


def test_replace_takes_the_place_in_one_step(banger_home: Path, disk: Path) -> None:
    publish(banger_home, machines.manifest(disk, version=1), "--name", "tiny")
    done = publish(banger_home, machines.manifest(disk, version=2), "--name", "tiny", "--replace")
    assert done.returncode == 0
    record = json.loads((banger_home / "state" / "images" / "tiny" / "image.json").read_bytes())
    assert record["version"] == 2
    assert images(banger_home) == ["tiny"]


def test_moved_disk_is_gone_from_where_it_was(banger_home: Path, disk: Path) -> None:
    inode = disk.stat().st_ino
    assert publish(banger_home, machines.manifest(disk), "--name", "tiny", "--move").returncode == 0
    assert not disk.exists()
    assert (banger_home / "state" / "images" / "tiny" / "rootfs.ext4").stat().st_ino == inode


def test_of_two_at_once_one_wins_and_the_other_says_so(banger_home: Path, disk: Path) -> None:
    env = support.environment({"BANGER_HOME": str(banger_home)})
    argv = support.argv("bg-publish", "--no-kernel", "--name", "tiny", disk)
    running = [subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(4)]
    ended = sorted(process.wait() for process in running)
    for process in running:
        process.communicate()
    assert ended == [0, 73, 73, 73]
    assert images(banger_home) == ["tiny"]


@pytest.mark.parametrize("damage", ["unclean", "journal", "shorter", "missing", "no ext4"])
def test_disk_that_is_not_what_it_must_be_is_refused(banger_home: Path, disk: Path, damage: str) -> None:
    manifest = machines.manifest(disk)
    if damage == "missing":
        disk.unlink()
    else:
        with open(disk, "r+b") as file:
            match damage:
                case "unclean":
                    file.seek(1024 + 58)
                    file.write(b"\0\0")
                case "journal":
                    file.seek(1024 + 96)
                    flags = file.read(1)[0]
                    file.seek(1024 + 96)
                    file.write(bytes([flags | 4]))
                case "shorter":
                    file.truncate(100 << 20)
                case "no ext4":
                    file.seek(1024)
                    file.write(bytes(1024))
    done = publish(banger_home, manifest, "--name", "tiny")
    assert done.returncode == (66 if damage == "missing" else 65), done.stderr
    assert str(disk).encode() in done.stderr
    assert images(banger_home) == []


def test_manifest_without_a_disk_names_the_tool_that_makes_it(banger_home: Path) -> None:
    done = publish(banger_home, '{"schema": "banger-manifest/1"}', "--name", "tiny")
    assert done.returncode == 65
    assert b"run bg-mkext4 before this tool" in done.stderr


def test_full_disk_leaves_nothing(tmp_path: Path, disk: Path) -> None:
    with support.tmpfs(tmp_path / "small", "size=4M") as home:
        with open(disk, "r+b") as file:
            file.seek(100 << 20)
            file.write(os.urandom(8 << 20))
        done = publish(home, machines.manifest(disk), "--name", "tiny")
        assert done.returncode == 74, done.stderr
        assert b"no space left" in done.stderr
        assert images(home) == []


def test_kernel_options_that_contradict_each_other_are_refused(banger_home: Path, disk: Path) -> None:
    done = support.run("bg-publish", "--no-kernel", "--kernel-ref", "x", disk)
    assert done.returncode == 64


def test_kernel_that_is_not_there_fails_before_anything_is_made(banger_home: Path, disk: Path) -> None:
    done = support.run("bg-publish", "--kernel-ref", "nosuch", "--name", "tiny", disk)
    assert done.returncode == 66
    assert b"there is no kernel 'nosuch'" in done.stderr
    assert images(banger_home) == []
