"""What the tests of stored images share: small disks, images made of them, and machines of these, never started."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from banger_tools.manifest import Published
from banger_tools.store import images
from banger_tools.vmm import life
from banger_tools.vmm import spec as specs
from tests import machines, support


def disk(folder: Path, name: str = "disk", text: str = "hello\n") -> Path:
    """Make a small ext4 file with one file in it."""
    content = folder / f"{name}-content"
    content.mkdir(parents=True)
    (content / "greeting").write_text(text)
    return machines.mke2fs(folder / f"{name}.ext4", content, "8M", "-E", "root_owner=0:0")


def publish(rootfs: Path, name: str, *words: str, **sections: Any) -> Path:
    """Publish an image, and return its folder."""
    text = machines.manifest(rootfs, **sections)
    printed = support.run_ok("bg-publish", "--no-kernel", "--path", f"--name={name}", *words, stdin=text)
    return Path(printed.decode().strip())


def seed(folder: Path, name: str = "seed") -> dict[str, Any]:
    """Make a work seed, and return its section of a manifest."""
    made = disk(folder, name, "work\n")
    return {"path": str(made), "size": made.stat().st_size, "uuid": "", "home": "/root", "entries": 1}


def machine(name: str, image: str) -> Path:
    """Make a machine from an image of the store, as bg-boot does it, and return its folder."""
    found = images.find(image)
    published = found.get("published", Published)
    kernel = images.root().parent / "bzImage"
    kernel.write_bytes(b"kernel")
    work = Path(published.work_seed) if published.work_seed else None
    spec = specs.Spec(
        f"id-of-{name}", name, image, "amd64", "qemu", 1, 128 << 20, "none", specs.Boot(str(kernel)), specs.Guest()
    )
    with images.unchanging(found):
        return life.create(spec, life.Sources(Path(published.rootfs), work, None, None), found)


def image(*words: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command of `banger image`."""
    return support.run("banger", "image", *words)


def image_ok(*words: str) -> str:
    return support.run_ok("banger", "image", *words).decode()


def record(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "image.json").read_text())
    assert isinstance(found, dict)
    return found


def listed(home: Path) -> list[str]:
    """Return all that stands where the images are, unfinished ones, too."""
    place = home / "state" / "images"
    return sorted(path.name for path in place.iterdir()) if place.exists() else []


def fsck(path: Path) -> None:
    subprocess.run(["e2fsck", "-fn", path], check=True, capture_output=True)


def said(path: Path, name: str = "greeting") -> str:
    """Return a file of a disk, by debugfs."""
    done = subprocess.run(["debugfs", "-R", f"cat /{name}", path], check=True, capture_output=True, text=True)
    return done.stdout
