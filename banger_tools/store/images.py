"""The images in the store: `images/NAME/{image.json, rootfs.ext4, work-seed.ext4?, kernel/…}`.

image.json is the manifest that bg-publish printed, so that an image can enter the pipe again at bg-boot.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from banger_tools import console, errors, files, locations, manifest
from banger_tools.store import kernels, names, records, staging

RECORD = "image.json"
ROOTFS, WORK_SEED, KERNEL = "rootfs.ext4", "work-seed.ext4", "kernel"
WHAT = "image"


class Parts(NamedTuple):
    """The files that an image is published from; `move` takes the disks away from where they are."""

    rootfs: Path
    work_seed: Path | None
    kernel: manifest.Kernel | None
    move: bool = False


def root() -> Path:
    """Return the folder of all images."""
    return locations.state() / "images"


def listed() -> list[str]:
    """Return the names of all images, sorted."""
    return staging.finished(root())


def find(name: str, what: str = "--image") -> manifest.Manifest:
    """Return the manifest of an image by name, its paths as they are now.

    Raises records.Missing naming near ones, Denied, or BadInput if what is there is broken.
    """
    folder = root() / names.check(name, what)
    if not records.exists(folder):
        raise _missing(name)
    try:
        loaded = manifest.loads(files.read_small(folder / RECORD, manifest.LIMIT, "an image"), f"'{folder / RECORD}'")
    except errors.NoInput as error:
        raise records.broken(folder, WHAT, f"its '{RECORD}' is missing") from error
    records.check_file(folder, ROOTFS, WHAT)
    published = loaded.get("published", manifest.Published)
    loaded.put("published", _section(folder, name, published.kernel.name if published.kernel else None))
    return loaded


def _missing(name: str) -> records.Missing:
    import difflib

    near = difflib.get_close_matches(name, listed(), 3)
    hint = f"images with a name like it: {', '.join(near)}" if near else f"banger image pull {name}"
    return records.Missing(f"there is no image '{name}'", hint)


def publish(image: manifest.Manifest, name: str, parts: Parts, *, replace: bool = False) -> manifest.Manifest:
    """Stage an image's files and give them their name in one rename; return the published manifest.

    Raises CannotCreate before any work if the name is taken, and at the end if somebody was quicker.
    """
    target = root() / names.check(name)
    with staging.staged(target, replace=replace, what=WHAT) as folder:
        with console.step("disks placed"):
            _place_disk(parts.rootfs, folder / ROOTFS, move=parts.move)
            if parts.work_seed:
                _place_disk(parts.work_seed, folder / WORK_SEED, move=parts.move)
        if parts.kernel:
            kernels.place(parts.kernel, folder / KERNEL)
        section = _section(folder, name, parts.kernel.name if parts.kernel else None, final=target)
        image.name = name
        image.put("published", section)
        (folder / RECORD).write_text(image.dumps())
    return image


def _place_disk(source: Path, target: Path, *, move: bool) -> None:
    """Put a disk into the staging folder: never as a hard link, since stages edit disks in place."""
    if move:
        try:
            os.rename(source, target)
            return
        except OSError as error:
            console.warning(f"'{source}' is copied and not moved: {errors.reason(error)}")
    how = files.copy(source, target)
    console.command(f"# {how} of {source}")


def _section(folder: Path, name: str, kernel: str | None, final: Path | None = None) -> manifest.Published:
    """Return the published section of the files in `folder`, with the paths that they have in `final`."""
    place = final or folder
    seed = str(place / WORK_SEED) if (folder / WORK_SEED).exists() else None
    described = kernels.described(folder / KERNEL, kernel) if kernel and (folder / KERNEL).is_dir() else None
    if described and final:
        described = _moved(described, folder, final)
    return manifest.Published(name, str(place), str(place / ROOTFS), seed, described)


def _moved(kernel: manifest.Kernel, source: Path, target: Path) -> manifest.Kernel:
    """Return a kernel's section with its paths below `target` instead of `source`."""
    import msgspec

    fields = msgspec.to_builtins(kernel)
    prefix = f"{source}/"
    moved = {k: f"{target}/{v.removeprefix(prefix)}" if v.startswith(prefix) else v for k, v in fields.items()}
    return msgspec.convert(moved, manifest.Kernel)
