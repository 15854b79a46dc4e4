"""bg-chown on images that were edited since their tree, with maps of ids, and in what order; judged by debugfs."""

from __future__ import annotations

import fcntl
import json
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests import support, trees
from tests.images import debugfs, mke2fs, stat


@pytest.fixture
def content(tmp_path: Path) -> Path:
    archive = tmp_path / "content.tar"
    with trees.new_tar(archive) as out:
        trees.add(out, "etc", tarfile.DIRTYPE, mode=0o750, uid=1, gid=2)
        trees.add(out, "etc/shadow", data=b"x", mode=0o640, gid=42)
        trees.add(out, "etc/old", data=b"x", uid=3)
        trees.add(out, "etc/kind", data=b"x", uid=4)
        trees.add(out, "again", tarfile.LNKTYPE, linkname="etc/shadow")
        trees.add(out, b"caf\xe9".decode(errors="surrogateescape"), data=b"x", uid=5)
    return archive


@pytest.fixture
def tree(content: Path, tmp_path: Path) -> Path:
    return Path(support.run_ok("bg-flatten", "--path", "-C", tmp_path, content).decode().strip())


@pytest.fixture
def edited(content: Path, tmp_path: Path) -> Path:
    """An image of the extracted tree after somebody has edited it: every owner is 1000, and not all names are there."""
    folder = tmp_path / "edited"
    folder.mkdir()
    subprocess.run(["tar", "-C", folder, "--no-same-owner", "-xf", content], check=True)
    (folder / "etc/old").unlink()
    (folder / "etc/kind").unlink()
    (folder / "etc/kind").symlink_to("shadow")
    (folder / "etc/new folder").mkdir()
    (folder / "etc/new folder/new").write_text("x")
    (folder / "etc/new name").hardlink_to(folder / "etc/shadow")
    image = mke2fs(tmp_path / "edited.ext4", "-d", folder)
    names = ["/", "/etc", "/etc/shadow", "/etc/kind", "/etc/new folder", "/etc/new folder/new"]
    fields = [f'sif "{name}" {field} 1000' for name in names for field in ("uid", "gid")]
    debugfs(image, *fields, "sif <11> uid 1000", write=True)
    return image


def test_edited_folder_gets_the_owners_of_its_tree_and_new_files_belong_to_root(edited: Path, tree: Path) -> None:
    done = support.run("bg-chown", "--from", tree, edited)
    assert done.returncode == 0, done.stderr.decode()
    trees.fsck(edited)
    assert stat(edited, "/etc") == (1, 2, "40750")
    assert stat(edited, "/etc/shadow") == (0, 42, "100640")
    assert stat(edited, "/etc/new name") == (0, 42, "100640")
    assert stat(edited, "/etc/new folder/new") == (0, 0, "100644")
    assert stat(edited, "/etc/kind") == (0, 0, "120777")
    assert stat(edited, "/lost+found") == (0, 0, "40700")
    listed = done.stderr.decode()
    for path in ("/etc/new folder", "/etc/new folder/new", "/etc/kind"):
        assert f"only in the image, belongs to root now: '{path}'\n" in listed
    for path in ("/etc/old", "/etc/kind"):
        assert f"only in the tree, or of another type there: '{path}'\n" in listed
    assert "lost+found" not in listed and "new name" not in listed
    assert support.manifest_of(done.stdout)["ownership"] == {"checked": 8, "changed": 8, "new": 3, "missing": 2}


def test_edited_folder_is_done_after_one_run(edited: Path, tree: Path) -> None:
    support.run_ok("bg-chown", "--from", tree, edited)
    after = edited.read_bytes()
    again = support.manifest_of(support.run_ok("bg-chown", "--from", tree, edited))
    assert again["ownership"] == {"checked": 8, "changed": 0, "new": 3, "missing": 2}
    assert edited.read_bytes() == after


def test_check_with_from_tells_every_difference(edited: Path, tree: Path) -> None:
    before = edited.read_bytes()
    done = support.run("bg-chown", "--check", "--from", tree, edited)
    assert done.returncode == 1
    said = done.stderr.decode()
    assert "'/etc' is 1000:1000:0750, not 1:2:0750" in said
    assert "'/etc/new folder/new' is 1000:1000:0644, not 0:0:0644" in said
    assert "only in the tree, or of another type there: '/etc/old'" in said
    assert "10 of 10 inodes differ" in said
    assert edited.read_bytes() == before


