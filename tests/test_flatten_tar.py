"""The tar that bg-flatten writes, judged by GNU tar, bsdtar, Python and umoci; and bg-flatten reading it back."""

from __future__ import annotations

import hashlib
import io
import os
import pty
import subprocess
import tarfile
from pathlib import Path

import pytest

from banger_tools import tree
from tests import folders, support, trees
from tests.stacks import comparable, umoci_unpack


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    support.need_root()
    return folders.make(tmp_path_factory.mktemp("everything") / "root")


@pytest.fixture(scope="module")
def archive(everything: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "made.tar"
    support.run_ok("bg-flatten", "-C", path.parent, f"--tar={path}", everything)
    return path


@pytest.mark.root
def test_gnu_tar_extracts_everything(everything: Path, archive: Path, tmp_path: Path) -> None:
    flags = ["--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "--same-owner", "-p"]
    done = subprocess.run(["tar", "-C", tmp_path, *flags, "-xf", archive], capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if "time stamp" not in line and "hdrcharset" not in line]
    assert (done.returncode, said) == (0, [])
    assert trees.differences(trees.of_folder(tmp_path), trees.of_folder(everything)) == []


@pytest.mark.root
def test_bsdtar_extracts_everything(everything: Path, archive: Path, tmp_path: Path) -> None:
    support.need("bsdtar")
    flags = ["--acls", "--xattrs", "--numeric-owner", "--same-owner", "-p"]
    done = subprocess.run(["bsdtar", "-C", tmp_path, *flags, "-xf", archive], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    ours, wanted = trees.of_folder(tmp_path), trees.of_folder(everything)
    # bsdtar takes -1.5 for half a second after -1, knows nothing of GNU tar's quoting, and writes to the root last
    for path in (b"/", b"/old"):
        ours[path] = ours[path]._replace(mtime=wanted[path].mtime)
    for path in (b"/small", b"/dir/hard"):
        assert len(ours[path].xattrs) == len(wanted[path].xattrs)
        ours[path] = ours[path]._replace(xattrs=wanted[path].xattrs)
    assert trees.differences(ours, wanted) == []


@pytest.mark.root
def test_runtimes_unpack_everything(everything: Path, archive: Path, tmp_path: Path) -> None:
    support.need("umoci")
    wanted = comparable(trees.of_folder(everything))
    ours = comparable(trees.of_folder(umoci_unpack([archive.read_bytes()], tmp_path)))
    for path in (b"/small", b"/dir/hard"):  # Go drops empty xattrs, and knows nothing of GNU tar's quoting
        assert dict(ours[path].xattrs)["security.capability"] == folders.CAPABILITY
        ours[path] = ours[path]._replace(xattrs=wanted[path].xattrs)
    assert trees.differences(ours, wanted) == []


@pytest.mark.root
def test_our_own_reading_gives_the_same_tree(everything: Path, archive: Path, tmp_path: Path) -> None:
    support.run_ok("bg-flatten", "-C", tmp_path, archive)
    ours = trees.of_tree(tree.read(tmp_path / "tree.jsonl"))
    assert trees.differences(ours, trees.of_folder(everything)) == []


@pytest.mark.root
def test_python_reads_every_name_and_content(everything: Path, archive: Path) -> None:
    found = {}
    with tarfile.open(archive) as opened:
        for member in opened:
            file = opened.extractfile(member) if member.isreg() else None
            found[os.fsencode(member.name)] = hashlib.sha256(file.read()).hexdigest() if file else ""
    wanted = {path.lstrip(b"/") or b".": seen for path, seen in trees.of_folder(everything).items()}
    assert found.keys() == wanted.keys()
    assert {n: c for n, c in found.items() if c} == {n: s.content for n, s in wanted.items() if found[n]}


@pytest.mark.root
def test_holes_take_no_room_and_stay_holes(archive: Path, tmp_path: Path) -> None:
    assert archive.stat().st_size < 600_000
    subprocess.run(["tar", "-C", tmp_path, "-xf", archive, "hole-in-front", "nothing-but-hole"], check=True)
    assert (tmp_path / "hole-in-front").stat().st_blocks <= 8
    assert (tmp_path / "nothing-but-hole").stat().st_blocks == 0


@pytest.mark.root
def test_same_tree_gives_the_same_bytes_on_stdout(everything: Path, archive: Path, tmp_path: Path) -> None:
    out = support.run_ok("bg-flatten", "-C", tmp_path, "--tar=-", everything)
    assert out == archive.read_bytes()
    assert list(tmp_path.iterdir()) == []


def test_file_of_more_than_8_gib(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    folders.sparse(tmp_path / "in/huge", 9 << 30, {(9 << 30) - 5: b"end.\n"})
    support.run_ok("bg-flatten", "-C", tmp_path, f"--tar={tmp_path}/out.tar", tmp_path / "in")
    subprocess.run(["tar", "-C", tmp_path, "-xf", tmp_path / "out.tar"], check=True)
    with open(tmp_path / "huge", "rb") as file:
        assert os.fstat(file.fileno()).st_size == 9 << 30
        file.seek(-5, io.SEEK_END)
        assert file.read() == b"end.\n"


def test_header_of_a_plain_file_of_more_than_8_gib_says_its_size(tmp_path: Path) -> None:
    """All data and no hole: read as far as the header, and then no more is written."""
    (tmp_path / "in").mkdir()
    folders.sparse(tmp_path / "in/huge", 9 << 30, {})
    support.run_ok("bg-flatten", "-C", tmp_path, tmp_path / "in")
    found = tree.read(tmp_path / "tree.jsonl")
    found.entries[1].segments = None
    process = subprocess.Popen(
        support.argv("bg-flatten", "--tar=-", edited(found, tmp_path)), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        head = process.stdout.read(3072)
        process.stdout.close()
    with tarfile.open(fileobj=io.BytesIO(head)) as archive:
        archive.next()
        member = archive.next()
    assert member is not None
    assert (member.name, member.size) == ("huge", 9 << 30)


def edited(found: tree.Tree, where: Path) -> Path:
    path = where / "edited.jsonl"
    tree.write(path, found)
    return path


def test_manifest_goes_to_its_own_file_when_the_tar_takes_stdout(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    out = support.run_ok("bg-flatten", "-C", tmp_path, "--tar=-", f"--manifest={tmp_path}/m.json", tmp_path / "in")
    assert [member.name for member in tarfile.open(fileobj=io.BytesIO(out))] == ["."]
    manifest = support.manifest_of((tmp_path / "m.json").read_bytes())
    assert Path(manifest["tree"]["path"]).exists()


def test_tar_and_manifest_are_not_replaced_unless_forced(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "there").write_text("mine")
    for option in ("--tar", "--manifest"):
        done = support.run("bg-flatten", "-C", tmp_path, f"{option}={tmp_path}/there", tmp_path / "in")
        assert done.returncode == 73
        assert (tmp_path / "there").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "there"]
    support.run_ok("bg-flatten", "-C", tmp_path, "-f", f"--tar={tmp_path}/there", tmp_path / "in")
    assert tarfile.is_tarfile(tmp_path / "there")


@pytest.mark.parametrize("options", [["--tar=x", "--dir=x"], ["--tar=tree.jsonl"], ["--manifest=x", "-f", "-o", "x"]])
def test_one_name_for_two_outputs_is_refused_before_the_work(tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "in").mkdir()
    done = support.run("bg-flatten", *options, tmp_path / "in", cwd=tmp_path)
    assert done.returncode == 64
    assert b"is to be two outputs" in done.stderr
    assert os.listdir(tmp_path) == ["in"]


def test_tar_is_never_written_to_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    leader, follower = pty.openpty()
    try:
        command = support.argv("bg-flatten", "--tar=-", tmp_path / "in")
        done = subprocess.run(command, stdout=follower, stderr=subprocess.PIPE, cwd=tmp_path)
    finally:
        os.close(leader)
        os.close(follower)
    assert done.returncode == 64
    assert b"stdout is a terminal" in done.stderr


def test_path_and_tar_on_stdout_are_a_usage_error(tmp_path: Path) -> None:
    assert support.run("bg-flatten", "--tar=-", "--path", tmp_path, cwd=tmp_path).returncode == 64


@pytest.mark.parametrize("others", [[], ["--manifest=m.json", "--dir=out"]])
def test_reader_that_goes_away_ends_it_silently(tmp_path: Path, others: list[str]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/large").write_bytes(bytes(10 << 20))
    command = support.argv("bg-flatten", "--tar=-", *others, tmp_path / "in")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (141, b"")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_tar_may_be_appended_to_a_file(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/large").write_bytes(os.urandom(1 << 20))
    whole = support.run_ok("bg-flatten", "--tar=-", tmp_path / "in", cwd=tmp_path)
    with open(tmp_path / "out", "ab") as file:
        file.write(b"before")
        file.flush()
        command = support.argv("bg-flatten", "--tar=-", tmp_path / "in")
        subprocess.run(command, stdout=file, check=True, cwd=tmp_path)
    assert (tmp_path / "out").read_bytes() == b"before" + whole


@pytest.mark.root
def test_full_disk_leaves_no_output(small_disk: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/large").write_bytes(os.urandom(9 << 20))
    for option in ("--tar", "--dir"):
        done = support.run("bg-flatten", "-C", small_disk, f"{option}={small_disk}/out", tmp_path / "in")
        assert done.returncode == 74, done.stderr.decode()
        assert list(small_disk.iterdir()) == []


def test_device_number_that_no_tar_holds_is_refused_by_name(tmp_path: Path) -> None:
    with trees.new_tar(tmp_path / "layer.tar") as out:
        trees.add(out, "dev/odd", kind=tarfile.CHRTYPE, devmajor=1, devminor=3)
    support.run_ok("bg-flatten", "-o", tmp_path / "tree", tmp_path / "layer.tar")
    lines = (tmp_path / "tree").read_text().replace('"rdev":[1,3]', '"rdev":[1,2097152]')
    (tmp_path / "tree").write_text(lines)
    done = support.run("bg-flatten", "--tar", tmp_path / "made.tar", tmp_path / "tree")
    assert done.returncode == 65
    assert "'/dev/odd' has device numbers that a tar cannot hold: 1, 2097152" in done.stderr.decode()
    assert not (tmp_path / "made.tar").exists()


def test_acl_that_is_malformed_leaves_as_the_xattr_that_it_came_as(tmp_path: Path) -> None:
    with trees.new_tar(tmp_path / "layer.tar") as out:
        trees.add(out, "odd", pax_headers={"SCHILY.xattr.system.posix_acl_access": "no ACL"})
    support.run_ok("bg-flatten", "-C", tmp_path, "--tar", tmp_path / "made.tar", tmp_path / "layer.tar")
    with tarfile.open(tmp_path / "made.tar") as made:
        records = made.getmember("odd").pax_headers
    assert records == {"SCHILY.xattr.system.posix_acl_access": "no ACL"}
