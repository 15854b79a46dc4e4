"""Images get other names, and the machines that were made from them refer to these.

The folder is renamed at once, the machines follow, and the image's own record comes last: as long as that has the
former name, the renaming was broken off and can be completed. Who asks meanwhile which machines were made from an image
is told right (`images.uses`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from msgspec import structs

from banger_tools import console, errors, files, manifest
from banger_tools.store import images, names, records, staging, vms
from banger_tools.vmm import life
from banger_tools.vmm import spec as specs


def rename(old: str, new: str) -> None:
    """Give an image another name; VMs made from it refer to that one.

    Raises records.Missing, CannotCreate if the name is taken, BadInput if the image is broken, Retry if it or a VM is
    in use for long.
    """
    target = images.root() / names.check(new, "NEW")
    images.find(old, "OLD")
    staging.refuse_taken(target, replace=False, what=images.WHAT)
    with images.locked(old), contextlib.ExitStack() as stack:
        _complete(old)
        using = _following(old, stack)
        try:
            files.rename(images.root() / old, target, files.RENAME_NOREPLACE)
        except FileExistsError as error:
            raise staging.taken(target, images.WHAT) from error
        files.sync_folder(images.root())
        _settle(new, using)


def complete(name: str) -> bool:
    """Do what is left of a renaming that was broken off; tell whether that could be done: nobody may use the image."""
    try:
        with images.locked(name, wait=0):
            return _complete(name)
    except (records.Missing, errors.Retry):
        return False


def _complete(name: str) -> bool:
    """Do what is left of a renaming under the image's lock, if anything is; tell whether it was."""
    if images.former_name(name) is None:
        return False
    with contextlib.ExitStack() as stack:
        _settle(name, _following(name, stack))
    return True


def _following(name: str, stack: contextlib.ExitStack) -> list[str]:
    """Return the VMs that were made from an image, which are kept as they are until `stack` ends."""
    return [vm for vm in images.users(name) if _can_follow(vm, stack)]


def _can_follow(vm: str, stack: contextlib.ExitStack) -> bool:
    """Keep a VM as it is until `stack` ends, and tell whether its records can be read and changed."""
    try:
        stack.enter_context(life.held(vm))
        vms.load(vm)
    except records.Missing:  # it went meanwhile
        return False
    except errors.BadInput as error:
        console.warning(f"the VM '{vm}' still refers to the image by its old name: {error.message}")
        return False
    return True


def _settle(name: str, using: Sequence[str]) -> None:
    """Let VMs refer to an image by the name that it has, and at last its own record."""
    for vm in using:
        _refer(vm, name)
    images.write(name, images.find(name))


def _refer(vm: str, name: str) -> None:
    """Note in a VM's records the name that its image has now: last in the one that tells whose it is."""
    record, image = vms.load(vm), vms.image(vm)
    published = image.get("published", manifest.Published)
    image.name = name
    image.put("published", _renamed(published, name))
    vms.save(structs.replace(record, spec=structs.replace(record.spec, image=name)))
    files.write_text(vms.folder(vm) / specs.IMAGE, image.dumps(), force=True, mode=0o600)


def _renamed(published: manifest.Published, name: str) -> manifest.Published:
    """Return a published section with another name, its paths below the folder of that name."""
    old, new = Path(published.path), Path(published.path).parent / name
    kernel = published.kernel and images.relocated(published.kernel, old, new)
    seed = str(new / images.WORK_SEED) if published.work_seed else None
    rootfs = str(new / images.ROOTFS)
    return structs.replace(published, name=name, path=str(new), rootfs=rootfs, work_seed=seed, kernel=kernel)
