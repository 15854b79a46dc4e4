"""What tests of kernels and machines share: a kernel of the host's packages, and small root filesystems."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests import support

KERNEL = "cloud-amd64"


def elf(sections: Mapping[str, bytes], *, machine: int = 62, kind: int = 1) -> bytes:
    """Return a 64-bit ELF file (relocatable unless `kind` says else) that has these sections."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name in [*sections, ".shstrtab"])
    bodies = [b"", *sections.values(), names]
    offset, headers = 64, []
    for number, (name, body) in enumerate(zip(["", *sections, ".shstrtab"], bodies, strict=True)):
        label = names.index(b"\0" + name.encode() + b"\0") + 1 if name else 0
        section_type = 0 if number == 0 else 3 if name == ".shstrtab" else 1
        headers.append(struct.pack("<IIQQQQIIQQ", label, section_type, 0, 0, offset, len(body), 0, 0, 1, 0))
        offset += len(body)
    identity = b"\x7fELF\x02\x01\x01" + bytes(9)
    counts = (64, 0, 0, 64, len(headers), len(headers) - 1)
    head = identity + struct.pack("<HHIQQQIHHHHHH", kind, machine, 1, 0x1000000, 0, offset, 0, *counts)
    return head + b"".join(bodies) + b"".join(headers)


def module(depends: str = "", **fields: str) -> bytes:
    """Return a kernel module that says this of itself."""
    lines = {"depends": depends, "vermagic": "6.1.0-test SMP mod_unload ", **fields}
    return elf({".modinfo": b"".join(f"{key}={value}".encode() + b"\0" for key, value in lines.items())})


def mke2fs(image: Path, content: Path | None = None, size: str = "32M", *options: str) -> Path:
    """Make an ext4 image with the distribution's own program."""
    support.need("mke2fs")
    source = ["-d", str(content)] if content else []
    argv = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", *options, *source, str(image), size]
    subprocess.run(argv, check=True, env=support.environment(), capture_output=True)
    return image


def busybox_root(folder: Path) -> Path:
    """Make a root filesystem of one static busybox and nothing else: no init, no /dev, no /proc."""
    busybox = shutil.which("busybox", path=support.search_path())
    if busybox is None:
        support.cannot("not installed: busybox-static")
    (folder / "bin").mkdir(parents=True)
    (folder / "root").mkdir(mode=0o700)
    shutil.copy(busybox, folder / "bin" / "busybox")
    for name in ("sh", "cat", "ls", "id", "echo", "sleep", "kill", "stat", "df", "hostname", "sync", "test", "env"):
        (folder / "bin" / name).symlink_to("busybox")
    return folder


def manifest(rootfs: Path, name: str = "tiny", **sections: Any) -> str:
    """Return a manifest as the stage before bg-publish prints it."""
    disk = {"path": str(rootfs), "size": rootfs.stat().st_size, "uuid": "", "label": "", "free_bytes": 0}
    section = {**disk, "free_inodes": 0, "mediaType": "application/vnd.banger.ext4"}
    return json.dumps({"schema": "banger-manifest/1", "name": name, "rootfs": section, **sections})
