"""Kernels inside of bzImages, EFI zboot files and compressed files: whatever the compression, and however broken."""

from __future__ import annotations

import gzip
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from banger_tools import errors
from banger_tools.kernel import payload
from tests import kernels, support

KERNEL = kernels.elf(os.urandom(1000) + bytes(200_000))
BOMBS = """
import resource, sys
from pathlib import Path
from banger_tools import errors
from banger_tools.kernel import payload
import lz4.block, zstandard
pages = int(Path("/proc/self/statm").read_text().split()[0])
bound = pages * resource.getpagesize() + (100 << 20)
resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
for bomb in map(Path, sys.argv[1:]):
    try:
        payload.decompress(bomb.read_bytes(), limit=4 << 20)
        print(bomb.name, "unpacked")
    except errors.BadInput as error:
        print(bomb.name, error)
"""


@pytest.mark.parametrize("method", kernels.PACKERS)
def test_kernel_comes_out_of_a_bzimage_whatever_its_compression(method: str) -> None:
    assert payload.vmlinux(kernels.bzimage(kernels.PACKERS[method](KERNEL))) == KERNEL


@pytest.mark.parametrize("method", kernels.PACKERS)
def test_compression_is_told_by_the_first_bytes(method: str) -> None:
    assert payload.compression(kernels.PACKERS[method](KERNEL)) == method


@pytest.mark.parametrize("method", kernels.PACKERS)
def test_payload_of_a_zboot_file_comes_out_whatever_its_compression(method: str) -> None:
    packed = kernels.PACKERS[method](KERNEL)
    assert payload.decompress(payload.of_zboot(kernels.zboot(packed, method.encode()))) == KERNEL


def test_lz4_kernel_of_several_blocks_comes_out_whole() -> None:
    large = KERNEL + os.urandom(9 << 20)
    assert payload.vmlinux(kernels.bzimage(kernels.lz4_legacy(large))) == large


@pytest.mark.parametrize("method", kernels.PACKERS)
@pytest.mark.parametrize("keep", [8, 200, 0.5])
def test_cut_payload_is_refused(method: str, keep: float) -> None:
    packed = kernels.PACKERS[method](KERNEL)
    cut = packed[: int(keep if keep > 1 else len(packed) * keep)]
    with pytest.raises(errors.BadInput):
        payload.vmlinux(kernels.bzimage(cut))


def test_payload_outside_of_the_file_is_refused() -> None:
    image = kernels.bzimage(gzip.compress(KERNEL))
    with pytest.raises(errors.BadInput, match="cut short"):
        payload.vmlinux(image[:-200])


def test_payload_outside_of_a_zboot_file_is_refused() -> None:
    whole = kernels.zboot(gzip.compress(KERNEL), b"gzip")
    for cut in (whole[:600], whole[:40]):
        with pytest.raises(errors.BadInput, match="cut short"):
            payload.of_zboot(cut)


def test_payload_that_is_no_kernel_is_refused() -> None:
    with pytest.raises(errors.BadInput, match="no ELF"):
        payload.vmlinux(kernels.bzimage(gzip.compress(b"not a kernel")))


def test_old_boot_protocol_is_refused() -> None:
    with pytest.raises(errors.BadInput, match=r"2\.04"):
        payload.vmlinux(kernels.bzimage(gzip.compress(KERNEL), protocol=0x204))


def test_lzo_payload_is_named() -> None:
    with pytest.raises(errors.Unavailable, match="LZO"):
        payload.vmlinux(kernels.bzimage(b"\x89LZO\0\r\n\x1a\n"))


def test_version_is_read_from_the_boot_header() -> None:
    assert payload.boot_header(kernels.bzimage(gzip.compress(KERNEL))).version == "6.1.0-test (builder@host) #1"


def test_version_that_points_outside_of_the_header_is_empty() -> None:
    image = bytearray(kernels.bzimage(gzip.compress(KERNEL)))
    struct.pack_into("<H", image, 0x20E, 0xFFFF)
    assert payload.boot_header(bytes(image)).version == ""


def test_bombs_of_every_compression_end_at_the_limit_in_bounded_memory(tmp_path: Path) -> None:
    zeros = bytes(160 << 20)
    files = []
    for method, pack in kernels.PACKERS.items():
        files.append(tmp_path / method)
        files[-1].write_bytes(pack(zeros))
    done = subprocess.run(
        [sys.executable, "-P", "-c", BOMBS, *map(str, files)],
        capture_output=True,
        env=support.environment({"PYTHONPATH": str(support.ROOT)}),
    )
    assert done.returncode == 0, done.stderr.decode()
    lines = done.stdout.decode().splitlines()
    assert [line.split()[0] for line in lines] == list(kernels.PACKERS)
    assert all("unpacks to more than 4194304 bytes" in line for line in lines)


def test_xz_that_asks_for_a_huge_dictionary_is_refused() -> None:
    head = b"]\x00\x00\x00\xff" + b"\xff" * 8  # lzma: properties, a dictionary of almost 4 GiB, an unknown size
    with pytest.raises(errors.BadInput, match="corrupt"):
        payload.decompress(head + os.urandom(1000))
