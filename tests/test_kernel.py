"""Kernels: payloads, ELF files, modules and initrds, judged by the formats' own programs."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from lz4 import block

from banger_tools import errors
from banger_tools.kernel import cpio, elf, initrd, modules, payload
from tests import machines, support

KERNEL = machines.elf({".text": os.urandom(1000) + bytes(200_000)}, kind=2)


def lz4_legacy(data: bytes) -> bytes:
    chunks = [data[start : start + (8 << 20)] for start in range(0, len(data), 8 << 20)]
    packed = [block.compress(chunk, store_size=False) for chunk in chunks]
    return b"\x02\x21\x4c\x18" + b"".join(struct.pack("<I", len(piece)) + piece for piece in packed)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32),
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
    "bzip2": bz2.compress,
    "zstd": lambda data: zstandard.ZstdCompressor(level=3).compress(data),
    "lz4": lz4_legacy,
}


def bzimage(packed: bytes, *, protocol: int = 0x20F, setup: int = 1) -> bytes:
    """Return a bzImage around a payload, laid out as boot.rst says, the unpacked size appended as its build does."""
    body = packed + struct.pack("<I", 0)
    head = bytearray((setup + 1) * 512)
    head[0x1F1] = setup
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x206, protocol)
    struct.pack_into("<H", head, 0x20E, 0x100)
    head[0x300:0x30C] = b"6.1.0-test a"
    struct.pack_into("<II", head, 0x248, 64, len(body))
    return bytes(head) + bytes(64) + body + b"trailing"


@pytest.mark.parametrize("method", PACKERS)
def test_kernel_comes_out_of_a_bzimage_whatever_its_compression(method: str) -> None:
    assert payload.vmlinux(bzimage(PACKERS[method](KERNEL))) == KERNEL


def test_lz4_kernel_of_several_blocks_comes_out_whole() -> None:
    large = KERNEL + os.urandom(9 << 20)
    assert payload.vmlinux(bzimage(lz4_legacy(large))) == large


@pytest.mark.parametrize("method", PACKERS)
@pytest.mark.parametrize("keep", [8, 200, 0.5])
def test_cut_payload_is_refused(method: str, keep: float) -> None:
    packed = PACKERS[method](KERNEL)
    cut = packed[: int(keep if keep > 1 else len(packed) * keep)]
    with pytest.raises(errors.BadInput):
        payload.vmlinux(bzimage(cut))


def test_payload_outside_of_the_file_is_refused() -> None:
    image = bzimage(gzip.compress(KERNEL))
    with pytest.raises(errors.BadInput, match="cut short"):
        payload.vmlinux(image[:-200])


def test_payload_that_is_no_kernel_is_refused() -> None:
    with pytest.raises(errors.BadInput, match="no ELF"):
        payload.vmlinux(bzimage(gzip.compress(b"not a kernel")))


def test_old_boot_protocol_is_refused() -> None:
    with pytest.raises(errors.BadInput, match=r"2\.04"):
        payload.vmlinux(bzimage(gzip.compress(KERNEL), protocol=0x204))


def test_lzo_payload_is_named() -> None:
    with pytest.raises(errors.Unavailable, match="LZO"):
        payload.vmlinux(bzimage(b"\x89LZO\0\r\n\x1a\n"))


def test_version_is_read_from_the_boot_header() -> None:
    assert payload.boot_header(bzimage(gzip.compress(KERNEL))).version == "6.1.0-test a"


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=2000))
def test_any_bytes_are_a_kernel_or_bad_input(data: bytes) -> None:
    for read in (payload.vmlinux, elf.read):
        with pytest.raises((errors.BadInput, errors.Unavailable)):
            read(data)


def test_elf_kernel_of_a_foreign_machine_is_refused() -> None:
    with pytest.raises(errors.BadInput, match="EM_ARM"):
        elf.read(machines.elf({}, machine=40, kind=2))


def test_elf_kernel_tells_its_architecture() -> None:
    assert elf.read(KERNEL).architecture == "amd64"
    assert elf.read(machines.elf({}, machine=183, kind=2)).architecture == "arm64"


def place(root: Path, files: dict[str, bytes], builtin: str = "") -> modules.Folder:
    for name, data in files.items():
        path = root / "kernel" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (root / "modules.builtin").write_text(builtin)
    return modules.Folder(root)


def names(found: list[modules.Module]) -> list[str]:
    return [module.name for module in found]


def test_modules_load_after_what_they_depend_on(tmp_path: Path) -> None:
    files = {
        "a/one.ko": machines.module("two,three"),
        "b/two.ko": machines.module("three"),
        "three.ko": machines.module(),
    }
    assert names(modules.closure(place(tmp_path, files), ["one"])) == ["three", "two", "one"]


def test_dash_and_underscore_name_one_module(tmp_path: Path) -> None:
    files = {"virtio-rng.ko": machines.module("some_thing"), "some-thing.ko": machines.module()}
    assert names(modules.closure(place(tmp_path, files), ["virtio_rng"])) == ["some_thing", "virtio_rng"]


def test_built_in_dependency_is_skipped(tmp_path: Path) -> None:
    folder = place(tmp_path, {"one.ko": machines.module("two")}, "kernel/lib/two.ko\n")
    assert names(modules.closure(folder, ["one", "two"])) == ["one"]


def test_soft_dependency_is_loaded_before_where_it_exists(tmp_path: Path) -> None:
    files = {"one.ko": machines.module(softdep="pre: two absent post: three"), "two.ko": machines.module()}
    files["three.ko"] = machines.module()
    assert names(modules.closure(place(tmp_path, files), ["one"])) == ["two", "one"]


def test_missing_dependency_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(errors.BadInput, match="'one' needs 'two'"):
        modules.closure(place(tmp_path, {"one.ko": machines.module("two")}), ["one"])


def test_circle_of_dependencies_is_refused(tmp_path: Path) -> None:
    files = {"one.ko": machines.module("two"), "two.ko": machines.module("one")}
    with pytest.raises(errors.BadInput, match="depend on each other"):
        modules.closure(place(tmp_path, files), ["one"])


@pytest.mark.parametrize("suffix", [".xz", ".gz", ".zst"])
def test_compressed_modules_come_out_plain(tmp_path: Path, suffix: str) -> None:
    plain = machines.module()
    pack = PACKERS[{".xz": "xz", ".gz": "gzip", ".zst": "zstd"}[suffix]]
    assert modules.closure(place(tmp_path, {f"one.ko{suffix}": pack(plain)}), ["one"])[0].data == plain


@pytest.mark.parametrize("suffix", [".xz", ".gz", ".zst"])
def test_corrupt_compressed_module_is_refused(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(errors.BadInput, match="one"):
        modules.closure(place(tmp_path, {f"one.ko{suffix}": b"\x01\x02\x03"}), ["one"])


def test_copied_closure_gives_the_same_modules(tmp_path: Path) -> None:
    files = {"a/virtio.ko": machines.module("virtio_ring"), "a/virtio_ring.ko": machines.module()}
    files["unneeded.ko"] = machines.module()
    place(tmp_path / "from", files)
    assert modules.copy_closure(tmp_path / "from", tmp_path / "to") == ["virtio_ring", "virtio"]
    assert sorted(modules.Folder(tmp_path / "to").paths) == ["virtio", "virtio_ring"]


def written(entries: list[cpio.Entry]) -> bytes:
    output = io.BytesIO()
    cpio.write(output, entries)
    return output.getvalue()


def test_cpio_program_reads_what_we_write(tmp_path: Path) -> None:
    support.need("cpio")
    content = {"empty": b"", "one": b"1", "four": b"1234", "large": os.urandom(100_001)}
    archive = written([cpio.folder("sub"), *(cpio.file(f"sub/{name}", data, 0o755) for name, data in content.items())])
    done = subprocess.run(["cpio", "-id", "--quiet"], input=archive, cwd=tmp_path, capture_output=True, check=True)
    assert done.stderr == b""
    assert {path.name: path.read_bytes() for path in (tmp_path / "sub").iterdir()} == content
    assert all(path.stat().st_mode & 0o777 == 0o755 for path in (tmp_path / "sub").iterdir())
    listing = subprocess.run(["cpio", "-itv", "--quiet"], input=archive, capture_output=True, check=True).stdout
    assert all(b"root" in line and b"1970" in line for line in listing.splitlines())


def test_initrd_lists_its_modules_in_load_order_and_is_reproducible(tmp_path: Path) -> None:
    support.need("cpio")
    needed = [modules.Module(name, Path(name), name.encode()) for name in ("virtio_ring", "virtio")]
    outputs = [io.BytesIO(), io.BytesIO()]
    for output in outputs:
        initrd.write(output, b"\x7fELF init", needed)
    assert outputs[0].getvalue() == outputs[1].getvalue()
    subprocess.run(["cpio", "-id", "--quiet", "modules", "init", "lib/*"], input=outputs[0].getvalue(), cwd=tmp_path)
    assert (tmp_path / "init").stat().st_mode & 0o111
    listed = (tmp_path / "modules").read_text().splitlines()
    assert [(tmp_path / line.lstrip("/")).read_text() for line in listed] == ["virtio_ring", "virtio"]


def test_initrd_key_tells_program_and_kernel() -> None:
    keys = {initrd.key(b"one", "6.1"), initrd.key(b"two", "6.1"), initrd.key(b"one", "6.2")}
    assert len(keys) == 3
