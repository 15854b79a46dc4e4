"""Kernel files of every format: what they are told to be, what is refused by name, and that no bytes do harm."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from banger_tools import errors
from banger_tools.kernel import cpio, elf, image
from tests import kernels, machines

ELF = kernels.elf()
ARM64 = kernels.arm64()
BZIMAGE = kernels.bzimage(gzip.compress(ELF))
ZBOOT = kernels.zboot(gzip.compress(ARM64), b"gzip")
REFUSED = {
    "a module": (machines.module(), "module"),
    "a 32-bit executable": (b"\x7fELF\x01" + ELF[5:], "no"),
    "a shared library of no machine of ours": (kernels.elf(machine=243), "EM_RISCV"),
    "an ELF kernel for arm64": (kernels.elf(machine=183), "ELF kernel for arm64"),
    "a cut ELF kernel": (ELF[:-60], "cut short"),
    "a big-endian arm64 Image": (kernels.arm64(flags=1), "big-endian"),
    "an ancient arm64 Image": (kernels.arm64(size=0), r"older than Linux 3\.17"),
    "a RISC-V Image": (ARM64.replace(b"ARM\x64", b"RSC\x05"), "RISC-V"),
    "a 32-bit ARM zImage": (bytes(0x24) + b"\x18\x28\x6f\x01" + bytes(100), "32-bit ARM"),
    "a U-Boot image": (b"\x27\x05\x19\x56" + bytes(100), "U-Boot"),
    "an initrd": (b"070701" + bytes(200), "initrd"),
    "a compressed initrd": (gzip.compress(b"070701" + bytes(200)), "initrd"),
    "a package": (b"!<arch>\ndebian-binary", "Debian package"),
    "a tar": (bytes(257) + b"ustar" + bytes(250), "a tar"),
    "a unified kernel image": (b"MZ" + bytes(300), r"\.linux section"),
    "a bzImage of arm64": (kernels.bzimage(gzip.compress(kernels.elf(machine=183))), "ELF kernel for arm64"),
    "nothing": (b"", "no kernel"),
    "a text": (b"#!/bin/sh\n" * 100, "no kernel"),
}  # fmt: skip


def test_elf_kernel_is_understood() -> None:
    found = image.parse(ELF)
    assert found[:7] == (
        image.ELF,
        None,
        "amd64",
        kernels.RELEASE,
        kernels.BANNER.decode().strip("\n\0"),
        0x1000000,
        True,
    )
    assert found.bare == ELF
    assert found.is_direct and not found.is_bzimage


def test_elf_kernel_without_a_pvh_entry_is_none_for_qemu() -> None:
    found = image.parse(kernels.elf(pvh=False))
    assert not found.pvh and not found.is_direct


@pytest.mark.parametrize("method", kernels.PACKERS)
def test_bzimage_is_understood(method: str) -> None:
    found = image.parse(kernels.bzimage(kernels.PACKERS[method](ELF), release="6.2.0-header"))
    assert (found.format, found.compression, found.architecture) == (image.BZIMAGE, method, "amd64")
    assert (found.version, found.bare, found.pvh) == ("6.2.0-header", ELF, True)
    assert found.is_bzimage and found.is_direct


def test_bzimage_whose_header_says_no_version_has_that_of_its_kernel() -> None:
    assert image.parse(kernels.bzimage(gzip.compress(ELF), release="")).version == kernels.RELEASE


def test_bzimage_with_a_kernel_that_has_no_pvh_entry_is_still_one_for_qemu() -> None:
    assert image.parse(kernels.bzimage(gzip.compress(kernels.elf(pvh=False)))).is_direct


def test_arm64_image_is_understood() -> None:
    found = image.parse(ARM64)
    assert found[:4] == (image.ARM64_IMAGE, None, "arm64", kernels.RELEASE)
    assert found.bare == ARM64 and found.is_direct


@pytest.mark.parametrize("method", kernels.PACKERS)
def test_zboot_kernel_is_understood(method: str) -> None:
    found = image.parse(kernels.zboot(kernels.PACKERS[method](ARM64), method.encode()))
    assert found[:4] == (image.ZBOOT, method, "arm64", kernels.RELEASE)
    assert found.bare == ARM64


@pytest.mark.parametrize("method", kernels.PACKERS)
@pytest.mark.parametrize("bare", [ELF, ARM64], ids=["vmlinux", "Image"])
def test_compressed_kernel_is_understood(method: str, bare: bytes) -> None:
    found = image.parse(kernels.PACKERS[method](bare))
    assert (found.format, found.compression, found.bare) == (image.parse(bare).format, method, bare)
    assert found.is_direct == (bare is ARM64 and method == "gzip")  # what QEMU unpacks by itself


def test_banner_that_a_build_left_without_its_date_does_not_count() -> None:
    unfinished = kernels.BANNER.partition(b"#")[0] + b"#\n\0"
    assert image.parse(kernels.elf(unfinished + kernels.BANNER)).banner.endswith(" 2024")


def test_kernel_that_says_no_version_has_none() -> None:
    assert image.parse(kernels.elf(b"no banner")).version == ""


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_kernel_of_ours_is_called_by_its_name(name: str, tmp_path: Path) -> None:
    data, match = REFUSED[name]
    path = tmp_path / "kernel"
    path.write_bytes(data)
    with pytest.raises(errors.BadInput, match=match) as caught:
        image.read(path)
    assert str(path) in str(caught.value)


def test_missing_kernel_is_missing(tmp_path: Path) -> None:
    with pytest.raises(errors.NoInput):
        image.read(tmp_path / "none")


def test_file_larger_than_any_kernel_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(errors.BadInput, match="too large"):
        image.read(path)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=2000))
def test_any_bytes_are_a_kernel_or_bad_input(data: bytes) -> None:
    for read in (image.parse, elf.read):
        with pytest.raises((errors.BadInput, errors.Unavailable)):
            read(data)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A kernel of any format with some bytes changed, most of them in its headers, and perhaps cut."""
    whole = bytearray(draw(st.sampled_from([ELF, ARM64, BZIMAGE, ZBOOT])))
    for _ in range(draw(st.integers(1, 6))):
        position = draw(st.one_of(st.integers(0, min(700, len(whole) - 8)), st.integers(0, len(whole) - 8)))
        value = draw(st.one_of(st.integers(0, 255), st.sampled_from([2**63, 2**64 - 1, 2**31, 2**32 - 1, 0])))
        size = 1 if value < 256 else 8
        whole[position : position + size] = value.to_bytes(size, "little")
    return bytes(whole[: draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))))])


@settings(max_examples=400, deadline=None)
@given(damaged())
def test_damaged_kernel_is_a_kernel_or_bad_input(data: bytes) -> None:
    try:
        found = image.parse(data)
    except (errors.BadInput, errors.Unavailable):
        return
    assert found.architecture in ("amd64", "arm64") and found.bare


def test_segment_beyond_the_end_of_a_64_bit_offset_is_refused() -> None:
    broken = bytearray(ELF)
    struct.pack_into("<Q", broken, 64 + 8, 2**64 - 1)
    with pytest.raises(errors.BadInput, match="cut short"):
        elf.read(bytes(broken))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_archive_lists_names_or_is_bad_input(data: st.DataObject) -> None:
    whole = bytearray(b"070701" + b"00000000" * 11 + b"00000005" + b"00000000" + b"name\0\0")
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.sampled_from(b"0123f \xff"))
    with pytest.raises(errors.BadInput):
        list(cpio.names(bytes(whole)))
