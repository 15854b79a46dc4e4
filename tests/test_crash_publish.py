"""bg-publish killed at every call that changes the disk, or with a full one: the store is as before, or as after."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from banger_tools.store import images
from tests import crashes, machines, support
from tests.crashes import Program, Tally

IMAGE = "images/tiny"


@pytest.fixture
def disks(tmp_path: Path) -> list[Path]:
    """Two disks that differ in their UUIDs."""
    support.need("strace")
    return [machines.mke2fs(tmp_path / f"{number}.ext4", size="1M") for number in range(2)]


def publisher(home: Path, disks: list[Path], version: int, *words: str) -> Program:
    """Return bg-publish as it publishes an image of two disks."""
    disk = disks[version]
    seed = {"path": str(disk), "size": disk.stat().st_size, "uuid": "", "home": "/root", "entries": 1}
    text = machines.manifest(disk, work_seed=seed, version=version)
    return Program("publish", ["--no-kernel", "--name=tiny", *words], text, home, home.parent)


def version(home: Path, disks: list[Path]) -> int | None:
    """Return which image is in the store, None if none is; what is there must be whole."""
    if not images.listed():
        return None
    assert images.listed() == ["tiny"]
    folder = home / "state" / IMAGE
    record = json.loads((folder / "image.json").read_bytes())
    assert record["published"]["path"] == str(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["image.json", "rootfs.ext4", "work-seed.ext4"]
    for name in ("rootfs.ext4", "work-seed.ext4"):
        assert (folder / name).read_bytes() == disks[record["version"]].read_bytes()
    return int(record["version"])


def test_killed_at_any_call_there_is_no_image_or_all_of_it(banger_home: Path, disks: list[Path]) -> None:
    program, tally = publisher(banger_home, disks, 0), Tally()
    for step in program.steps():
        shutil.rmtree(banger_home / "state", ignore_errors=True)
        assert program.killed_at(step), step
        found = version(banger_home, disks)
        tally.note(step, "none" if found is None else "whole")
        crashes.prune()
        assert version(banger_home, disks) == found
        assert crashes.strays(banger_home, IMAGE) == []
    print(tally)
    assert tally.total("none") > 15
    assert tally.total("whole") > 0


def test_killed_at_any_call_of_a_replacement_there_is_the_old_image_or_the_new(
    banger_home: Path, disks: list[Path]
) -> None:
    publisher(banger_home, disks, 0).run()
    steps, old, tally = publisher(banger_home, disks, 1, "--replace").steps(), 1, Tally()
    for step in steps:
        assert publisher(banger_home, disks, 1 - old, "--replace").killed_at(step), step
        found = version(banger_home, disks)
        assert found is not None
        tally.note(step, "old" if found == old else "new")
        crashes.prune()
        assert version(banger_home, disks) == found
        assert crashes.strays(banger_home, IMAGE) == []
        old = found
    print(tally)
    assert tally.total("old") > 15
    assert tally.total("new") > 2


def test_leftovers_of_a_killed_program_go_with_the_next_run_or_prune(banger_home: Path, disks: list[Path]) -> None:
    program = publisher(banger_home, disks, 0)
    last = [step for step in program.steps() if step.call == "renameat2"][-1]
    shutil.rmtree(banger_home / "state")
    for clean in (["banger", "prune"], ["bg-publish", "--no-kernel", "--name=other", str(disks[0])]):
        assert program.killed_at(last)
        assert [name for name in crashes.strays(banger_home, IMAGE) if name.endswith("/rootfs.ext4")]
        support.run_ok(*clean)
        assert crashes.strays(banger_home, "images/other") == []


@pytest.mark.parametrize("words", [(), ("--replace",)])
def test_full_disk_at_any_call_leaves_what_was_there_and_nothing_else(
    banger_home: Path, disks: list[Path], words: tuple[str, ...]
) -> None:
    old = 0 if words else None
    state, kept = banger_home / "state", banger_home.parent / "kept"
    if words:
        publisher(banger_home, disks, 0).run()
        shutil.copytree(state, kept)
    program, tally = publisher(banger_home, disks, 1, *words), Tally()
    for step in [step for step in program.steps() if step.takes_room]:
        shutil.rmtree(state, ignore_errors=True)
        if words:
            shutil.copytree(kept, state)
        done = program.without_room_at(step)
        assert (done.returncode, done.stdout) == (crashes.NO_SPACE, b""), (step, done.stderr.decode())
        assert b"no space left" in done.stderr
        assert version(banger_home, disks) == old
        assert crashes.strays(banger_home, IMAGE) == []
        tally.note(step, "old")
    print(tally)
    assert tally.total("old") > 10