def test_what_only_the_image_has_stays_when_the_tree_is_the_manifests(content: Path, tmp_path: Path) -> None:
    made = support.run_ok("bg-mkext4", "-C", tmp_path, stdin=support.run_ok("bg-flatten", "-C", tmp_path, content))
    image = tmp_path / "rootfs.ext4"
    debugfs(image, "mkdir /srv", "sif /srv uid 33", "sif /etc uid 9", write=True)
    owned = support.manifest_of(support.run_ok("bg-chown", stdin=made))
    assert owned["ownership"] == {"checked": 6, "changed": 1}
    assert stat(image, "/srv")[0] == 33
    assert stat(image, "/etc")[0] == 1


def test_tree_with_two_owners_for_one_file_of_the_image_is_refused(edited: Path, tree: Path, tmp_path: Path) -> None:
    debugfs(edited, "ln /again /etc/old", "sif /again links_count 4", write=True)
    before = edited.read_bytes()
    done = support.run("bg-chown", "--from", tree, edited)
    assert done.returncode == 65
    assert "are one file in" in done.stderr.decode()
    assert edited.read_bytes() == before


@pytest.fixture
def image(content: Path, tmp_path: Path) -> Path:
    return Path(support.run_ok("bg-mkext4", "--path", "-C", tmp_path, "--size=16M", content).decode().strip())


def test_maps_change_every_inode_and_keep_ids_in_no_range(image: Path) -> None:
    arguments = ("--map-uid=0:100000:3", "--map-uid=3:4000000000:1", "--map-gid=0:200000:65536")
    support.run_ok("bg-chown", *arguments, image)
    trees.fsck(image)
    assert stat(image, "/")[:2] == (100000, 200000)
    assert stat(image, "/lost+found")[:2] == (100000, 200000)
    assert stat(image, "/etc")[:2] == (100001, 200002)
    assert stat(image, "/etc/shadow") == (100000, 200042, "100640")
    assert stat(image, "/etc/old")[:2] == (4000000000, 200000)
    assert stat(image, "/etc/kind")[:2] == (4, 200000)
    after = image.read_bytes()
    support.run_ok("bg-chown", *arguments, image)
    assert image.read_bytes() == after


def test_tree_then_maps_then_set(image: Path, tree: Path) -> None:
    debugfs(image, "sif /etc uid 999", "sif /etc/old uid 999", write=True)
    shift = ("--map-uid=0:1:65536", "--map-gid=0:1:65536")
    for _ in range(2):  # with the tree, a map whose ranges overlap does not add up
        support.run_ok("bg-chown", "--from", tree, *shift, "--set=/etc/old=7:7:4711", image)
        assert stat(image, "/etc")[:2] == (2, 3)
        assert stat(image, "/etc/old") == (7, 7, "104711")
        assert stat(image, "/lost+found")[:2] == (1, 1)
    trees.fsck(image)
    assert support.run("bg-chown", "--check", "--from", tree, *shift, image).returncode == 1


def test_maps_of_a_manifest_are_recorded(content: Path, tmp_path: Path) -> None:
    made = support.run_ok("bg-mkext4", "-C", tmp_path, stdin=support.run_ok("bg-flatten", "-C", tmp_path, content))
    owned = json.loads(support.run_ok("bg-chown", "--map-uid=0:5:1", stdin=made))
    assert owned["history"][-1]["options"] == {"map-uid": ["0:5:1"]}
    assert owned["ownership"] == {"checked": 7, "changed": 3}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--map-uid=0:1"], "is not A:B:N"),
        (["--map-uid=0:1:-1"], "is not A:B:N"),
        (["--map-uid=0:1:0"], "empty or out of range"),
        (["--map-gid=0:4294967290:10"], "empty or out of range"),
        (["--map-gid=4294967295:0:1"], "empty or out of range"),
        (["--map-uid=0:100:10", "--map-uid=9:200:1"], "overlaps"),
        (["--map-uid=0:100:10", "--map-uid=20:109:1"], "overlaps"),
    ],
)
def test_bad_map_is_refused(arguments: list[str], words: str, image: Path) -> None:
    before = image.read_bytes()
    done = support.run("bg-chown", *arguments, image)
    assert done.returncode == 64
    assert words in done.stderr.decode()
    assert image.read_bytes() == before


def test_ranges_that_touch_and_that_are_of_users_and_of_groups_do_not_overlap(image: Path) -> None:
    support.run_ok("bg-chown", "--map-uid=0:100:10", "--map-uid=10:110:10", "--map-gid=0:100:10", image)
    assert stat(image, "/etc")[:2] == (101, 102)


