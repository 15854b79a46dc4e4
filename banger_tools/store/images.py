"""The images in the store: `images/NAME/{image.json, rootfs.ext4, work-seed.ext4?, kernel/…}`.

image.json is the manifest that bg-publish printed, so that an image can enter the pipe again at bg-boot. The disks of
an image that is not managed are symlinks to where they are.

Who copies from an image shares the lock of its folder meanwhile; who replaces, renames or removes it waits for that.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from banger_tools import console, errors, files, locations, manifest
from banger_tools.store import digests, kernels, names, records, staging

RECORD = "image.json"
ROOTFS, WORK_SEED, KERNEL = "rootfs.ext4", "work-seed.ext4", "kernel"
DISKS = (ROOTFS, WORK_SEED)
WHAT = "image"

Announce = Callable[[manifest.Manifest], object]


class Parts(NamedTuple):
    """The files that an image is published from; `move` takes the disks away from where they are.

    With `link` they stay there: the image is not managed.
    """

    rootfs: Path
    work_seed: Path | None
    kernel: manifest.Kernel | None
    move: bool = False
    link: bool = False


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
    return records.of_one(root() / names.check(name, what), lambda: _find(name))


def _find(name: str) -> manifest.Manifest:
    loaded = read(name)
    _check_disks(root() / name)
    published = loaded.get("published", manifest.Published)
    loaded.name = name
    loaded.put("published", _section(root() / name, published))
    return loaded


def read(name: str) -> manifest.Manifest:
    """Return the record of an image as it was written."""
    folder = root() / name
    check_there(name)
    try:
        return manifest.loads(files.read_small(folder / RECORD, manifest.LIMIT, "an image"), f"'{folder / RECORD}'")
    except errors.NoInput as error:
        raise records.broken(folder, WHAT, f"its '{RECORD}' is missing") from error


def write(name: str, image: manifest.Manifest) -> None:
    """Write the record of an image of the store."""
    files.write_text(root() / name / RECORD, image.dumps(), force=True)


def former_name(name: str) -> str | None:
    """Return the name that an image has in its record, if that is another one: its renaming was broken off."""
    with contextlib.suppress(errors.BangerError):
        told = read(name).get("published", manifest.Published).name
        return told if told != name else None
    return None


def _check_disks(folder: Path) -> None:
    """Check that the disks can be read; raises BadInput naming the one that is missing, or where it ought to be."""
    for path in (folder / ROOTFS, folder / WORK_SEED):
        if path.is_symlink() and not records.exists(path.resolve()):
            raise records.broken(folder, WHAT, f"'{os.readlink(path)}' is missing")
    records.check_file(folder, ROOTFS, WHAT)


def check_there(name: str) -> None:
    """Check that there is an image of that name, broken or not.

    Raises records.Missing naming near ones, Denied.
    """
    if not records.exists(root() / name):
        raise _missing(name)


def _missing(name: str) -> records.Missing:
    import difflib

    near = difflib.get_close_matches(name, listed(), 3)
    hint = f"images with a name like it: {', '.join(near)}" if near else f"banger image pull {name}"
    return records.Missing(f"there is no image '{name}'", hint)


def is_managed(name: str) -> bool:
    """Tell whether an image's disks are the store's own."""
    return not (root() / name / ROOTFS).is_symlink()


def _nobody(_image: manifest.Manifest) -> None:
    """Tell nobody of an image."""


def publish(
    image: manifest.Manifest, name: str, parts: Parts, *, replace: bool = False, announce: Announce = _nobody
) -> manifest.Manifest:
    """Stage an image's files and give them their name in one rename; return the published manifest.

    `announce` gets it, too, as soon as the image has its name; if that fails, nothing was published. Disks that are to
    be moved go from where they are only after that. Raises CannotCreate before any work if the name is taken, and at
    the end if somebody was quicker.
    """
    target = root() / names.check(name)
    moved: list[Path] = []
    with staging.staged(target, replace=replace, what=WHAT, announce=lambda: announce(image)) as folder:
        with console.step("disks placed"):
            moved += _place_disk(parts.rootfs, folder / ROOTFS, parts)
            if parts.work_seed:
                moved += _place_disk(parts.work_seed, folder / WORK_SEED, parts)
        if parts.kernel:
            kernels.place(parts.kernel, folder / KERNEL)
        kernel = parts.kernel and kernels.described(folder / KERNEL, parts.kernel.name)
        about = manifest.Published(name, str(folder), "", kernel=kernel, digests=own_digests(folder))
        image.name = name
        image.put("published", _section(folder, about, final=target))
        (folder / RECORD).write_text(image.dumps())
    _remove_moved(moved)
    return image


def _place_disk(source: Path, target: Path, parts: Parts) -> list[Path]:
    """Put a disk into the staging folder; return which name of it must go for that.

    One that is to be moved has two names until it is published, so that it is never lost. Any other is no hard link:
    stages edit disks in place.
    """
    if parts.link:
        target.symlink_to(source.absolute())
        return []
    if parts.move:
        try:
            os.link(source.resolve(), target)
            return [source.resolve()]
        except OSError as error:
            console.warning(f"'{source}' is copied and not moved: {errors.reason(error)}")
    how = files.copy(source, target)
    console.command(f"# {how} of {source}")
    return []


def _remove_moved(disks: Iterable[Path]) -> None:
    """Take the names away that disks had before they were moved."""
    for disk in disks:
        try:
            os.unlink(disk)
        except OSError as error:
            console.warning(f"'{disk}' is the store's own disk now, and could not be removed: {errors.reason(error)}")


def own_digests(folder: Path) -> dict[str, str]:
    """Return the digests of the disks in a folder that are not somebody else's, who may change them."""
    with console.step("disks read for their digests"):
        own = [name for name in DISKS if (folder / name).exists() and not (folder / name).is_symlink()]
        return {name: digests.of_disk(folder / name) for name in own}


