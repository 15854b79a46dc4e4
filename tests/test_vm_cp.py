"""banger vm cp: files and folders, both ways, by the rules of cp(1)."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger_tools import errors
from banger_tools.vmm import transfer
from tests import support
from tests.boots import guest, said

pytestmark = [pytest.mark.boot, pytest.mark.usefixtures("home")]

# Times are those of files, in seconds: the guest knows no others
LISTED = r"cd {} && find . -type f -printf '%p %M %U:%G %Ts\n' -o -printf '%p %M %U:%G %l\n' | sort"


@pytest.fixture
def there(visited: str) -> Iterator[str]:
    """A folder of the machine that is empty."""
    said(visited, "mkdir /tmp/there")
    yield f"{visited}:/tmp/there"
    said(visited, "rm -rf /tmp/there")


def cp(*words: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return support.run("banger", "vm", "cp", *words, stdin=stdin)


def cp_ok(*words: str | Path, stdin: bytes = b"") -> bytes:
    return support.run_ok("banger", "vm", "cp", *words, stdin=stdin)


def listed(folder: Path) -> bytes:
    return subprocess.run(["sh", "-c", LISTED.format(folder)], capture_output=True, check=True).stdout


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with all that a folder may hold."""
    site = tmp_path / "site"
    (site / "sub").mkdir(parents=True)
    (site / "index").write_bytes(os.urandom(300_000))
    (site / "sub" / "tool").write_text("#!/bin/sh\n")
    (site / "sub" / "tool").chmod(0o750)
    (site / "sub" / "again").hardlink_to(site / "index")
    (site / "absolute").symlink_to("/etc/passwd")
    (site / "empty").touch()
    (site / os.fsdecode(b"caf\xe9 \xc3\xa9\n")).write_text("odd name")
    os.mkfifo(site / "fifo")
    os.utime(site / "empty", (1e9, 1e9))
    return site


def test_folder_goes_there_and_back_as_it_is(site: Path, there: str, tmp_path: Path) -> None:
    cp_ok(site, there)
    cp_ok(f"{there}/site", tmp_path / "back")
    assert listed(tmp_path / "back") == listed(site)
    assert (tmp_path / "back" / "index").read_bytes() == (site / "index").read_bytes()
    assert (tmp_path / "back" / "index").stat().st_nlink == 2
    assert os.readlink(tmp_path / "back" / "absolute") == "/etc/passwd"
    assert support.leftovers(tmp_path) == []


@pytest.mark.root
def test_owner_is_root_in_the_guest_unless_all_is_kept(tmp_path: Path, there: str, visited: str) -> None:
    (tmp_path / "file").touch()
    os.chown(tmp_path / "file", 1234, 4321)
    (tmp_path / "file").chmod(0o4755)
    for option, owner in (("-q", "0:0"), ("--archive", "1234:4321")):
        cp_ok(option, tmp_path / "file", there)
        assert said(visited, "stat -c %u:%g /tmp/there/file").strip() == owner
    for option, seen in (("-q", (os.geteuid(), 0o755)), ("-a", (1234, 0o4755))):
        cp_ok(option, f"{there}/file", tmp_path / "back")
        found = (tmp_path / "back").stat()
        assert (found.st_uid, stat.S_IMODE(found.st_mode)) == seen


@pytest.mark.root
def test_ordinary_user_gets_what_is_roots_in_the_guest(user: support.OrdinaryUser, home: Path, visited: str) -> None:
    """Through a pipe between root, who has the machine, and the user."""
    said(visited, "mkdir -p /tmp/box && echo x > /tmp/box/f && chmod 0700 /tmp/box && chmod 0400 /tmp/box/f")
    archive = user.home / "box.tar"
    archive.write_bytes(cp_ok(f"{visited}:/tmp/box", "-"))
    support.give(archive, user)
    script = (
        "from pathlib import Path; from banger_tools.vmm import transfer;"
        "Path('box').mkdir(); room = transfer.Room(Path('box'), transfer.place('box:/x'));"
        "transfer._unpack(Path('box.tar'), Path('box'), room, archive=False)"
    )
    python = Path(user.argv("banger")[-1]).parent.parent / ".venv" / "bin" / "python"
    environment = {"PYTHONPATH": str(python.parent.parent.parent)}
    done = user.run(str(python), "-P", "-c", script, env=environment)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""
    assert (user.home / "box" / "box" / "f").stat().st_uid == user.home.stat().st_uid
    said(visited, "rm -r /tmp/box")


