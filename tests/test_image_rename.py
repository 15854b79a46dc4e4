"""Images get other names, and their machines with them: also if that is killed at any call that changes the disk."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from banger_tools import errors
from banger_tools.manifest import Published
from banger_tools.store import images, promotion, renaming, vms
from tests import crashes, support
from tests.crashes import Program, Tally
from tests.stored_images import disk, image, image_ok, machine, publish, record


@pytest.fixture
def rootfs(banger_home: Path, tmp_path: Path) -> Path:
    """The disk of the image 'web', of which there are two machines."""
    made = disk(tmp_path)
    publish(made, "web")
    for vm in ("one", "two"):
        machine(vm, "web")
    return made


def names_of(vm: str) -> set[str]:
    """Return every name of its image that a machine has in its records."""
    about = vms.image(vm)
    published = about.get("published", Published)
    paths = {str(Path(path).parent) for path in (published.rootfs, f"{published.path}/x")}
    return {vms.load(vm).spec.image, about.name or "", published.name, *(Path(path).name for path in paths)}


def killed_at(moment: str) -> None:
    """Rename 'web' to 'base', and be killed at the first call of a function."""
    script = "import os, signal\nfrom banger_tools.store import images, renaming, vms\n"
    script += f"{moment} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\nrenaming.rename('web', 'base')"
    assert subprocess.run([sys.executable, "-c", script], cwd=support.ROOT).returncode == -signal.SIGKILL


@pytest.mark.parametrize("moment", ["vms.save", "images.write"])
def test_machines_of_an_image_are_told_right_before_its_renaming_is_completed(moment: str, rootfs: Path) -> None:
    killed_at(moment)
    assert images.uses() == {"base": ["one", "two"]}
    assert image("delete", "base").returncode == 73
    assert json.loads(image_ok("prune", "--force", "--json"))["images"] == []
    doctor = support.run("banger", "doctor").stdout.decode()
    assert "names that images had before: web of the image base" in doctor
    told = json.loads(support.run_ok("banger", "prune", "--dry-run", "--json"))
    assert told["removed"] == [{"kind": "old name", "name": "web of the image base", "size": 0}]
    assert images.former_name("base") == "web"
    assert support.run_ok("banger", "prune") == b"removed old name web of the image base\n0 freed\n"
    assert (names_of("one"), names_of("two"), images.former_name("base")) == ({"base"}, {"base"}, None)
    assert support.run_ok("banger", "prune") == b"0 freed\n"


def test_renaming_goes_on_from_one_that_was_killed(rootfs: Path) -> None:
    killed_at("vms.save")
    image_ok("rename", "base", "third")
    assert (names_of("one"), names_of("two"), record(images.root() / "third")["name"]) == (
        {"third"},
        {"third"},
        "third",
    )


def test_machine_of_a_new_image_of_the_old_name_keeps_that(rootfs: Path, tmp_path: Path) -> None:
    killed_at("vms.save")
    publish(disk(tmp_path, "another", "another\n"), "web")
    machine("new", "web")
    assert images.uses() == {"base": ["one", "two"], "web": ["new"]}
    crashes.prune()
    assert (names_of("one"), names_of("new")) == ({"base"}, {"web"})
    assert images.uses() == {"base": ["one", "two"], "web": ["new"]}


def test_image_that_is_promoted_in_between_is_renamed_to_the_end(rootfs: Path, tmp_path: Path) -> None:
    support.run_ok("banger", "image", "register", "--name=loose", rootfs)
    machine("of-loose", "loose")
    image_ok("rename", "loose", "firm")
    folder = images.root() / "firm"
    about = record(folder)
    about["published"]["name"] = "loose"  # as it is before the last step
    (folder / "image.json").write_text(json.dumps(about))
    promotion.promote("firm")
    assert images.former_name("firm") == "loose"
    crashes.prune()
    assert (names_of("of-loose"), images.former_name("firm")) == ({"firm"}, None)


def test_image_that_is_being_renamed_is_nobody_elses_to_complete(rootfs: Path) -> None:
    killed_at("vms.save")
    with images.locked("base"):
        assert support.run_ok("banger", "prune") == b"0 freed\n"
        assert not renaming.complete("base")
    assert renaming.complete("base")
    assert not renaming.complete("base")
    assert not renaming.complete("web")


def test_broken_image_is_not_renamed(rootfs: Path) -> None:
    os.unlink(images.root() / "web" / "rootfs.ext4")
    with pytest.raises(errors.BadInput, match="is broken"):
        renaming.rename("web", "base")
    assert images.listed() == ["web"]


def test_renaming_killed_at_any_call_leaves_one_name_and_every_machine_with_its_image(
    banger_home: Path, rootfs: Path, tmp_path: Path
) -> None:
    support.need("strace")
    state, kept = banger_home / "state", tmp_path / "kept"
    shutil.copytree(state, kept)
    program, tally = Program("banger", ["image", "rename", "web", "base"], "", state, tmp_path), Tally()
    for step in program.steps():
        shutil.rmtree(state)
        shutil.copytree(kept, state)
        assert program.killed_at(step), step
        (name,) = images.listed()
        assert images.uses() == {name: ["one", "two"]}, step
        half = {name} != names_of("one") | names_of("two")
        tally.note(step, "half" if half else name)
        crashes.prune()
        assert (images.listed(), images.uses()) == ([name], {name: ["one", "two"]})
        assert names_of("one") == names_of("two") == {record(images.root() / name)["name"]} == {name}, step
        assert crashes.strays(banger_home, f"images/{name}", "vms", "bzImage") == []
    print(tally)
    assert tally.total("web") > 0
    assert tally.total("half") > 8
    assert tally.total("base") > 1
