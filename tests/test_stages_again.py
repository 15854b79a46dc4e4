"""A stage that makes the same bytes again leaves the file that is there, so that make(1) runs nothing after it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests import machines, support


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tar, and what each stage makes of it once, by the names of the stages."""
    folder = tmp_path_factory.mktemp("again")
    root = machines.busybox_root(folder / "root")
    (root / "root" / ".profile").write_text("greeting=hello\n")
    support.run_ok("tar", "-C", root, "--owner=0", "--group=0", "-cf", folder / "root.tar", ".")
    for stage in STAGES:
        run(stage, folder)
    return folder


STAGES = {  # a stage: its INPUT and the names of its outputs, options before them
    "bg-fetch": ("rootfs:root.tar", {"-o": "fetched.json"}),
    "bg-flatten": ("fetched.json", {"-o": "tree.jsonl", "--tar": "flat.tar", "--manifest": "flat.json"}),
    "bg-mkext4": ("flat.json", {"-o": "base.ext4"}),
    "bg-chown": ("mkext4.json", {"-o": "owned.ext4"}),
    "bg-inject": ("chown.json", {"-o": "guest.ext4"}),
    "bg-seed": ("inject.json", {"-o": "seed.ext4"}),
}


def run(stage: str, folder: Path, *words: str) -> None:
    source, outputs = STAGES[stage]
    named = [f"{option}{'=' if option.startswith('--') else ''}{name}" for option, name in outputs.items()]
    printed = support.run_ok(stage, "--force", *words, *named, "--", source, cwd=folder)
    if printed:
        (folder / f"{stage.removeprefix('bg-')}.json").write_bytes(printed)


def looks(folder: Path, stage: str) -> dict[str, tuple[int, int]]:
    found = {name: os.stat(folder / name) for name in STAGES[stage][1].values()}
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in found.items()}


@pytest.mark.parametrize("stage", STAGES)
def test_same_bytes_are_not_touched(stage: str, work: Path) -> None:
    before = looks(work, stage)
    run(stage, work)
    assert looks(work, stage) == before
    assert not support.leftovers(work)


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("bg-flatten", ["--exclude=/bin/ls"]),
        ("bg-mkext4", ["--label=other"]),
        ("bg-chown", ["--set=/bin/busybox=7:7"]),
        ("bg-inject", ["--hostname=other"]),
        ("bg-seed", ["--size=32M"]),
    ],
)
def test_other_bytes_take_the_place(stage: str, words: list[str], work: Path) -> None:
    before = looks(work, stage)
    run(stage, work, *words)
    after = looks(work, stage)
    run(stage, work)
    assert all(before[name] != after[name] for name in before)


def test_manifest_of_another_source_takes_the_place(work: Path) -> None:
    before = looks(work, "bg-fetch")
    (work / "root.tar").write_bytes((work / "root.tar").read_bytes() + bytes(10240))
    run("bg-fetch", work)
    assert looks(work, "bg-fetch") != before
    assert (
        json.loads((work / "fetched.json").read_text())["layers"][0]["tar_size"] == (work / "root.tar").stat().st_size
    )
