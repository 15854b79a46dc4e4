"""Kernels taken into the store and images deleted, each killed at every call that changes the disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from banger_tools.store import images, kernels
from tests import crashes, machines, stored, support
from tests.crashes import Program, Tally

KERNEL = "kernels/mine"


@pytest.fixture
def imports(tmp_path: Path, banger_home: Path) -> list[str]:
    """Two kernels in the cache that differ, as bg-fetch tells of them."""
    support.need("strace")
    found = []
    for number in range(2):
        kernel = tmp_path / f"{number}" / "bzImage"
        kernel.parent.mkdir()
        kernel.write_bytes(stored.bzimage(b"%d" % number))
        found.append(support.run_ok("bg-fetch", f"kernel:{kernel}").decode())
    return found


def importer(home: Path, manifest: str, *words: str) -> Program:
    """Return bg-publish as `banger kernel import` runs it."""
    return Program("publish", ["--kernel", "--name=mine", *words], manifest, home / "state", home.parent)


def version(home: Path) -> int | None:
    """Return which kernel is in the store, None if none is; what is there must be whole."""
    if not kernels.listed():
        return None
    assert kernels.listed() == ["mine"]
    assert kernels.find("mine").name == "mine"
    folder = home / "state" / KERNEL
    assert sorted(path.name for path in folder.iterdir()) == ["kernel.json", "vmlinux", "vmlinuz"]
    return [stored.bzimage(b"%d" % number) for number in range(2)].index((folder / "vmlinuz").read_bytes())


def test_killed_at_any_call_there_is_no_kernel_or_all_of_it(banger_home: Path, imports: list[str]) -> None:
    program, tally = importer(banger_home, imports[0]), Tally()
    for step in program.steps():
        shutil.rmtree(banger_home / "state", ignore_errors=True)
        assert program.killed_at(step), step
        found = version(banger_home)
        tally.note(step, "none" if found is None else "whole")
        crashes.prune()
        assert version(banger_home) == found
        assert crashes.strays(banger_home, KERNEL) == []
    print(tally)
    assert tally.total("none") > 8
    assert tally.total("whole") > 0


def test_killed_at_any_call_of_a_replacement_there_is_the_old_kernel_or_the_new(
    banger_home: Path, imports: list[str]
) -> None:
    importer(banger_home, imports[0]).run()
    steps, old, tally = importer(banger_home, imports[1], "--replace").steps(), 1, Tally()
    for step in steps:
        assert importer(banger_home, imports[1 - old], "--replace").killed_at(step), step
        found = version(banger_home)
        assert found is not None
        tally.note(step, "old" if found == old else "new")
        crashes.prune()
        assert version(banger_home) == found
        assert crashes.strays(banger_home, KERNEL) == []
        old = found
    print(tally)
    assert tally.total("old") > 8
    assert tally.total("new") > 2


def test_full_disk_at_any_call_leaves_no_kernel_and_nothing_else(banger_home: Path, imports: list[str]) -> None:
    program, tally = importer(banger_home, imports[0]), Tally()
    for step in [step for step in program.steps() if step.takes_room]:
        shutil.rmtree(banger_home / "state", ignore_errors=True)
        done = program.without_room_at(step)
        tally.note(step, "none" if version(banger_home) is None else "whole")
        if step.call in ("link", "linkat"):  # a link that cannot be made becomes a copy
            assert done.returncode == 0, done.stderr.decode()
            continue
        assert (done.returncode, done.stdout) == (crashes.NO_SPACE, b""), (step, done.stderr.decode())
        assert version(banger_home) is None
        assert [name for name in crashes.strays(banger_home) if not name.startswith("locks/")] == []
    print(tally)
    assert tally.total("none") > 5


def test_image_whose_deletion_is_killed_at_any_call_is_whole_or_gone(banger_home: Path, tmp_path: Path) -> None:
    support.need("strace")
    disk = machines.mke2fs(tmp_path / "disk.ext4", size="1M")
    state, kept = banger_home / "state", tmp_path / "kept"
    support.run_ok("bg-publish", "--no-kernel", "--name=tiny", stdin=machines.manifest(disk))
    shutil.copytree(state, kept)
    program, tally = Program("banger", ["image", "delete", "tiny"], "", state, tmp_path), Tally()
    for step in program.steps():
        shutil.rmtree(state)
        shutil.copytree(kept, state)
        assert program.killed_at(step), step
        found = images.listed()
        tally.note(step, "whole" if found else "gone")
        if found:
            place = state / "images" / "tiny"
            assert (place / "rootfs.ext4").read_bytes() == disk.read_bytes()
            assert json.loads((place / "image.json").read_bytes())["name"] == "tiny"
        crashes.prune()
        assert images.listed() == found
        assert crashes.strays(banger_home, "images/tiny") == []
    print(tally)
    assert tally.total("whole") > 0
    assert tally.total("gone") > 3
