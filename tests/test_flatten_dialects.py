"""Archives as other programs write them: GNU tar, bsdtar, busybox, Python, and headers as star has them."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from banger_tools import tree
from tests import folders, support, trees


def flattened(archive: Path, *options: str) -> dict[bytes, trees.Seen]:
    """Return what bg-flatten makes of an archive."""
    out = archive.with_suffix(".jsonl")
    support.run_ok("bg-flatten", "-o", out, *options, archive)
    return trees.of_tree(tree.read(out))


def whole_seconds(seen: dict[bytes, trees.Seen]) -> dict[bytes, trees.Seen]:
    return {path: one._replace(mtime=(one.mtime[0], 0)) for path, one in seen.items()}


@pytest.fixture
def everything(tmp_path: Path) -> Path:
    support.need_root()
    folder = folders.make(tmp_path / "root")
    (folder / "disk-again").unlink()  # tars of others make a second device of it
    return folder


@pytest.mark.root
@pytest.mark.parametrize("sparse", ["--no-hole", "0.0", "0.1", "1.0"])
def test_gnu_pax_archive_with_everything(everything: Path, tmp_path: Path, sparse: str) -> None:
    flags = ["--xattrs", "--xattrs-include=*", "--acls", "--format=posix", "--numeric-owner"]
    flags += [] if sparse == "--no-hole" else ["--sparse", f"--sparse-version={sparse}"]
    subprocess.run(["tar", "-C", everything, *flags, "-cf", tmp_path / "in.tar", "."], check=True)
    assert trees.differences(flattened(tmp_path / "in.tar"), trees.of_folder(everything)) == []


@pytest.mark.root
@pytest.mark.parametrize("form", ["pax", "restricted pax"])
def test_bsdtar_archive_with_everything(everything: Path, tmp_path: Path, form: str) -> None:
    support.need("bsdtar")
    os.utime(everything / "old", (0, 0))  # bsdtar writes fractions before 1970 as it reads them
    flags = ["--acls", "--xattrs", "--numeric-owner", f"--format={form.replace('restricted pax', 'pax')}"]
    flags += ["--read-sparse"] if form == "pax" else ["--no-read-sparse"]
    subprocess.run(["bsdtar", "-C", everything, *flags, "-cf", tmp_path / "in.tar", "."], check=True)
    ours, wanted = flattened(tmp_path / "in.tar"), trees.of_folder(everything)
    assert trees.differences(ours, wanted) == []


@pytest.mark.parametrize("writer", ["bsdtar ustar", "bsdtar gnutar", "bsdtar v7tar", "busybox", "python gnu"])
def test_plain_archives(tmp_path: Path, writer: str) -> None:
    source = tmp_path / "root"
    (source / "sub").mkdir(parents=True)
    (source / "sub/file").write_text("content")
    (source / "sub/set-id").write_text("x")
    (source / "sub/set-id").chmod(0o6711)
    (source / "soft").symlink_to("sub/file")
    (source / "hard").hardlink_to(source / "sub/file")
    if writer not in ("bsdtar ustar", "bsdtar v7tar"):
        (source / ("n" * 120)).write_text("long")
        (source / "to-long").symlink_to("t" * 120)
    archive = tmp_path / "in.tar"
    program, _, form = writer.partition(" ")
    if program == "python":
        with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as out:
            out.add(source, ".")
    else:
        support.need(program)
        flags = [f"--format={form}"] if form else []
        command = ["busybox", "tar"] if program == "busybox" else [program]
        subprocess.run([*command, "-C", source, *flags, "-cf", archive, "."], check=True)
    assert trees.differences(whole_seconds(flattened(archive)), whole_seconds(trees.of_folder(source))) == []


def test_acl_that_names_a_user_only_by_name_is_left_out_with_a_warning(tmp_path: Path) -> None:
    with trees.new_tar(tmp_path / "in.tar") as out:
        text = "user::rw-,user:somebody:r--,group::r--,mask::r--,other::r--"
        trees.add(out, "f", pax_headers={"SCHILY.acl.access": text})
    done = support.run("bg-flatten", "-C", tmp_path, tmp_path / "in.tar")
    assert done.returncode == 0
    assert b"'somebody'" in done.stderr
    assert tree.read(tmp_path / "tree.jsonl").entries[1].xattrs is None


def test_acl_of_star_has_the_id_in_a_field_of_its_own(tmp_path: Path) -> None:
    with trees.new_tar(tmp_path / "in.tar") as out:
        text = "user::rw-,user:somebody:r--:1000,group::r--,mask::rw-,other::r--"
        trees.add(out, "f", pax_headers={"SCHILY.acl.access": text})
    (seen,) = [one for path, one in flattened(tmp_path / "in.tar").items() if path == b"/f"]
    assert dict(seen.xattrs)["system.posix_acl_access"] == folders.ACL


@pytest.mark.parametrize(
    "named", ["king::rwx", "user:4294967295:rwx", "user:9999999999:rwx", f"user:x:rwx:{'9' * 5000}"], ids=len
)
def test_malformed_acl_is_an_error(named: str, tmp_path: Path) -> None:
    with trees.new_tar(tmp_path / "in.tar") as out:
        trees.add(out, "f", pax_headers={"SCHILY.acl.access": f"user::rw-,{named},group::r--,other::r--"})
    assert support.run("bg-flatten", "-C", tmp_path, tmp_path / "in.tar").returncode == 65


def header(name: str, kind: bytes, tail: bytes, prefix: bytes = b"") -> bytes:
    """Return a header with the magic of ustar whose last 12 bytes, and prefix, are as star has them."""
    info = tarfile.TarInfo(name)
    info.type, info.mtime = kind, 1
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    block[345 : 345 + len(prefix)] = prefix
    block[500:512] = tail
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, b"D", tarfile.XHDTYPE])
def test_size_that_leads_back_is_refused(tmp_path: Path, kind: bytes) -> None:
    """A reader that believed it would read the same header for ever."""
    info = tarfile.TarInfo("back")
    info.type = kind
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = (-512).to_bytes(12, "big", signed=True)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    (tmp_path / "in.tar").write_bytes(bytes(block) + bytes(1024))
    done = support.run("bg-flatten", "-C", tmp_path, tmp_path / "in.tar", timeout=20)
    assert done.returncode == 65
    assert b"byte 0" in done.stderr


STAR = bytes(8) + b"tar\0"


def test_prefix_of_star_ends_before_its_times(tmp_path: Path) -> None:
    prefix = b"folder".ljust(131, b"\0") + b"00000000017 00000000017 "
    (tmp_path / "in.tar").write_bytes(header("file", tarfile.REGTYPE, STAR, prefix) + bytes(1024))
    assert set(flattened(tmp_path / "in.tar")) == {b"/", b"/folder", b"/folder/file"}


@pytest.mark.parametrize("size", [2**63, 2**62 + 1])
def test_sparse_file_of_an_impossible_size_is_refused(size: int, tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(size)}
    info.size = 512
    (tmp_path / "in.tar").write_bytes(info.tobuf(tarfile.PAX_FORMAT) + b"0\n".ljust(512, b"\0") + bytes(1024))
    done = support.run("bg-flatten", "-C", tmp_path, f"--dir={tmp_path}/out", tmp_path / "in.tar")
    assert done.returncode == 65 and f"size {size} of the sparse entry".encode() in done.stderr


def test_sparse_file_of_star_is_refused_and_not_misread(tmp_path: Path) -> None:
    (tmp_path / "in.tar").write_bytes(header("file", tarfile.GNUTYPE_SPARSE, STAR) + bytes(1024))
    done = support.run("bg-flatten", "-C", tmp_path, tmp_path / "in.tar")
    assert done.returncode == 65
    assert b"star" in done.stderr


@pytest.mark.parametrize("form", ["posix", "gnu", "oldgnu"])
def test_long_name_that_its_header_cuts_after_a_slash_is_no_folder(tmp_path: Path, form: str) -> None:
    source = tmp_path / "root"
    for length in range(95, 103):
        folder = source / "/".join(["d" * 30, "e" * (length - 32)])
        folder.mkdir(parents=True)
        (folder / "file").write_text("content")
        folders.sparse(folder / "holes", 1 << 20, {1 << 19: b"data"})
    command = ["tar", "-C", source, f"--format={form}", "--sparse", "-cf", tmp_path / "in.tar", "."]
    subprocess.run(command, check=True)
    ours, wanted = flattened(tmp_path / "in.tar"), trees.of_folder(source)
    assert trees.differences(whole_seconds(ours), whole_seconds(wanted)) == []


def test_global_records_hold_until_others_come(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "in.tar", "w", format=tarfile.PAX_FORMAT, pax_headers={"uid": "3000000"}) as out:
        trees.add(out, "one")
        trees.add(out, "two", pax_headers={"uid": "7"})
    seen = flattened(tmp_path / "in.tar")
    assert (seen[b"/one"].uid, seen[b"/two"].uid) == (3_000_000, 7)


@pytest.mark.parametrize("program", ["gzip", "zstd", "xz", "bzip2"])
def test_compressed_archive_is_read_and_its_data_stays(tmp_path: Path, banger_home: Path, program: str) -> None:
    support.need(program)
    with trees.new_tar(tmp_path / "in.tar") as out:
        trees.add(out, "f", data=b"content")
    wanted = flattened(tmp_path / "in.tar")
    subprocess.run([program, "-q", "-f", tmp_path / "in.tar"], check=True)
    (packed,) = tmp_path.glob("in.tar.*")
    assert flattened(packed) == wanted
    (tmp_path / "empty").mkdir()
    assert flattened(tmp_path / "empty", f"--layer={packed}")[b"/f"] == wanted[b"/f"]
    whole = packed.read_bytes()
    packed.write_bytes(whole[:-5])
    assert support.run("bg-flatten", "-C", tmp_path, packed).returncode == 65


def test_extension_headers_that_are_too_large_are_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("huge")
    info.type, info.size = tarfile.XHDTYPE, 1 << 30
    (tmp_path / "in.tar").write_bytes(info.tobuf() + io.BytesIO(bytes(1 << 20)).getvalue())
    assert support.run("bg-flatten", "-C", tmp_path, tmp_path / "in.tar").returncode == 65
