"""What is read from the store is of one object, whatever happens to it meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from banger_tools import errors, files
from banger_tools.commands import image_list, image_verify
from banger_tools.store import images, records, vms
from tests import machines, support


def publish(home: Path, name: str, *, seed: bool = False, **sections: object) -> Path:
    """Publish a tiny image, and return its folder."""
    disk = machines.mke2fs(home / f"{name}.ext4", size="4M")
    if seed:
        sections["work_seed"] = {"path": str(disk), "size": 4 << 20, "uuid": "", "home": "/root", "entries": 1}
    support.run_ok("bg-publish", "--no-kernel", "--replace", "--name", name, stdin=machines.manifest(disk, **sections))
    return images.root() / name


def once(first: Callable[[], object]) -> Callable[[], None]:
    """Return what calls a function the first time that it is called, and never again."""
    todo = [first]

    def act() -> None:
        if todo:
            todo.pop()()

    return act


def test_object_that_is_replaced_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        for part in ("one", "two"):
            (tmp_path / name / part).write_text(name)
    replace = once(lambda: files.rename(tmp_path / "new", tmp_path / "old", files.RENAME_EXCHANGE))

    def look() -> tuple[str, str]:
        one = (tmp_path / "old" / "one").read_text()
        replace()
        return one, (tmp_path / "old" / "two").read_text()

    assert records.of_one(tmp_path / "old", look) == ("new", "new")


def test_object_that_is_broken_stays_so(tmp_path: Path) -> None:
    calls = []

    def look() -> None:
        calls.append(1)
        raise errors.BadInput("broken")

    with pytest.raises(errors.BadInput):
        records.of_one(tmp_path, look)
    assert len(calls) == 1


def test_image_that_goes_while_it_is_read_is_missing_and_not_broken(
    banger_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = publish(banger_home, "tiny")
    remove = once(lambda: shutil.rmtree(folder))
    real = images.check_there
    monkeypatch.setattr(images, "check_there", lambda name: (real(name), remove()))
    with pytest.raises(records.Missing):
        images.find("tiny")


def test_image_that_goes_while_images_are_listed_is_in_no_list(
    banger_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(banger_home, "gone")
    publish(banger_home, "kept")
    real = images.find
    remove = once(lambda: images.delete("gone"))

    def find(name: str) -> object:
        found = real(name)
        remove()
        return found

    monkeypatch.setattr(images, "find", find)
    assert [(row.name, row.problem) for row in image_list.rows()] == [("kept", None)]


def test_manifest_of_an_image_never_names_a_seed_that_is_another_ones(
    banger_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(banger_home, "tiny", note="without a seed")
    real = images._check_disks
    replace = once(lambda: publish(banger_home, "tiny", seed=True, note="with a seed"))
    monkeypatch.setattr(images, "_check_disks", lambda folder: (real(folder), replace()))
    found = images.find("tiny")
    assert (found.raw["note"], found.raw["published"]["work_seed"]) == (
        "with a seed",
        str(images.root() / "tiny" / "work-seed.ext4"),
    )


def test_image_that_goes_while_all_are_verified_is_no_trouble_unless_it_was_named(
    banger_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(banger_home, "kept")
    monkeypatch.setattr(images, "listed", lambda: ["gone", "kept"])
    assert (image_verify.main([]), capsys.readouterr().out) == (0, "")
    assert image_verify.main(["gone", "kept"]) == 66


def test_machine_that_went_uses_no_image_and_nobody_is_warned(
    banger_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(vms, "listed", lambda: ["went"])
    assert images.uses() == {}
    assert capsys.readouterr().err == ""
