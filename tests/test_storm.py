"""A short storm on a store; `python -m bench.storm` blows the long one."""

from __future__ import annotations

import os
from pathlib import Path

from banger_tools import files
from tests import storm, support


def test_store_is_whole_after_a_storm_with_kills_and_prune_removes_what_they_left(tmp_path: Path) -> None:
    support.need("qemu-system-x86_64", "e2fsck")
    blown = storm.Storm(tmp_path, int.from_bytes(os.urandom(2), "big"))
    blown.blow(processes=16, seconds=12)
    found = blown.look()
    about = f"seed {blown.seed}\n{storm.table(blown.runs)}"
    assert found.troubles == [], about
    assert found.left.total() == 0, (found.left, about)
    assert blown.remove_all() == [], about
    assert sum(run.killed is not None for run in blown.runs) >= 5, about


def test_storm_sees_what_is_half_made(tmp_path: Path) -> None:
    """The judge itself: each of these is what a kill at a bad moment could leave."""
    blown = storm.Storm(tmp_path, 1)
    assert blown.look().troubles == []
    image, machine = blown.state / "images" / "ant", blown.state / "vms" / "vm0"
    (image / "work-seed.ext4").write_bytes((tmp_path / "seed1.ext4").read_bytes())
    (machine / "root.ext4").unlink()
    (blown.state / "images" / "x.staging-1").mkdir()
    with files.locked_folder(blown.state / "vms", wait=0, what="the folder"):
        troubles = " ".join(blown.look().troubles)
    assert f"'{image}' is put together of several" in troubles
    assert f"'{machine}': FileNotFoundError" in troubles
    assert "lock left held" in troubles
    assert "'banger image verify' ended with 1" in troubles
    assert blown.leftovers().total() == 0
