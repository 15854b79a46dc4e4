"""Debian's own kernels for amd64 and arm64, judged by extract-vmlinux's way, readelf, kmod and cpio."""

from __future__ import annotations

import functools
import io
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from banger_tools import errors, guest
from banger_tools.kernel import bootable, image, initrd, modules, understood
from banger_tools.kernel.features import State
from tests import kernels, support

PACKAGES = {
    "cloud": "linux-image-cloud-amd64",
    "generic": "linux-image-amd64",
    "arm64": "linux-image-cloud-arm64",
}
ARCHITECTURES = {"cloud": "amd64", "generic": "amd64", "arm64": "arm64"}
SIZES = {"cloud": 3 << 20, "generic": 6 << 20, "arm64": 3 << 20}
# The kernel's own scripts/extract-vmlinux, in short: where a magic stands, try the program that undoes it.
EXTRACTORS = {
    "gzip": (b"\x1f\x8b\x08", "gzip"),
    "xz": (b"\xfd7zXZ\0", "xz"),
    "bzip2": (b"BZh", "bzip2"),
    "lzma": (b"\x5d\0\0\0", "lzma"),
    "lz4": (b"\x02!L\x18", "lz4"),
    "zstd": (b"(\xb5/\xfd", "zstd"),
}
# How a kernel's build compresses (scripts/Makefile.lib), at a lower level where that only saves time.
BUILD = {
    "gzip": ["gzip", "-n", "-f", "-9", "-c"],
    "xz": ["xz", "--check=crc32", "--x86", "--lzma2=dict=32MiB", "-c"],
    "bzip2": ["bzip2", "-9", "-c"],
    "lzma": ["lzma", "-9", "-c"],
    "lz4": ["lz4", "-l", "-9", "-c", "-", "-"],
    "zstd": ["zstd", "-q", "--ultra", "-19", "-c"],
}
MODULES_INSTALL = {
    "xz": ["xz", "--check=crc32", "--lzma2=dict=1MiB", "-c"],
    "zst": ["zstd", "-q", "-c"],
    "gz": ["gzip", "-n", "-c"],
}


class Kernel:
    """One of Debian's kernels, and what we make of it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.files = kernels.real(PACKAGES[name], folder)
        self.image = image.read(self.files.vmlinuz)

    def initrd(self) -> bytes:
        output = io.BytesIO()
        try:
            init = initrd.read_init(guest.program(ARCHITECTURES[self.name]))
        except errors.Unavailable as error:
            support.cannot(error.message)
        initrd.write(output, init, modules.closure(modules.Folder(self.files.modules)))
        return output.getvalue()


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Kernel]:
    """Fetch one of the kernels, once."""
    return functools.cache(lambda name: Kernel(name, tmp_path_factory.mktemp(name)))


@pytest.fixture(params=PACKAGES)
def kernel(request: pytest.FixtureRequest, debian: Callable[[str], Kernel]) -> Kernel:
    return debian(request.param)


def extracted(data: bytes) -> list[bytes]:
    """Return every ELF file that an extraction by the formats' own programs finds in a bzImage."""
    found = []
    for magic, program in EXTRACTORS.values():
        support.need(program)
        for match in re.finditer(re.escape(magic), data):
            # what follows the payload makes the programs complain after they did their work
            done = subprocess.run([program, "-dc"], input=data[match.start() :], capture_output=True)
            if done.stdout.startswith(b"\x7fELF"):
                found.append(done.stdout)
    return found


def readelf(option: str, path: Path) -> str:
    support.need("readelf")
    return subprocess.run(["readelf", option, path], capture_output=True, check=True).stdout.decode()


def test_kernel_tells_its_release_and_where_it_comes_from(kernel: Kernel) -> None:
    assert kernel.image.version == kernel.files.release == kernel.files.vmlinuz.name.partition("-")[2]
    assert kernel.image.banner.startswith(f"Linux version {kernel.files.release} (debian-kernel@")
    assert kernel.image.architecture == ARCHITECTURES[kernel.name]
    assert kernel.image.is_direct