def test_rules_of_cp_hold_in_the_guest(tmp_path: Path, there: str, visited: str) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "inner").write_text("inner")
    cp_ok(tmp_path / "one", f"{there}/renamed")
    cp_ok(tmp_path / "one", tmp_path / "two", f"{there}/")
    cp_ok(tmp_path / "two", f"{there}/one")
    cp_ok(folder, f"{there}/made")
    cp_ok(folder, f"{there}/made")
    cp_ok(f"{folder}/.", there)
    found = said(visited, "cd /tmp/there; for f in $(find . -type f | sort); do echo $f $(cat $f); done")
    assert found.split("\n")[:-1] == [
        "./inner inner",
        "./made/folder/inner inner",
        "./made/inner inner",
        "./one two",
        "./renamed one",
        "./two two",
    ]


def test_rules_of_cp_hold_here(tmp_path: Path, there: str, visited: str) -> None:
    said(visited, "cd /tmp/there; mkdir folder; for f in one two folder/inner; do echo $f > $f; done")
    cp_ok(f"{there}/one", tmp_path / "renamed")
    cp_ok(f"{there}/one", f"{there}/two", tmp_path)
    cp_ok(f"{there}/two", tmp_path / "one")
    cp_ok(f"{there}/folder", tmp_path / "made")
    cp_ok(f"{there}/folder/", f"{tmp_path / 'made'}/")
    cp_ok(f"{there}/folder/.", tmp_path)
    found = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {
        "renamed": "one\n",
        "one": "two\n",
        "two": "two\n",
        "made/inner": "folder/inner\n",
        "made/folder/inner": "folder/inner\n",
        "inner": "folder/inner\n",
    }


def test_relative_path_is_below_the_home_of_root(tmp_path: Path, visited: str) -> None:
    (tmp_path / "note").write_text("hello")
    cp_ok(tmp_path / "note", f"{visited}:")
    assert said(visited, "cat /root/note; rm /root/note") == "hello"


def test_streams_are_archives(tmp_path: Path, there: str, visited: str) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("a/b")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))
    cp_ok("-", there, stdin=packed.getvalue())
    assert said(visited, "cat /tmp/there/a/b") == "abc"
    with tarfile.open(fileobj=io.BytesIO(cp_ok(f"{there}/a", "-"))) as archive:
        assert archive.getnames() == ["a", "a/b"]


