"""Archives changed at random: an answer or an error, within bounds of time and memory; never a crash.

BANGER_TEST_FUZZ=100000 tries as many, for twenty minutes.
"""

from __future__ import annotations

import io
import os
import resource
import signal
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from banger_tools import errors, layers, tar, tree
from tests import folders, support, trees

BLOCK = 512
SECONDS = 5  # an archive of some ten kilobytes takes milliseconds
MEMORY = 512 << 20
EXAMPLES = int(os.environ.get("BANGER_TEST_FUZZ", "300"))


def pax() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "global"}) as archive:
        trees.add(archive, "folder", tarfile.DIRTYPE)
        trees.add(archive, "folder/" + "n" * 150, data=b"long", mtime=-1.5, uid=3_000_000)
        acl = folders.ACL.decode("utf-8", "surrogateescape")
        records = {"SCHILY.xattr.user.x": "1", "LIBARCHIVE.xattr.user.y": "MQ==", "SCHILY.xattr.security.z": acl}
        trees.add(archive, "x", data=b"x" * 700, pax_headers=records)
        trees.add(
            archive, "y", pax_headers={"SCHILY.acl.access": "user::rw-,user:1:r--,group::r--,mask::r--,other::---"}
        )
        trees.add(archive, "soft", tarfile.SYMTYPE, linkname="t" * 150)
        trees.add(archive, "hard", tarfile.LNKTYPE, linkname="x")
        trees.add(archive, "null", tarfile.CHRTYPE, devmajor=1, devminor=3)
        trees.add(archive, "folder/.wh.gone")
        trees.add(archive, "folder/.wh..wh..opq")
    return out.getvalue()


def gnu() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        trees.add(archive, "n" * 150, data=b"long", mtime=-5, uid=3_000_000)
        trees.add(archive, "soft", tarfile.SYMTYPE, linkname="t" * 150)
    return out.getvalue()


def sparse(*options: str) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        folders.sparse(Path(name) / "f", 1 << 20, dict.fromkeys(range(0, 1 << 20, 200_000), b"data"))
        done = subprocess.run(
            ["tar", "-C", name, "--sparse", *options, "-cf", "-", "f"], capture_output=True, check=True
        )
        return done.stdout


SEEDS = [
    pax(),
    gnu(),
    sparse("--format=gnu"),
    *(sparse("--format=posix", f"--sparse-version={version}") for version in ("0.0", "0.1", "1.0")),
]


def resum(data: bytearray) -> None:
    """Give every block that looks like a header a checksum that is right, so that what it says is looked at."""
    for start in range(0, len(data) - BLOCK + 1, BLOCK):
        if data[start + 257 : start + 262] == b"ustar":
            data[start + 148 : start + 156] = b" " * 8
            data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + BLOCK])


def test_seeds_are_archives() -> None:
    for data in SEEDS:
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.flush()
            assert list(tar.members(file.fileno(), vouched=False))


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    """A valid archive that was cut, spliced, shuffled or overwritten in a few places."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        block = place // BLOCK * BLOCK
        match draw(st.sampled_from(["flip", "write", "field", "cut", "double", "drop", "splice"])):
            case "flip" if data:
                data[place] ^= 1 << draw(st.integers(0, 7))
            case "write":
                piece = draw(st.binary(min_size=1, max_size=20))
                data[place : place + len(piece)] = piece
            case "field":  # a number: size, mode, owner or device
                at = block + draw(st.sampled_from([100, 108, 116, 124, 136, 329, 337, 386, 398, 483]))
                piece = draw(
                    st.sampled_from([b"7" * 11, b"\xff" * 12, b"\x80" + b"\xff" * 11, b"-1", b"9", b"00000000000\0"])
                )
                data[at : at + len(piece)] = piece
            case "cut":
                del data[place:]
            case "double":
                data[block:block] = data[block : block + BLOCK * draw(st.integers(1, 4))]
            case "drop":
                del data[block : block + BLOCK]
            case "splice":
                other = draw(st.sampled_from(SEEDS))
                data[block:] = other[draw(st.integers(0, len(other) // BLOCK)) * BLOCK :]
    if draw(st.integers(0, 3)):
        resum(data)
    return bytes(data)


@contextmanager
def deadline() -> Iterator[None]:
    """Fail if the body takes longer than it ever should."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"still at it after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Let this process take no more than so much memory beyond what it has."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@given(st.lists(mutants(), min_size=1, max_size=2), st.booleans())
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_changed_archives_give_a_sound_tree_or_an_error(stack: list[bytes], vouched: bool) -> None:
    with tempfile.TemporaryDirectory() as name, deadline(), bounded_memory():
        paths = []
        for number, data in enumerate(stack):
            paths.append(Path(name) / str(number))
            paths[-1].write_bytes(data)
        opened = [open(path, "rb") for path in paths]
        try:
            archives = [(str(n), tar.members(file.fileno(), vouched=vouched)) for n, file in enumerate(opened)]
            entries = layers.merge(archives).tree_entries()
        except errors.BadInput:
            return
        finally:
            for file in opened:
                file.close()
        assert_sound(tree.Tree([tree.SourceFile(str(path), size=path.stat().st_size) for path in paths], entries), name)


def assert_sound(found: tree.Tree, where: str) -> None:
    """What was accepted can be written, read again, and all its data is inside the archives."""
    path = Path(where) / "tree.jsonl"
    tree.write(path, found)
    again = tree.read(path)
    assert again.entries == found.entries
    for entry in found.entries:
        if entry.data is not None:
            source, offset = entry.data
            segments = [(0, offset, entry.size)] if entry.segments is None else entry.segments
            assert all(at >= 0 and at + length <= (found.sources[source].size or 0) for _, at, length in segments)


def test_every_cut_of_an_archive_is_an_error(tmp_path: Path) -> None:
    for number, whole in enumerate(SEEDS[:3]):
        path = tmp_path / f"{number}.tar"
        for end in range(1, len(whole.rstrip(b"\0")), 97):
            path.write_bytes(whole[:end])
            with open(path, "rb") as file, pytest.raises(errors.BadInput):
                list(tar.members(file.fileno(), vouched=False))


def test_program_survives_a_bomb_of_headers_within_little_memory(tmp_path: Path) -> None:
    """A header claims more than there is, again and again: no claim is believed before the bytes are there."""
    blocks = []
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_SPARSE, tarfile.REGTYPE):
        info = tarfile.TarInfo("claims")
        info.type, info.size = kind, 1 << 40
        blocks.append(info.tobuf(tarfile.GNU_FORMAT))
    for number, block in enumerate(blocks):
        path = tmp_path / f"{number}.tar"
        path.write_bytes(block + bytes(1024))
        done = subprocess.run(
            support.argv("bg-flatten", "-C", tmp_path, path),
            capture_output=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
        )
        assert done.returncode == 65, done.stderr.decode()
