"""Whether an image of the store is what its manifest says: its digests, its filesystems, its files, its tree.

Nothing is changed; a difference is a sentence that names the file.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from banger_tools import collection, console, errors, process, tree
from banger_tools.guest.plan import AGENT
from banger_tools.kernel import record
from banger_tools.manifest import Guest, Manifest, Published, Tree
from banger_tools.store import digests, images

if TYPE_CHECKING:
    from banger_tools.ext4.image import Image
    from banger_tools.ext4.owners import Wanted

_AGENT_LIMIT = 64 << 20
_MENTIONED = 20  # paths of one kind of difference


def differences(name: str) -> Iterator[str]:
    """Yield what is different in an image; one that cannot be read at all is one difference.

    Raises records.Missing, Denied.
    """
    images.check_there(name)
    try:
        image = images.find(name, "NAME")
        for disk in _disks(image):
            yield from _disk(image, disk)
        yield from _kernel(image)
        yield from _content(image)
    except errors.Denied:
        raise
    except errors.BangerError as error:
        yield error.message


def _disks(image: Manifest) -> list[Path]:
    published = image.get("published", Published)
    return [Path(path) for path in (published.rootfs, published.work_seed) if path]


def _disk(image: Manifest, disk: Path) -> Iterator[str]:
    """Compare one disk with the manifest, and let e2fsck judge it."""
    section = image.raw.get("rootfs" if disk.name == images.ROOTFS else "work_seed") or {}
    size, linked = disk.stat().st_size, disk.is_symlink()
    if not linked and section.get("size") not in (None, size):
        yield f"'{disk}' has {size} bytes, and the manifest says {section['size']}"
    known = None if linked else image.get("published", Published).digests.get(disk.name)
    if known:
        with console.step(f"'{disk.name}' read"):
            found = digests.of_disk(disk)
        if found != known:
            yield f"'{disk}' was changed since it was published: it has the digest {found}, not {known}"
    elif not linked:
        console.note(f"the manifest of '{image.name}' has no digest of '{disk.name}'")
    with console.step(f"'{disk.name}' checked"):
        checked = process.run(["e2fsck", "-fn", str(disk)], check=False)
    if checked.status:
        lines = [line for line in checked.stdout.decode(errors="replace").splitlines() if line and line[:5] != "Pass "]
        yield f"'{disk}' is damaged, says e2fsck: {'; '.join(lines[:3])}"


def _kernel(image: Manifest) -> Iterator[str]:
    """Compare the files of an image's kernel with their record."""
    folder = Path(image.get("published", Published).path, images.KERNEL)
    if not folder.is_dir():
        if image.get("published", Published).kernel:
            yield f"'{folder}' is missing"
        return
    stored = record.read(folder)
    if stored.digest and record.own_digest(folder, stored) != stored.digest:
        yield f"the files in '{folder}' are not those of the kernel '{stored.name}': they have another digest"


def _content(image: Manifest) -> Iterator[str]:
    """Compare the files in the root filesystem with what the manifest says of them."""
    from banger_tools.ext4.image import opened

    with collection.paused(), opened(Path(image.get("published", Published).rootfs)) as disk:
        if image.has("guest"):
            yield from _guest(disk, image.get("guest", Guest))
        yield from _tree(disk, image)


def _guest(disk: Image, guest: Guest) -> Iterator[str]:
    """Compare what was put in so that the image boots and answers."""
    from banger_tools.ext4.view import View

    view = View(disk)
    lost = [path for path in guest.files if view.at(path) is None]
    yield from _sentences("is missing, and was put into the image", lost)
    agent = view.read(AGENT, _AGENT_LIMIT) if guest.agent else None
    if agent is not None and f"sha256:{hashlib.sha256(agent).hexdigest()}" != guest.agent:
        yield f"{AGENT} in the image is another program than the manifest says: {guest.agent}"


def _tree(disk: Image, image: Manifest) -> Iterator[str]:
    """Compare types, owners and modes with the tree that the image was made from, if that is still there."""
    if not image.has("tree"):
        return
    section = image.get("tree", Tree)
    if not Path(section.path).exists():
        console.detail(f"the tree of '{image.name}' is not there any more, and not compared: '{section.path}'")
        return
    from banger_tools.ext4.owners import Wanted

    wanted = Wanted(disk)
    wanted.take_tree(tree.read(Path(section.path), digest=section.digest).entries, edited=True)
    put = _put(image)
    for how, paths in (("is in the tree, and not in the image", wanted.missing), ("is not in the tree", wanted.new)):
        yield from _sentences(how, [path.decode(errors="replace") for path in paths if path not in put])
    if not _has_own_owners(image):
        yield from _owners(wanted, put)


def _owners(wanted: Wanted, put: set[bytes]) -> Iterator[str]:
    found = [str(one) for one in wanted.differences() if one.owner.path not in put]
    yield from found[:_MENTIONED]
    if len(found) > _MENTIONED:
        yield f"{len(found) - _MENTIONED} more owners or modes are not those of the tree"


def _put(image: Manifest) -> set[bytes]:
    """Return the paths that bg-inject has put into an image or changed, and the folders that it made for them."""
    guest = image.get("guest", Guest).files if image.has("guest") else []
    found = set(map(os.fsencode, guest))
    for path in guest:
        while path not in ("/", ""):
            path = posixpath.dirname(path)
            found.add(os.fsencode(path))
    return found


def _has_own_owners(image: Manifest) -> bool:
    """Tell whether bg-chown was told of owners that the tree does not have."""
    history = image.raw.get("history") or []
    return any(one.get("tool") == "bg-chown" and one.get("options") for one in history if isinstance(one, dict))


def _sentences(how: str, paths: list[str]) -> Iterator[str]:
    for path in paths[:_MENTIONED]:
        yield f"{path} {how}"
    if len(paths) > _MENTIONED:
        yield f"{len(paths) - _MENTIONED} more paths: each {how}"