def test_what_cannot_be_put_there_is_said_and_nothing_is_made(tmp_path: Path, there: str, visited: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    said(visited, "touch /tmp/there/file; mkdir /tmp/there/folder")
    before = said(visited, "find /tmp/there"), sorted(tmp_path.rglob("*"))
    wrong: list[tuple[list[str | Path], int, str]] = [
        ([tmp_path / "file", f"{there}/no/such"], 73, "there is no folder"),
        ([tmp_path / "file", f"{there}/new/"], 73, "there is no folder"),
        ([tmp_path / "file", f"{there}/file/"], 73, "is no folder"),
        ([tmp_path / "folder", f"{there}/file"], 73, "is no folder"),
        ([tmp_path / "file", tmp_path / "folder", f"{there}/file"], 73, "several things"),
        (["-", f"{there}/nowhere"], 73, "there is no folder"),
        ([tmp_path / "missing", there], 66, "missing"),
        ([f"{there}/missing", tmp_path], 66, "missing"),
        ([f"{there}/file", tmp_path / "no" / "such"], 73, "there is no folder"),
        ([f"{there}/file", f"{tmp_path}/new/"], 73, "there is no folder"),
        ([f"{there}/folder", tmp_path / "file"], 73, "no folder"),
        ([f"{there}/file", tmp_path / "file" / "x"], 73, "there is no folder"),
        ([f"{there}/file", f"{there}/other"], 64, "same side"),
        ([tmp_path / "file", tmp_path / "other"], 64, "same side"),
        (["nosuch:/x", tmp_path], 66, "nosuch"),
    ]
    for words, status, message in wrong:
        done = cp(*words)
        assert (done.returncode, message in done.stderr.decode()) == (status, True), (words, done.stderr)
    assert (said(visited, "find /tmp/there"), sorted(tmp_path.rglob("*"))) == before


def test_symlink_that_came_before_leads_nothing_out_of_the_target(tmp_path: Path, there: str, visited: str) -> None:
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    target.mkdir()
    said(visited, f"cd /tmp/there; mkdir d; ln -s {outside} d/way")
    cp_ok(f"{there}/d/.", target)
    said(visited, "cd /tmp/there; rm d/way; mkdir d/way; echo evil > d/way/file")
    done = cp(f"{there}/d/.", target)
    assert (done.returncode, b"is no folder" in done.stderr) == (73, True)
    assert list(outside.iterdir()) == []


def test_device_is_left_out_unless_all_is_kept(tmp_path: Path, visited: str) -> None:
    done = cp(f"{visited}:/dev/null", tmp_path)
    assert (done.returncode, b"1 devices were left out" in done.stderr) == (65, True)
    assert list(tmp_path.iterdir()) == []


def tar_of(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    return path


def room(folder: Path) -> transfer.Room:
    return transfer.Room(folder, transfer.place("web:/x"))


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "members",
    [
        [member("../evil")],
        [member("a/../../evil")],
        [member("hard", tarfile.LNKTYPE, "../outside")],
        [member("way", tarfile.SYMTYPE, "/tmp"), member("way/../../evil")],
    ],
    ids=lambda members: members[-1].name,
)
def test_hostile_archive_of_a_guest_is_refused(members: list[tarfile.TarInfo], tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    with pytest.raises(errors.BadInput):
        transfer._unpack(tar_of(tmp_path / "evil.tar", *members), tmp_path / "tree", room(tmp_path), archive=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.tar", "tree"]


def test_absolute_names_and_links_of_a_guest_stay_inside(tmp_path: Path) -> None:
    inner = tmp_path / "tree"
    inner.mkdir()
    way = [member("way", tarfile.SYMTYPE, str(tmp_path)), member("way/file"), member("/etc/file")]
    transfer._unpack(tar_of(tmp_path / "odd.tar", *way), inner, room(tmp_path), archive=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["odd.tar", "tree"]
    assert (inner / "etc" / "file").is_file()


def test_broken_name_of_a_place_is_a_file_of_this_host() -> None:
    assert transfer.place("./web:x") == (None, "./web:x")
    assert transfer.place("/a/web:x") == (None, "/a/web:x")
    assert transfer.place("Web:x") == (None, "Web:x")
    assert transfer.place("web:x") == ("web", "/root/x")
    assert transfer.place("web:/x:y") == ("web", "/x:y")


def test_machine_that_does_not_run_is_said_to(home: Path, visited: str, tmp_path: Path) -> None:
    support.run_ok("bg-boot", "--image=tiny", "--name=resting", "--no-start")
    try:
        done = cp("resting:/etc", tmp_path)
        assert (done.returncode, b"banger vm start resting" in done.stderr) == (73, True)
    finally:
        support.run("banger", "vm", "delete", "resting", "--force")
    assert guest(visited, "true").returncode == 0