def test_set_finds_paths_through_symlinked_folders_and_changes_a_symlink_itself(image: Path) -> None:
    debugfs(image, "symlink /bin ../../etc", "symlink /round round", "symlink /etc/link shadow", write=True)
    support.run_ok("bg-chown", "--set=/bin/shadow=8:8", "--set=/bin/../etc/link=9:9", "--set=/bin=10:10", image)
    assert stat(image, "/etc/shadow")[:2] == (8, 8)
    assert stat(image, "/etc/link")[:2] == (9, 9)
    assert stat(image, "/bin")[:2] == (10, 10)
    assert stat(image, "/etc")[:2] == (1, 2)
    assert support.run("bg-chown", "--set=/round/x=1:1", image).returncode == 65


def test_two_settings_of_one_file_must_agree(image: Path) -> None:
    before = image.read_bytes()
    done = support.run("bg-chown", "--set=/again=1:1", "--set=/etc/shadow=1:2", image)
    assert done.returncode == 65
    assert "'/again' and '/etc/shadow' are one file" in done.stderr.decode()
    assert image.read_bytes() == before
    support.run_ok("bg-chown", "--set=/again=1:2", "--set=/etc/shadow=1:2", image)
    assert stat(image, "/again")[:2] == (1, 2)


def test_image_that_needs_nothing_may_be_read_only(image: Path, tree: Path, user: support.OrdinaryUser) -> None:
    for path in (image, tree):
        path.chmod(0o444)
    copy = user.home / "image.ext4"
    copy.write_bytes(image.read_bytes())
    copy.chmod(0o444)
    assert user.run("bg-chown", "--set=/etc=1:2", str(copy)).returncode == 0
    assert user.run("bg-chown", "--set=/etc=1:3", str(copy)).returncode == 77


def test_copy_of_an_image_that_may_only_be_read_can_be_edited(image: Path, user: support.OrdinaryUser) -> None:
    base = user.home / "base.ext4"
    base.write_bytes(image.read_bytes())
    base.chmod(0o444)
    for program, option in (("bg-chown", "--set=/etc=1:3"), ("bg-inject", "--hostname=web")):
        copy = user.home / f"{program}.ext4"
        done = user.run(program, option, "-o", str(copy), str(base))
        assert done.returncode == 0, done.stderr.decode()
        assert copy.stat().st_mode & 0o777 == 0o644
    assert stat(user.home / "bg-chown.ext4", "/etc")[:2] == (1, 3)


def test_image_that_another_program_has_is_left_alone(image: Path) -> None:
    before = image.read_bytes()
    with open(image, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = support.run("bg-chown", "--set=/etc=1:2", image)
        assert (done.returncode, image.read_bytes()) == (75, before), done.stderr.decode()
        debugfs(image, "set_super_value state 0", write=True)  # as long as it is edited
        done = support.run("bg-chown", "--check", "--set=/etc=1:2", image)
    assert done.returncode == 75, done.stderr.decode()


def test_folder_that_an_ordinary_user_edited_goes_back_in(user: support.OrdinaryUser) -> None:
    """The whole round: a tree leaves as a folder, is edited, becomes an image, and gets its owners back."""
    work = user.home / "round"
    with trees.new_tar(user.home / "in.tar") as out:
        trees.add(out, "etc", tarfile.DIRTYPE, mode=0o750, uid=1, gid=2)
        trees.add(out, "etc/shadow", data=b"x", mode=0o640, gid=42)
        trees.add(out, "etc/old", data=b"x", uid=3)
        trees.add(out, "bin/su", data=b"x", mode=0o4755, uid=5)
        trees.add(out, "dev/null", tarfile.CHRTYPE, devmajor=1, devminor=3)
    mine = ["-C", str(user.home), "-f"]

    def run(program: str, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        done = user.run(program, *arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr.decode()
        return done

    run("bg-flatten", *mine, "--dir", str(work), str(user.home / "in.tar"))
    (work / "etc/new").write_text("new")
    (work / "etc/old").unlink()
    made = run("bg-mkext4", *mine, str(work)).stdout
    done = run("bg-chown", "--from", str(user.home / "tree.jsonl"), stdin=made)
    image = user.home / "rootfs.ext4"
    trees.fsck(image)
    assert stat(image, "/etc") == (1, 2, "40750")
    assert stat(image, "/etc/shadow") == (0, 42, "100640")
    assert stat(image, "/etc/new")[:2] == (0, 0)
    assert stat(image, "/bin/su") == (5, 0, "104755")
    listed = done.stderr.decode()
    assert "only in the image, belongs to root now: '/etc/new'" in listed
    assert "only in the tree, or of another type there: '/etc/old'" in listed
    assert "only in the tree, or of another type there: '/dev/null'" in listed
