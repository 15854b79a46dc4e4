"""The home on a work disk: whoever made the disk, at each boot it is as sshd's StrictModes wants it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests import namespaced
from tests.namespaced import run

pytestmark = pytest.mark.root

# A device that is there and cannot be mounted: the home is then the folder of the root itself.
WORK = {"work": "/dev/null"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home that everybody may write to, and that belongs to nobody we know, like all in it."""
    made = namespaced.make_root(tmp_path / "root") / "root"
    (made / ".ssh").mkdir()
    (made / ".ssh" / "authorized_keys").write_text("ssh-ed25519 AAAA me\n")
    for path, mode in ((made / ".ssh" / "authorized_keys", 0o666), (made / ".ssh", 0o777), (made, 0o1777)):
        os.chown(path, 1000, 1000)
        path.chmod(mode)
    return made


def told(path: Path) -> tuple[str, int, int]:
    found = path.lstat()
    return f"{stat.S_IMODE(found.st_mode):o}", found.st_uid, found.st_gid


def test_home_keys_and_their_folder_are_mended_without_a_word_about_keys(home: Path) -> None:
    run(home.parent, "true", disks=WORK)
    keys = home / ".ssh" / "authorized_keys"
    assert [told(path) for path in (home, home / ".ssh", keys)] == [("1755", 0, 0), ("700", 0, 0), ("600", 0, 0)]
    assert keys.read_text() == "ssh-ed25519 AAAA me\n"


def test_home_of_the_image_itself_is_left_as_it_is(home: Path) -> None:
    run(home.parent, "true")
    assert [told(path) for path in (home, home / ".ssh")] == [("1777", 1000, 1000), ("777", 1000, 1000)]


def test_what_a_link_leads_to_is_left_as_it_is(home: Path) -> None:
    (home / ".ssh").rename(home / "elsewhere")
    (home / ".ssh").symlink_to("elsewhere")
    run(home.parent, "true", disks=WORK)
    elsewhere = home / "elsewhere"
    assert [told(home), told(elsewhere)] == [("1755", 0, 0), ("777", 1000, 1000)]
    assert told(elsewhere / "authorized_keys") == ("666", 1000, 1000)


def test_odd_things_in_their_places_stop_nothing(home: Path) -> None:
    (home / ".ssh" / "authorized_keys").unlink()
    os.mkfifo(home / ".ssh" / "authorized_keys", 0o600)
    assert "went on" in run(home.parent, "echo went on", disks=WORK)
    os.unlink(home / ".ssh" / "authorized_keys")
    (home / ".ssh").rmdir()
    (home / ".ssh").write_text("no folder")
    assert "went on" in run(home.parent, "echo went on", disks=WORK)
    assert (home / ".ssh").read_text() == "no folder"
