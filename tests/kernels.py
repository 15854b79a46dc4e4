"""What tests of kernels share: small kernels made by the letter of the formats, and real ones of Debian's packages."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import zstandard
from lz4 import block

from banger_tools import errors
from banger_tools.kernel import apt
from tests import support

RELEASE = "6.1.0-test"
BANNER = b"Linux version 6.1.0-test (builder@host) (gcc 12) #1 SMP PREEMPT_DYNAMIC Mon Jan 1 00:00:00 UTC 2024\n\0"
NAMES = b"ext4\0virtio_blk\0virtio_net\0virtio-pci\0virtio-mmio\0virtio_console\0vmw_vsock_virtio_transport\0"
NAMES += b"overlay\0devtmpfs\0_SB_\0"
CONFIG = """\
#
# Automatically generated file; DO NOT EDIT.
# Linux/x86 6.1.0 Kernel Configuration
#
CONFIG_X86_64=y
CONFIG_BLK_DEV_INITRD=y
CONFIG_DEVTMPFS=y
CONFIG_ACPI=y
CONFIG_EXT4_FS=y
CONFIG_VIRTIO_BLK=y
CONFIG_VIRTIO_NET=y
CONFIG_VIRTIO_PCI=y
CONFIG_VIRTIO_MMIO=y
CONFIG_VIRTIO_CONSOLE=y
CONFIG_VIRTIO_VSOCKETS=y
CONFIG_OVERLAY_FS=y
# CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES is not set
"""


def lz4_legacy(data: bytes) -> bytes:
    chunks = [data[start : start + (8 << 20)] for start in range(0, len(data), 8 << 20)]
    packed = [block.compress(chunk, store_size=False) for chunk in chunks]
    return b"\x02\x21\x4c\x18" + b"".join(struct.pack("<I", len(piece)) + piece for piece in packed)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 1),
    "xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32, preset=0),
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE, preset=0),
    "bzip2": bz2.compress,
    "zstd": lambda data: zstandard.ZstdCompressor(level=3).compress(data),
    "lz4": lz4_legacy,
}


def ikconfig(text: str = CONFIG) -> bytes:
    """Return a configuration as a kernel with CONFIG_IKCONFIG carries it."""
    return b"IKCFG_ST" + gzip.compress(text.encode()) + b"IKCFG_ED"


def elf(content: bytes = BANNER + NAMES, *, pvh: bool = True, machine: int = 62) -> bytes:
    """Return an executable with one segment to load and, with `pvh`, the note of a PVH entry."""
    note = struct.pack("<III4sQ", 4, 8, 18, b"Xen\0", 0x1000123) if pvh else b""
    start = 64 + 2 * 56
    load = struct.pack("<IIQQQQQQ", 1, 5, start, 0x1000000, 0x1000000, len(content), len(content), 4096)
    notes = struct.pack("<IIQQQQQQ", 4, 4, start + len(content), 0, 0, len(note), len(note), 4)
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0x1000000, 64, 0, 0, 64, 56, 2 if pvh else 1, 64, 0, 0)
    return head + load + notes + content + note


def bzimage(packed: bytes, *, protocol: int = 0x20F, setup: int = 1, release: str = RELEASE) -> bytes:
    """Return a bzImage around a payload, laid out as boot.rst says, the unpacked size appended as its build does."""
    body = packed + struct.pack("<I", 0)
    head = bytearray((setup + 1) * 512)
    head[0x1F1] = setup
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x206, protocol)
    struct.pack_into("<H", head, 0x20E, 0x100)
    text = f"{release} (builder@host) #1".encode()
    head[0x300 : 0x300 + len(text)] = text
    struct.pack_into("<II", head, 0x248, 64, len(body))
    return bytes(head) + bytes(64) + body + b"trailing"


def arm64(content: bytes = BANNER + NAMES, *, flags: int = 0b1010, size: int = 1 << 20) -> bytes:
    """Return an arm64 Image, laid out as booting.rst says."""
    return struct.pack("<IIQQQQQQ4sI", 0x91005A4D, 0, 0, size, flags, 0, 0, 0, b"ARM\x64", 64) + content


def zboot(packed: bytes, method: bytes) -> bytes:
    """Return an EFI zboot file around a payload, laid out as zboot-header.S does."""
    head = struct.pack("<4s4sIIQ32sII", b"MZ\0\0", b"zimg", 512, len(packed), 0, method, 0x818223CD, 64)
    return head.ljust(512, b"\0") + packed + b"\0trailing"


class Real(NamedTuple):
    """A kernel of a Debian package, unpacked."""

    vmlinuz: Path
    modules: Path
    config: Path
    release: str


def real(package: str, folder: Path) -> Real:
    """Fetch a kernel by the host's own apt; a machine that has none of it cannot run the test."""
    support.need("apt-get", "dpkg-deb")
    try:
        found = apt.unpack(package, folder)
    except errors.Unavailable as error:
        support.cannot(str(error))
    assert found.modules is not None and found.config is not None
    return Real(found.vmlinuz, found.modules, found.config, found.modules.name)