def test_kernel_comes_out_as_other_programs_take_it_out(kernel: Kernel) -> None:
    data = kernel.files.vmlinuz.read_bytes()
    if kernel.image.is_bzimage:
        assert extracted(data) == [kernel.image.bare]
    else:
        assert kernel.image.bare == data


def test_entry_machine_and_note_are_as_readelf_sees_them(kernel: Kernel, tmp_path: Path) -> None:
    if not kernel.image.is_bzimage:
        text = subprocess.run(["file", "-b", kernel.files.vmlinuz], capture_output=True, check=True).stdout
        assert b"Linux kernel ARM64 boot executable Image, little-endian" in text
        return
    path = tmp_path / "vmlinux"
    path.write_bytes(kernel.image.bare)
    header = readelf("-hW", path)
    assert "Machine:                           Advanced Micro Devices X86-64" in header
    assert f"Entry point address:               {kernel.image.entry:#x}" in header
    note = re.search(r"Xen +0x00000004.*\(0x00000012\)|Xen +0x00000008.*\(0x00000012\)", readelf("-nW", path))
    assert (note is not None) == kernel.image.pvh


def test_everything_that_a_machine_needs_is_found(kernel: Kernel) -> None:
    about = understood.understand(kernel.image, modules_folder=kernel.files.modules, config_file=kernel.files.config)
    assert about.version == kernel.files.release
    missing = {name for name, state in about.features.items() if state.is_lacking}
    assert missing == {"virtio_mmio on the command line"}
    assert about.features["ext4"] is (State.MODULE if kernel.name == "generic" else State.BUILTIN)
    boots = bootable.verdicts(bootable.Kernel(kernel.image.architecture, about.features, kernel.image.is_direct))
    assert all(not found.lacks and "virtio_blk" in found.by_initrd for found in boots)


def test_modules_alone_tell_the_same_as_the_configuration(kernel: Kernel) -> None:
    by_config = understood.understand(
        kernel.image, modules_folder=kernel.files.modules, config_file=kernel.files.config
    ).features
    by_lists = understood.understand(kernel.image, modules_folder=kernel.files.modules).features
    assert {name: state for name, state in by_lists.items() if state is not State.UNKNOWN}.items() <= by_config.items()
    assert sum(state is not State.UNKNOWN for state in by_lists.values()) == 8


def test_kernel_without_its_modules_is_known_to_boot_nothing(kernel: Kernel) -> None:
    about = understood.understand(kernel.image)
    alone = bootable.Kernel(kernel.image.architecture, about.features, kernel.image.is_direct)
    for found in bootable.verdicts(alone):
        assert "virtio_blk" in found.lacks
        assert ("ext4" in found.lacks) == (kernel.name == "generic")


def test_modules_of_another_of_the_kernels_are_refused(kernel: Kernel, tmp_path: Path) -> None:
    with pytest.raises(errors.BadInput, match=re.escape(f"'{kernel.files.release}', the kernel is '6.0.0'")):
        modules.check_version(modules.Folder(kernel.files.modules), "6.0.0")


