"""What there is to pull: images of four kinds of sources, each with files, sizes and layers of its own."""

from __future__ import annotations

import itertools
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests import machines, registry, support

MARK = "soak"  # the file of each image that has its name
KERNEL = machines.KERNEL


class Ware(NamedTuple):
    """An image to pull: its name, which is in it, too, and where it is to be had."""

    name: str
    reference: str


def kernel() -> None:
    """Put the kernel of all images into the store, if it is not there."""
    if support.run("banger", "kernel", "show", KERNEL).returncode:
        support.run_ok("banger", "kernel", "pull", f"--name={KERNEL}", "apt:linux-image-cloud-amd64")


def make(folder: Path, host: str, number: int) -> list[Ware]:
    """Make so many images, those of the registry at `host` there, and return them."""
    kinds: tuple[Callable[[str, Path, str], str], ...] = (_pushed, _layout, _tar, _bundle)
    made = []
    for place, kind in zip(range(number), itertools.cycle(kinds)):
        name = f"{kind.__name__[1:]}{place}"
        own = folder / name
        _root(own / "root", name, place)
        made.append(Ware(name, kind(name, own, host)))
        shutil.rmtree(own / "root")
    return made


def _root(root: Path, name: str, number: int) -> None:
    """Make a root filesystem: the later its number, the larger are its files, and the fewer."""
    machines.busybox_root(root)
    (root / MARK).write_text(f"{name}\n")
    (root / "root" / ".profile").write_text(f"name={name}\n")
    chance, content = random.Random(number), root / "srv"
    for file in range(2048 >> number):
        path = content / str(file % 7) / str(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(chance.randbytes(4096 << number))


def _pack(own: Path, *words: str) -> bytes:
    argv = ["tar", "-C", str(own / "root"), "--owner=0", "--group=0", "-c", *words]
    return subprocess.run(argv, check=True, capture_output=True).stdout


def _tar(_name: str, own: Path, _host: str) -> str:
    (own / "rootfs.tar").write_bytes(_pack(own, "."))
    return f"rootfs:{own / 'rootfs.tar'}"


def _layers(own: Path) -> Path:
    """Make a layout of two layers; the lower one is the same in all images."""
    return registry.umoci_layout(own, [_pack(own, "--mtime=@0", "./bin"), _pack(own, "--exclude=./bin", ".")])


def _layout(_name: str, own: Path, _host: str) -> str:
    return f"oci:{_layers(own)}:v1"


def _pushed(name: str, own: Path, host: str) -> str:
    layout = _layers(own)
    registry.push(layout, "v1", f"{host}/soak/{name}:v1")
    shutil.rmtree(layout)
    return f"{host}/soak/{name}:v1"


def _bundle(name: str, own: Path, host: str) -> str:
    bundle = own / "bundle.tar.zst"
    support.run_ok("banger", "image", "pull", f"--kernel-ref={KERNEL}", f"--name={name}", _tar(name, own, host))
    support.run_ok("banger", "image", "export", name, bundle)
    support.run_ok("banger", "image", "delete", name)
    (own / "rootfs.tar").unlink()
    return f"bundle:{bundle}"
