"""Archives at the ends of what the formats can say: maps of many holes, no entries at all, times before 1970."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from banger_tools import contents, extensions, flatten, pax, tar, tree
from tests import support, trees
from tests.test_flatten_damage import END, header, patched
from tests.test_flatten_damage import pax as records

PIECE = 512  # GNU tar begins each piece in a block of its own


def holed(folder: Path, count: int) -> tree.Tree:
    """Return a tree of one file with so many pieces of data, a hole as long after each of them."""
    (folder / "source").write_bytes(os.urandom(64 * PIECE))
    segments = [(2 * PIECE * n, n % 64 * PIECE, PIECE) for n in range(count)]
    file = tree.Entry("/holes", "file", size=2 * PIECE * count, data=(0, 0), segments=segments)
    return tree.Tree([tree.SourceFile(str(folder / "source"))], [tree.Entry("/", "dir"), file])


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def listed(program: str, archive: Path) -> str:
    """Return the digest of what another program takes out of an archive."""
    command = [program, "-xOf", archive, "holes"]
    return digest(subprocess.run(command, capture_output=True, check=True).stdout)


def test_tar_of_a_file_with_90_000_holes_is_read_by_all(tmp_path: Path) -> None:
    """Its map has more than a megabyte."""
    support.need("bsdtar")
    given = holed(tmp_path, 90_000)
    tree.write(tmp_path / "tree.jsonl", given)
    archive = tmp_path / "made.tar"
    support.run_ok("bg-flatten", "-o", tmp_path / "again.jsonl", f"--tar={archive}", tmp_path / "tree.jsonl")
    assert archive.stat().st_size < 50 << 20
    support.run_ok("bg-flatten", "-o", tmp_path / "read.jsonl", archive)
    ours = tree.read(tmp_path / "read.jsonl")
    wanted = digest(trees.content(given.entries[1], given))
    assert len(ours.entries[1].segments or ()) == 90_000
    assert digest(trees.content(ours.entries[1], ours)) == wanted
    assert [listed(program, archive) for program in ("tar", "bsdtar")] == [wanted] * 2


def test_file_with_more_holes_than_are_read_goes_out_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (extensions, tar):  # what is written, and what is read
        monkeypatch.setattr(module, "MAX_PAIRS", 100)
    for count, keeps in ((99, True), (100, False)):
        given = holed(tmp_path, count)
        archive = tmp_path / f"{count}.tar"
        with open(archive, "wb") as out, contents.opened(given.sources, given.entries) as found:
            pax.write(given, found, out.fileno())
        with open(archive, "rb") as file:
            *_, member = tar.members(file.fileno(), vouched=False)
        assert (member.segments is not None, member.size) == (keeps, 2 * PIECE * count)
        assert listed("tar", archive) == digest(trees.content(given.entries[1], given))


def test_map_of_90_000_pieces_in_one_record(tmp_path: Path) -> None:
    """As GNU tar's version 0.1 has it; bg-fetch rootfs:DIR makes 0.0, and --tar 1.0."""
    count = 90_000
    numbers = ",".join(f"{2 * PIECE * n},{PIECE}" for n in range(count)) + f",{2 * PIECE * count},0"
    assert len(numbers) > extensions.MAX_EXTENDED
    about = {"GNU_sparse_size": str(2 * PIECE * count), "GNU_sparse_numblocks": str(count + 1)}
    info = tarfile.TarInfo("holes")
    info.size = PIECE * count
    # With GNU's own magic in the header GNU tar takes no heed of the map.
    head = records(**about, GNU_sparse_map=numbers) + info.tobuf(tarfile.USTAR_FORMAT)
    (tmp_path / "in.tar").write_bytes(head + b"".join(b"%0512d" % n for n in range(count)) + END)
    support.run_ok("bg-flatten", "-C", tmp_path, tmp_path / "in.tar")
    ours = tree.read(tmp_path / "tree.jsonl")
    assert digest(trees.content(ours.entries[1], ours)) == listed("tar", tmp_path / "in.tar")


def test_odd_map_of_holes_is_refused_as_gnu_tar_does(tmp_path: Path) -> None:
    records_of_map = {"GNU_sparse_size": "1024", "GNU_sparse_numblocks": "1", "GNU_sparse_name": "holes"}
    for numbers, wrong in (("0,512", False), ("0,512,1024", True)):
        data = records(**records_of_map, GNU_sparse_map=numbers) + header(size=512) + b"x" * 512 + END
        (tmp_path / "in.tar").write_bytes(data)
        theirs = subprocess.run(["tar", "-tf", tmp_path / "in.tar"], capture_output=True)
        ours = support.run("bg-flatten", "-C", tmp_path, "-f", tmp_path / "in.tar")
        assert (theirs.returncode != 0, ours.returncode) == (wrong, 65 if wrong else 0), ours.stderr.decode()
    assert b"an offset has no length" in ours.stderr


