"""Small inputs that ask for much: each ends soon, in little memory, with a message or a result.

Time is the processor's, which no load of the machine changes; the kernel ends a program that takes more.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import resource
import struct
import subprocess
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from banger_tools import errors, layers, tar
from tests import support
from tests.stacks import layer, manifest, soft, write_layers

MEMORY = 768 << 20  # of addresses; what is resident is a fraction of it
SECONDS = 30
TAR = layer("f")


def run(program: str, *words: str | Path, stdin: str = "") -> subprocess.CompletedProcess[bytes]:
    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 30, 2 << 30))

    done = subprocess.run(
        support.argv(program, *words),
        input=stdin.encode(),
        capture_output=True,
        env=support.environment(),
        preexec_fn=bound,
    )
    assert done.returncode >= 0 and b"Traceback" not in done.stderr, done.stderr.decode()
    return done


def zstd_frame(window_log: int) -> bytes:
    """Return the head of a frame that asks for a window of so many bits (RFC 8878, 3.1.1.1.2)."""
    return struct.pack("<IBB", 0xFD2FB528, 0, (window_log - 10) << 3) + bytes(100)


def xz_dictionary() -> bytes:
    """Return an xz stream whose block asks for a dictionary of 4 GiB (xz-file-format, 3.1 and 5.3.1)."""
    data = bytearray(lzma.compress(TAR))
    end = 12 + (data[12] + 1) * 4
    assert data[14:16] == b"\x21\x01"  # LZMA2, and one byte of properties
    data[16] = 40
    data[end - 4 : end] = struct.pack("<I", zlib.crc32(data[12 : end - 4]))
    return bytes(data)


def empty_members(count: int) -> bytes:
    return gzip.compress(b"", mtime=0) * count + gzip.compress(TAR)


PACKED: dict[str, tuple[Callable[[], bytes], str]] = {
    "gzip of zeros": (lambda: gzip.compress(bytes(110 << 20), 9), "larger than 100M"),
    "gzip in a thousand members": (lambda: gzip.compress(bytes(1 << 20), 9) * 110, "larger than 100M"),
    "gzip of 100,000 empty members": (lambda: empty_members(100_000), ""),
    "zstd of zeros": (lambda: zstandard.ZstdCompressor().compress(bytes(110 << 20)), "larger than 100M"),
    "zstd of a window of 2 GiB": (lambda: zstd_frame(31), "too much memory"),
    "zstd of skippable frames": (lambda: struct.pack("<II", 0x184D2A50, 0) * 100_000, "no tar"),
    "xz of a dictionary of 4 GiB": (xz_dictionary, "damaged"),
    "bzip2 of zeros": (lambda: bz2.compress(bytes(110 << 20)), "larger than 100M"),
}


@pytest.mark.parametrize("kind", PACKED)
def test_compressed_bomb_is_refused_in_bounded_time_and_memory(kind: str, banger_home: Path, tmp_path: Path) -> None:
    """David Fifield, "A better zip bomb", 2019, and its kin for streams."""
    make, refused = PACKED[kind]
    (tmp_path / "bomb").write_bytes(make())
    done = run("bg-fetch", "--max-layer=100M", f"rootfs:{tmp_path}/bomb")
    assert refused in done.stderr.decode() and done.returncode == (65 if refused else 0), done.stderr.decode()
    partial = banger_home / "cache" / "partial"
    assert not partial.exists() or list(partial.iterdir()) == []


def claims(size: int) -> bytes:
    """Return an old GNU sparse file that has no data and says that it is so large."""
    info = tarfile.TarInfo("sparse")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = b"S"
    header[386:482] = bytes(96)
    header[386:410] = b"%011o\0%011o\0" % (0, 0)
    header[483:495] = b"\x80" + size.to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(1024)


DEEP = ["/".join(["d"] * depth) + "/" for depth in range(1, 900)]
MANY = [f"d/{number}" for number in range(8_000)]
# Forty links, each through a thousand folders.
LINKS = ["x/", "l38/", *(soft(f"l{number}", f"{'x/../' * 790}l{number + 1}") for number in range(38))]
SWITCHED = [entry for number in range(1_500) for entry in (f"l0/{number}", soft("s", "x"))]

STACKS: dict[str, tuple[Callable[[], list[bytes]], str]] = {
    "an opaque marker over a deep tree": (lambda: [layer(*DEEP), layer(*DEEP, ".wh..wh..opq")], ""),
    "a marker again and again": (lambda: [layer("d/"), layer(*MANY, *["d/.wh..wh..opq"] * 20_000)], ""),
    "a whiteout again and again": (lambda: [layer("d/"), layer(*MANY, *[".wh.d"] * 20_000)], ""),
    "symlinks through a thousand folders": (lambda: [layer(*LINKS, *SWITCHED)], "symlinks lead through more than"),
    "a tree that is too deep": (lambda: [layer(f"{'d/' * 1200}f")], "folders deep"),
    "a name that is too long": (lambda: [layer("n" * 300)], "255 at most"),
    "a path that is too long": (lambda: [layer("/".join(["n" * 200] * 30))], "4096 at most"),
    "paths of four kilobytes by short names": (
        lambda: [
            layer(
                "/".join(["n" * 200] * 20) + "/",
                soft("l", "/".join(["n" * 200] * 20)),
                *(f"l/{n}" for n in range(4_000)),
            )
        ],
        "",
    ),
    "xattrs of a megabyte": (
        lambda: [layer(("f", {"pax_headers": {f"SCHILY.xattr.user.{n}": "x" * 60_000 for n in range(16)}}))],
        "bytes of xattrs",
    ),
    "a hole of 8 EiB": (lambda: [claims((1 << 63) - 1)], "out of range"),
    "a hole of 4 EiB": (lambda: [claims(1 << 62)], ""),
}


@pytest.mark.parametrize("kind", STACKS)
def test_bomb_of_headers_is_refused_or_merged_in_bounded_time_and_memory(kind: str, tmp_path: Path) -> None:
    """Names, depths, links and counts that cost much more than their bytes, for us or for those who read the tree."""
    make, refused = STACKS[kind]
    text = manifest(write_layers(make(), tmp_path))
    done = run("bg-flatten", "-C", tmp_path, stdin=text)
    assert refused in done.stderr.decode() and done.returncode == (65 if refused else 0), done.stderr.decode()
    if not refused:
        done = run("bg-mkext4", "-o", tmp_path / "image", stdin=done.stdout.decode())
        too_large = b"more than an ext4 file can have" in done.stderr
        assert done.returncode == (65 if too_large else 0) and too_large == ("hole" in kind), done.stderr.decode()


@pytest.mark.parametrize(("most", "accepted"), [(8, True), (7, False)])
def test_limit_of_paths_together_is_exact(most: int, accepted: bool, tmp_path: Path) -> None:
    (tmp_path / "in.tar").write_bytes(layer("a/", "a/bc"))  # "/", "/a" and "/a/bc"
    with open(tmp_path / "in.tar", "rb") as file:
        members = tar.members(file.fileno(), vouched=False)
        merged = layers.merge([("in.tar", members)], layers.Limits(path_bytes=most))
        with contextlib.nullcontext() if accepted else pytest.raises(errors.BadInput, match="paths have more than"):
            merged.tree_entries()
