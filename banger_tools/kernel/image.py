"""What a kernel file is: its format, architecture and version, and the bytes that a monitor starts.

Kernels come as ELF (vmlinux), x86 bzImages, arm64 Images, EFI zboot files, and any of the first and third compressed as
a whole. The layouts are those of the kernel's Documentation/arch/{x86/boot.rst,arm64/booting.rst}.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import NamedTuple

from banger_tools import errors, files
from banger_tools.kernel import elf, payload

ELF, BZIMAGE, ARM64_IMAGE, ZBOOT = "ELF vmlinux", "bzImage", "arm64 Image", "EFI zboot"
LIMIT = 1 << 29  # bytes; a vmlinux with all of its debugging information can be as large

_ELF_MAGIC = b"\x7fELF"
_BANNER = re.compile(rb"Linux version (\d[!-~]{0,127}) [ -~]{0,1000}")
_ARM64_MAGIC, _ARM64_MAGIC_AT = b"ARM\x64", 56
_BIG_ENDIAN = 1  # of the flags of an arm64 Image
# What people take for a kernel that we could boot, by the bytes at an offset.
_NO_KERNELS = (
    (56, b"RSC\x05", "a kernel for RISC-V, and not for x86_64 or aarch64"),
    (0x24, b"\x18\x28\x6f\x01", "a kernel for 32-bit ARM, and not for x86_64 or aarch64"),
    (0, b"\x27\x05\x19\x56", "a U-Boot image; give the kernel that it was made from"),
    (0, b"070701", "an initrd (a cpio archive), and no kernel"),
    (0, b"!<arch>\n", "an archive of ar, as Debian packages are, and no kernel"),
    (257, b"ustar", "a tar, and no kernel"),
    (
        0,
        b"MZ",
        "an EFI program; of a unified kernel image, give what its .linux section holds",
    ),
)


class Image(NamedTuple):
    """A kernel file, understood.

    `version` is the release as in lib/modules/VERSION, '' if the kernel does not say it; `banner` the line that it
    prints first. `entry` is an address (0 for an arm64 Image, which starts at its first byte). `pvh`: the ELF kernel
    can be started without a bzImage around it. `bare` is what Firecracker boots: ELF for amd64, an Image for arm64.
    """

    format: str
    compression: str | None
    architecture: str
    version: str
    banner: str
    entry: int
    pvh: bool
    bare: bytes

    @property
    def is_bzimage(self) -> bool:
        """Whether QEMU starts the file as it is, by the x86 boot protocol."""
        return self.format == BZIMAGE

    @property
    def is_direct(self) -> bool:
        """Whether QEMU starts the file as it is: a bzImage, an ELF kernel with a PVH entry, or an arm64 Image."""
        if self.is_bzimage or self.compression is None:
            return self.is_bzimage or self.pvh or self.architecture == "arm64"
        return self.format == ARM64_IMAGE and self.compression == "gzip"


def read(path: Path) -> Image:
    """Look at a kernel file.

    Raises NoInput or Denied if it cannot be read, BadInput if it is no kernel that we boot, Unavailable for a
    compression that we cannot undo.
    """
    data = files.read_small(path, LIMIT, "a kernel")
    try:
        return parse(data)
    except (errors.BadInput, errors.Unavailable) as error:
        raise type(error)(f"'{path}': {error}", error.hint) from error


def parse(data: bytes) -> Image:
    """Look at the bytes of a kernel file; raises BadInput or Unavailable."""
    if payload.is_bzimage(data):
        return _of_bzimage(data)
    if payload.is_zboot(data):
        packed = payload.of_zboot(data)
        return _of_bare(payload.decompress(packed), ZBOOT, payload.compression(packed))
    method = payload.compression(data)
    return _of_bare(payload.decompress(data) if method else data, None, method)


def _of_bzimage(data: bytes) -> Image:
    found = _of_bare(payload.vmlinux(data), BZIMAGE, payload.compression(payload.of_bzimage(data)))
    if found.architecture != "amd64":
        raise errors.BadInput(f"the bzImage holds a kernel for {found.architecture}")
    text = payload.boot_header(data).version
    return found._replace(version=text.partition(" ")[0] or found.version, banner=found.banner or text)


def _of_bare(bare: bytes, outer: str | None, compression: str | None) -> Image:
    """Return what an uncompressed kernel is, which came out of a file of the format `outer`."""
    version, banner = _version(bare)
    if bare.startswith(_ELF_MAGIC):
        about = elf.read(bare)
        if about.architecture == "arm64":  # neither monitor starts it, and its Image is beside it in every build
            raise errors.BadInput("this is an ELF kernel for arm64", "give its Image, Image.gz or vmlinuz.efi")
        return Image(outer or ELF, compression, about.architecture, version, banner, about.entry, about.pvh, bare)
    if bare[_ARM64_MAGIC_AT : _ARM64_MAGIC_AT + 4] == _ARM64_MAGIC:
        _check_arm64(bare)
        return Image(outer or ARM64_IMAGE, compression, "arm64", version, banner, 0, False, bare)
    raise errors.BadInput(_what_it_is(bare))


def _version(bare: bytes) -> tuple[str, str]:
    """Return the release and the banner of a kernel, out of the line that it prints first.

    The longest counts: builds leave one in that has no date yet.
    """
    match = max(_BANNER.finditer(bare), key=lambda found: len(found[0]), default=None)
    return (match[1].decode(), match[0].decode()) if match else ("", "")


def _check_arm64(bare: bytes) -> None:
    """Check the header of an arm64 Image.

    Raises BadInput if it is cut short, big-endian, or older than Linux 3.17 (which did not say its size).
    """
    if len(bare) < 64:
        raise errors.BadInput("the arm64 Image is cut short: its header is not whole")
    _, size, flags = struct.unpack_from("<QQQ", bare, 8)
    if flags & _BIG_ENDIAN:
        raise errors.BadInput("the arm64 Image is for a big-endian machine")
    if not size:
        raise errors.BadInput("the arm64 Image does not say how much memory it takes: it is older than Linux 3.17")


def _what_it_is(data: bytes) -> str:
    """Return what a file is that is no kernel of ours."""
    for offset, magic, text in _NO_KERNELS:
        if data[offset : offset + len(magic)] == magic:
            return f"this is {text}"
    return "this is no kernel: neither ELF, bzImage, arm64 Image or EFI zboot file, nor one of these compressed"