def empty_commit(folder: Path, archive: Path) -> None:
    """Archive a commit without files: a record for all entries, and no entry."""
    support.need("git")
    git = ["git", "-C", folder, "-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "commit.gpgsign=false"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "nothing"], check=True)
    subprocess.run([*git, "archive", "-o", archive, "HEAD"], check=True)


def label(folder: Path, archive: Path) -> None:
    subprocess.run(["tar", "-C", folder, "--label=nothing", "-cf", archive, "-T", os.devnull], check=True)


@pytest.mark.parametrize("make", [empty_commit, label])
def test_archive_without_entries_is_an_empty_tree(tmp_path: Path, make: Callable[[Path, Path], None]) -> None:
    (tmp_path / "from").mkdir()
    make(tmp_path / "from", tmp_path / "in.tar")
    assert (tmp_path / "in.tar").read_bytes().strip(b"\0")
    support.run_ok("bg-flatten", "-C", tmp_path, tmp_path / "in.tar")
    assert [entry.path for entry in tree.read(tmp_path / "tree.jsonl").entries] == ["/"]


TIMES = ["-1.0000000001", "-0.9999999999", "-0.5", "-1.5", "-2", "-0.0000000001", "1.9999999999", "0.0000000019"]


def test_times_are_rounded_as_gnu_tar_does(tmp_path: Path) -> None:
    with trees.new_tar(tmp_path / "in.tar") as out:
        for number, text in enumerate(TIMES):
            trees.add(out, str(number), pax_headers={"mtime": text})
    support.run_ok("bg-flatten", "-C", tmp_path, tmp_path / "in.tar")
    ours = {entry.path: entry.mtime for entry in tree.read(tmp_path / "tree.jsonl").entries}
    (tmp_path / "theirs").mkdir()
    subprocess.run(["tar", "-C", tmp_path / "theirs", "-xf", tmp_path / "in.tar"], check=True, capture_output=True)
    for number, text in enumerate(TIMES):
        assert ours[f"/{number}"] == divmod((tmp_path / "theirs" / str(number)).stat().st_mtime_ns, 10**9), text


@pytest.mark.parametrize(
    "field", [b"\x80" + (1 << 62).to_bytes(11, "big"), (-(1 << 62)).to_bytes(12, "big", signed=True)]
)
def test_farthest_times_go_through_a_folder_a_tar_and_an_image(field: bytes, tmp_path: Path) -> None:
    """Filesystems keep the nearest that they have; a tar and a tree keep it all."""
    (tmp_path / "in.tar").write_bytes(patched(136, field) + END)
    outputs = [f"--dir={tmp_path}/out", f"--tar={tmp_path}/out.tar"]
    support.run_ok("bg-flatten", "-C", tmp_path, *outputs, tmp_path / "in.tar")
    assert (tmp_path / "out" / "file").exists()
    support.run_ok("bg-flatten", "-o", tmp_path / "again.jsonl", tmp_path / "out.tar")
    again = tree.read(tmp_path / "again.jsonl").entries
    assert again == tree.read(tmp_path / "tree.jsonl").entries
    assert abs(again[1].mtime[0]) == 1 << 62
    support.run_ok("bg-mkext4", "-C", tmp_path, tmp_path / "again.jsonl")
    trees.fsck(tmp_path / "rootfs.ext4")


@pytest.mark.parametrize("major", [4096, (1 << 31) + 5, 1 << 40])
def test_device_that_linux_does_not_know_is_refused_by_name(
    major: int, tmp_path: Path, banger_home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = patched(329, b"\x80" + major.to_bytes(7, "big"), name="odd", type=tarfile.CHRTYPE)
    (tmp_path / "in.tar").write_bytes(data + END)
    status = flatten.main(["-C", str(tmp_path), f"--dir={tmp_path}/out", str(tmp_path / "in.tar")])
    assert (status, f"'/odd' is device {major}:0, and the most" in capfd.readouterr().err) == (65, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "in.tar"]


@pytest.mark.root
def test_xattrs_that_the_filesystem_has_no_block_for_are_counted_as_missing(tmp_path: Path) -> None:
    """Such an ext4 says that the disk is full; a full disk is still an error."""
    with trees.new_tar(tmp_path / "in.tar") as out:
        trees.add(out, "f", pax_headers={"SCHILY.xattr.user.a": "a", "SCHILY.xattr.user.large": "x" * 5000})
    with open(tmp_path / "disk", "wb") as disk:
        disk.truncate(8 << 20)
    subprocess.run(["/sbin/mke2fs", "-q", "-t", "ext4", "-O", "^ea_inode", tmp_path / "disk"], check=True)
    with trees.mounted(tmp_path / "disk", tmp_path / "mount", "loop") as mount:
        done = support.run("bg-flatten", "-C", tmp_path, f"--dir={mount}/out", tmp_path / "in.tar")
        assert done.returncode == 0, done.stderr.decode()
        assert b"1 xattrs" in done.stderr
        assert os.listxattr(mount / "out/f") == ["user.a"]
        with open(mount / "filler", "wb") as filler:
            free = os.statvfs(mount).f_bavail * os.statvfs(mount).f_frsize
            os.posix_fallocate(filler.fileno(), 0, free - (16 << 10))
        done = support.run("bg-flatten", "-C", tmp_path, "-f", f"--dir={mount}/again", tmp_path / "in.tar")
        assert (done.returncode, (mount / "again").exists()) == (74, False), done.stderr.decode()
