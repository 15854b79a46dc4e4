"""What is flushed to the disk before it has its name, and what nobody waits for."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from banger_tools import files, stage
from tests import machines, support


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """Note what is flushed: its name, and the names that its folder had then."""
    found: list[tuple[str, list[str]]] = []
    sync = os.fsync

    def note(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        found.append((path.name, sorted(os.listdir(path if path.is_dir() else path.parent))))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    return found


def test_durable_file_is_flushed_before_it_has_its_name_and_the_name_after(
    tmp_path: Path, flushed: list[tuple[str, list[str]]]
) -> None:
    with files.atomic(tmp_path / "a") as temporary:
        temporary.write_text("x")
    assert flushed == [(temporary.name, [temporary.name]), (tmp_path.name, ["a"])]


def test_nobody_waits_for_the_disk_to_have_an_artifact(tmp_path: Path, flushed: list[tuple[str, list[str]]]) -> None:
    with stage.Outputs(tmp_path, None, force=False, path_only=False).making(tmp_path / "a") as temporary:
        temporary.write_text("x")
    assert ((tmp_path / "a").read_text(), flushed) == ("x", [])


def test_all_of_a_published_image_is_flushed_before_it_has_its_name(banger_home: Path, tmp_path: Path) -> None:
    """The stages before leave what a crash may damage, so all depends on this."""
    support.need("strace")
    disk = machines.mke2fs(tmp_path / "disk.ext4", size="8M")
    seed = machines.mke2fs(tmp_path / "seed.ext4", size="8M")
    section = {"path": str(seed), "size": seed.stat().st_size, "uuid": "", "home": "/root", "entries": 1}
    manifest = machines.manifest(disk, work_seed=section)
    strace = ["strace", "-f", "-y", "-qq", "-o", str(tmp_path / "trace"), "-e", "trace=fsync,fdatasync,renameat2"]
    words = [*strace, *support.argv("bg-publish", "--no-kernel", "--name=tiny")]
    subprocess.run(words, input=manifest.encode(), check=True, capture_output=True, env=support.environment())
    before, renamed, _ = (tmp_path / "trace").read_text().partition("renameat2(")
    assert renamed
    image = banger_home / "state" / "images" / "tiny"
    synced = {Path(path).name for path in re.findall(r"(?:fsync|fdatasync)\(\d+<(.*?)>\) += 0", before)}
    assert {path.name for path in image.iterdir()} >= {"image.json", "rootfs.ext4", "work-seed.ext4"}
    assert {path.name for path in image.iterdir()} <= synced
