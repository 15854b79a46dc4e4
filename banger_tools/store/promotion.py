"""Images that are not managed become the store's own: their disks are copied into it."""

from __future__ import annotations

import os
from pathlib import Path

from msgspec import structs

from banger_tools import console, errors, files, manifest
from banger_tools.ext4.image import opened
from banger_tools.store import images, names, staging


def promote(name: str) -> manifest.Manifest:
    """Copy the disks of an image that is not managed into the store, and return its manifest.

    Raises CannotCreate if it is managed already, BadInput if a disk is not clean or somebody wrote to it meanwhile.
    """
    folder = images.root() / names.check(name, "NAME")
    images.find(name, "NAME")
    if images.is_managed(name):
        raise errors.CannotCreate(f"the image '{name}' is managed already")
    linked = _linked(folder)
    with staging.aside(folder) as work:
        for disk, source in linked.items():
            _copy_unchanged(source, work / disk)
        staging.sync_tree(work)
        known = {**images.own_digests(folder), **images.own_digests(work)}
        with images.locked(name):
            if _linked(folder) != linked:
                raise errors.Retry(f"the image '{name}' was replaced meanwhile", "look at it: banger image show")
            _adopt(name, work, known)
        return images.find(name)


def _linked(folder: Path) -> dict[str, Path]:
    """Return where the disks in a folder are that are not the store's own."""
    return {disk: Path(os.readlink(folder / disk)) for disk in images.DISKS if (folder / disk).is_symlink()}


def _adopt(name: str, work: Path, known: dict[str, str]) -> None:
    """Let an image's own disks take the place of its links.

    The root filesystem comes last: it tells whose the image is, and what was killed before that can be done again.
    """
    folder, image = images.root() / name, images.read(name)
    image.put("published", structs.replace(image.get("published", manifest.Published), digests=known))
    images.write(name, image)
    for disk in sorted(os.listdir(work), key=images.DISKS.index, reverse=True):
        os.rename(work / disk, folder / disk)
    files.sync_folder(folder)


def _copy_unchanged(source: Path, target: Path) -> None:
    """Copy a disk that is not ours; raises BadInput if it is not clean, or somebody wrote to it meanwhile."""
    with opened(source):
        pass  # it would be refused
    before = source.stat()
    with console.step(f"'{source}' copied"):
        files.copy(source, target)
    after = source.stat()
    if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
        raise errors.BadInput(f"'{source}' was written to while it was copied", "try again when nobody uses it")