def _section(folder: Path, about: manifest.Published, final: Path | None = None) -> manifest.Published:
    """Return the published section of the files in `folder`, with the paths that they have in `final`."""
    place = final or folder
    seed = str(place / WORK_SEED) if (folder / WORK_SEED).exists() else None
    kernel = about.kernel.name if about.kernel else None
    described = kernels.described(folder / KERNEL, kernel) if kernel and (folder / KERNEL).is_dir() else None
    if described and final:
        described = relocated(described, folder, final)
    return manifest.Published(place.name, str(place), str(place / ROOTFS), seed, described, about.digests)


def relocated(kernel: manifest.Kernel, source: Path, target: Path) -> manifest.Kernel:
    """Return a kernel's section with its paths below `target` instead of `source`."""
    import msgspec

    fields = msgspec.to_builtins(kernel)
    prefix = f"{source}/"
    moved = {k: f"{target}/{v.removeprefix(prefix)}" if v.startswith(prefix) else v for k, v in fields.items()}
    return msgspec.convert(moved, manifest.Kernel)


# What changes an image, and who may not be disturbed by that ------------------


@contextlib.contextmanager
def locked(name: str, *, shared: bool = False, wait: float = staging.LOCK_SECONDS) -> Iterator[None]:
    """Hold the lock of an image: alone, or with others who copy from it.

    Raises records.Missing, or Retry if others keep it for so long, a minute if nothing is said.
    """
    with contextlib.ExitStack() as stack:
        lock = files.locked_folder(root() / name, wait=wait, what=f"the {WHAT} '{name}'", shared=shared)
        try:
            stack.enter_context(lock)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _missing(name) from error
        except OSError as error:
            raise errors.os_error(error, f"cannot open '{root() / name}'") from error
        yield


@contextlib.contextmanager
def unchanging(image: manifest.Manifest) -> Iterator[None]:
    """See to it that an image, if it is one of the store, is neither replaced nor removed while it is copied from.

    Raises records.Missing if it was removed since its manifest was read, Retry if another one has its name by now.
    """
    folder = Path(image.get("published", manifest.Published).path)
    if folder.parent != root():
        yield
        return
    with locked(folder.name, shared=True):
        if _disks_of(find(folder.name)) != _disks_of(image):
            raise errors.Retry(f"the image '{folder.name}' was replaced meanwhile", "try again")
        yield


def _disks_of(image: manifest.Manifest) -> tuple[object, ...]:
    """Return what tells an image's disks from others, in its manifest."""
    published = image.get("published", manifest.Published)
    return published.digests, image.raw.get("rootfs")


def uses() -> dict[str, list[str]]:
    """Return the VMs that were made from each image of the store; those that cannot be read are warned of."""
    from banger_tools.store import vms

    renamed = {old: name for name in listed() if (old := former_name(name))}
    found: dict[str, list[str]] = {}
    for vm in vms.listed():
        try:
            image = vms.image(vm)
            name = origin(image)
            if name in renamed and not _is_made_from(image, name):  # nobody told it of its image's new name
                name = renamed[name]
        except records.Missing:  # it went meanwhile
            continue
        except errors.BangerError as error:
            console.warning(f"which image the VM '{vm}' uses cannot be told: {error.message}")
        else:
            found.setdefault(name or "", []).append(vm)
    found.pop("", None)
    return found


def users(name: str) -> list[str]:
    """Return the VMs that were made from an image of the store."""
    return uses().get(name, [])


def origin(image: manifest.Manifest) -> str | None:
    """Return the name in the store of the image that a VM was made from; None if it was made from a file.

    The store may have been moved since.
    """
    published = image.get("published", manifest.Published)
    path = Path(published.path)
    stored = Path(published.rootfs) == path / ROOTFS and path.parent.name == root().name
    return path.name if stored else None


def _is_made_from(image: manifest.Manifest, name: str) -> bool:
    """Tell whether the image that a VM was made from is the one that has a name by now."""
    with contextlib.suppress(errors.BangerError):
        return _disks_of(find(name)) == _disks_of(image)
    return False


def check_unused(name: str, *, force: bool = False) -> None:
    """Check that an image is there, broken or not, and that no VM uses it (unless `force`).

    Raises records.Missing, Denied, or CannotCreate naming the VMs.
    """
    check_there(names.check(name, "NAME"))
    using = [] if force else users(name)
    if using:
        hint = "they have disks of their own: with --force it is deleted, and these stay"
        named = ", ".join(f"VM '{vm}'" for vm in using)
        raise errors.CannotCreate(f"the image '{name}' is used by {named}", hint)


def delete(name: str, *, force: bool = False) -> None:
    """Remove an image from the store; VMs keep their disks, and one that is not managed its files.

    Raises what `check_unused` raises, or Retry while VMs are made from it for long.
    """
    check_there(names.check(name, "NAME"))
    with locked(name):
        check_unused(name, force=force)
        staging.retire(root() / name)