def depended(root: Path, release: str, name: str) -> list[str]:
    """Return the modules that modprobe would load for one, in its order, but for those that do crc32c."""
    argv = ["modprobe", "-d", str(root), "-S", release, "--show-depends", name]
    done = subprocess.run(argv, capture_output=True, check=True, env=support.environment(), text=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    found = [modules.module_name(Path(line[1])) for line in lines if line[0] == "insmod"]
    return [name for name in found if not name.startswith("crc32c_")]


def test_modules_are_those_that_modprobe_would_load_and_in_its_order(kernel: Kernel) -> None:
    support.need("depmod", "modprobe")
    root = kernel.files.modules.parents[2]
    subprocess.run(["depmod", "-b", root, kernel.files.release], check=True, env=support.environment())
    folder = modules.Folder(kernel.files.modules)
    # ext4 asks for any module that does crc32c; ours is the one that runs on every processor
    ours = [module.name for module in modules.closure(folder) if not module.name.startswith("crc32c_")]
    needed: set[str] = set()
    for wanted in set(modules.WANTED) & folder.paths.keys() - {"crc32c_generic"}:
        chain = depended(root, kernel.files.release, wanted)
        assert [name for name in ours if name in chain] == chain
        needed.update(chain)
    assert needed == set(ours)


def test_vermagic_is_as_modinfo_reads_it(kernel: Kernel) -> None:
    support.need("modinfo")
    folder = modules.Folder(kernel.files.modules)
    module = folder.read("virtio_blk")
    argv = ["modinfo", "-F", "vermagic", str(module.path)]
    said = subprocess.run(argv, capture_output=True, check=True, env=support.environment(), text=True).stdout
    assert modules.version(module) == said.split()[0] == kernel.files.release


def test_initrd_is_what_cpio_unpacks_and_the_same_each_time(kernel: Kernel, tmp_path: Path) -> None:
    support.need("cpio")
    archive = kernel.initrd()
    assert len(archive) < SIZES[kernel.name]
    assert kernel.initrd() == archive
    argv = ["cpio", "-id", "--quiet", "--no-absolute-filenames", "--nonmatching", "dev/console"]
    subprocess.run(argv, input=archive, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "init").read_bytes() == guest.program(ARCHITECTURES[kernel.name]).read_bytes()
    listed = (tmp_path / "modules").read_text().splitlines()
    folder = modules.Folder(kernel.files.modules)
    chosen = modules.closure(folder)
    assert listed == [f"/lib/modules/{module.name}.ko" for module in chosen]
    for module in chosen:
        assert (tmp_path / "lib" / "modules" / f"{module.name}.ko").read_bytes() == module.path.read_bytes()


def test_initrd_lists_with_roots_owners_and_no_times(kernel: Kernel) -> None:
    support.need("cpio")
    argv = ["cpio", "-itv", "--quiet", "--numeric-uid-gid"]
    lines = subprocess.run(argv, input=kernel.initrd(), capture_output=True, check=True, env=utc()).stdout.splitlines()
    assert all(re.match(rb"\S+ +\d+ 0 +0 .* Jan  1  1970 ", line) for line in lines)
    assert any(line.startswith(b"crw") and line.endswith(b"dev/console") for line in lines)


def utc() -> dict[str, str]:
    return support.environment({"TZ": "UTC", "LC_ALL": "C"})


@pytest.mark.parametrize("packing", MODULES_INSTALL)
def test_compressed_modules_make_the_same_initrd(debian: Callable[[str], Kernel], tmp_path: Path, packing: str) -> None:
    root = debian("cloud").files.modules
    plain = modules.closure(modules.Folder(root))
    for module in plain:
        place = tmp_path / f"{module.path.relative_to(root)}.{packing}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(compress(MODULES_INSTALL[packing], module.data))
    again = modules.closure(modules.Folder(tmp_path))
    assert [(module.name, module.data) for module in again] == [(module.name, module.data) for module in plain]


def compress(argv: list[str], data: bytes) -> bytes:
    support.need(argv[0])
    return subprocess.run(argv, input=data, capture_output=True, check=True).stdout


@pytest.mark.parametrize("method", BUILD)
def test_kernel_compressed_as_a_build_does_comes_out_by_both_ways(method: str) -> None:
    bare = kernels.elf(kernels.BANNER + kernels.NAMES + bytes(range(256)) * 4000)
    data = kernels.bzimage(compress(BUILD[method], bare))
    assert image.parse(data).bare == bare
    assert bare in extracted(data)


def test_compressed_arm64_image_is_understood(debian: Callable[[str], Kernel]) -> None:
    bare = debian("arm64").image.bare
    found = image.parse(compress(["gzip", "-1", "-c"], bare))
    assert (found.format, found.version, found.bare) == (image.ARM64_IMAGE, debian("arm64").files.release, bare)


@pytest.mark.parametrize("method", BUILD)
def test_arm64_kernel_in_an_efi_program_is_understood(debian: Callable[[str], Kernel], method: str) -> None:
    piece = debian("arm64").image.bare[: 1 << 20]
    found = image.parse(kernels.zboot(compress(BUILD[method], piece), method.encode()))
    assert (found.format, found.compression, found.bare) == (image.ZBOOT, method, piece)
