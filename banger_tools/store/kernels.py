"""The kernels in the store: `kernels/NAME/{vmlinux, vmlinuz, initrd.img, modules/, config, kernel.json}`.

Who puts a kernel there, copies it or removes it holds its lock meanwhile, so nobody has parts of two. Its name appears
and goes in one rename.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import structs

from banger_tools import console, errors, files, lease, locations, manifest
from banger_tools.kernel import bootable, features, record, sources
from banger_tools.kernel.record import RECORD, WHAT, Stored
from banger_tools.kernel.record import described as described
from banger_tools.kernel.sources import Source
from banger_tools.store import names, records, staging

Announce = Callable[[manifest.Kernel], object]

_DEFAULTS = {"debian": "linux-image-cloud-{}", "ubuntu": "linux-image-virtual"}  # by ID of os-release(5)


def root() -> Path:
    """Return the folder of all kernels."""
    return locations.state() / "kernels"


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock of a kernel's name."""
    with files.locked(lock_file(name), what=f"the kernel '{name}'", passing=True):
        yield


def lock_file(name: str) -> Path:
    """Return the file whose lock is that of a kernel's name."""
    return locations.state() / "locks" / f"kernel-{name}"


def default_ref(architecture: str) -> str:
    """Return the kernel that this host's own packages offer for virtual machines, as a ref."""
    import platform

    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    words = [release.get("ID", ""), *release.get("ID_LIKE", "").split()]
    pattern = next((_DEFAULTS[word] for word in words if word in _DEFAULTS), _DEFAULTS["debian"])
    return f"apt:{pattern.format(architecture)}"


def listed() -> list[str]:
    """Return the names of all kernels, sorted."""
    return staging.finished(root())


def find(name: str) -> Stored:
    """Return a kernel of the store by name.

    Raises records.Missing, Denied, or BadInput if what is there is broken.
    """
    folder = root() / names.check(name, "--kernel-ref")

    def look() -> Stored:
        stored = record.read(folder)
        records.check_file(folder, "vmlinux", WHAT)
        return stored

    return records.of_one(folder, look)


def obtain(ref: str, *, offline: bool = False) -> manifest.Kernel:
    """Return a kernel with its initrd, by its name here or in a catalog, as `apt:PACKAGE`, or as the URL of a bundle.

    One that is not here is fetched and kept, once if several ask for it. Only a kernel that is really not there is
    fetched: one that is broken or may not be read is an error. Raises what `find` and `fetching.fetch` raise.
    """
    source = sources.parse(ref)
    if isinstance(source, sources.Files) or (isinstance(source, sources.Archive) and not source.bundle.is_url):
        raise errors.BadUsage(f"--kernel-ref: '{ref}' is a path", "take it into the store: banger kernel import")
    name = names.check(sources.name_of(source) if source else ref, "--kernel-ref")
    with locked(name):
        try:
            stored = find(name)
        except records.Missing as error:
            _fetch(ref, source, name, error, offline=offline)
            return described(root() / name, name)
        if source is not None:
            refuse_another(stored, source)
        _refresh_initrd(stored)
    return described(root() / name, name)


def refuse_another(stored: Stored, source: Source) -> None:
    """Raise CannotCreate if a kernel of the store came from somewhere else than a source that gives the same name."""
    if stored.source != str(source):
        hint = f"banger kernel pull --force {source} replaces it, with --name=NAME both are kept"
        raise errors.CannotCreate(f"the kernel '{stored.name}' here is of '{stored.source}', not of '{source}'", hint)


def _fetch(ref: str, source: Source | None, name: str, missing: records.Missing, *, offline: bool) -> None:
    """Fetch a kernel that is missing, and keep it; whoever calls has its lock."""
    from banger_tools import config
    from banger_tools.catalog import kernels as catalogs
    from banger_tools.catalog import lookup
    from banger_tools.catalog.origins import Access
    from banger_tools.kernel import fetching
    from banger_tools.oci.cache import Cache
    from banger_tools.oci.http import Settings
    from banger_tools.oci.pull import Wants

    settings = Settings(offline=offline, registries=config.load().registries)
    if source is None:
        access = Access(locations.cache(), settings)
        found = catalogs.find(ref, access)
        if found is None:
            near = lookup.nearest(ref, [*listed(), *catalogs.known(access)])
            hint = near or f"kernels here: {', '.join(listed()) or 'none'}; others: banger kernel catalog"
            raise records.Missing(f"{missing.message}, here or in a catalog", hint)
        console.note(str(found))
        source = found.source
    console.note(f"there is no kernel '{name}' yet: fetching {source}")
    cache = Cache(locations.cache())
    with console.stage("kernel fetch"), console.step(f"kernel '{name}' fetched"), lease.held(cache.sweep):
        _keep(fetching.fetch(source, name, Wants(settings=settings), cache).kernel, name)


def of_files(kernel: Path, initrd: Path | None, modules: Path | None) -> manifest.Kernel:
    """Return a kernel out of files that are here, with an initrd made of its modules; it is in the cache only."""
    from banger_tools.kernel import fetching
    from banger_tools.oci.cache import Cache
    from banger_tools.oci.pull import Wants

    cache = Cache(locations.cache())
    source = sources.Files(kernel, initrd, modules)
    with lease.held(cache.sweep):
        return fetching.fetch(source, sources.name_of(source), Wants(), cache).kernel


def _nobody(_kernel: manifest.Kernel) -> None:
    """Tell nobody of a kernel."""


def keep(kernel: manifest.Kernel, name: str, *, replace: bool = False, announce: Announce = _nobody) -> manifest.Kernel:
    """Put a kernel that was fetched into the store, whole or not at all, and return it as it stands there.

    `announce` gets it, too, as soon as it has its name; if that fails, nothing is put there. The very same kernel may
    be there already. Raises CannotCreate if another one is (unless `replace`), BadInput if the files are not
    those that the manifest speaks of.
    """
    with locked(names.check(name)):
        return _keep(kernel, name, replace=replace, announce=announce)


def _keep(
    kernel: manifest.Kernel, name: str, *, replace: bool = False, announce: Announce = _nobody
) -> manifest.Kernel:
    target, source = root() / name, Path(kernel.kernel).parent
    try:
        stored = record.read(source)
    except (records.Missing, errors.BadInput) as error:
        error.hint = "fetch it again: bg-fetch kernel:REF"
        raise
    if not replace and _is_the_same(target, stored):
        console.note(f"the kernel '{name}' is here already")
        announce(described(target, name))
        return described(target, name)
    told = functools.partial(_announced, target, announce)
    with staging.staged(target, replace=replace, what=WHAT, announce=told) as folder:
        _place(source, folder)
        if kernel.digest not in (None, record.digest(folder)):
            raise errors.BadInput(f"the files in '{source}' are not those that the manifest speaks of")
        records.write(folder, RECORD, record.with_initrd(folder, structs.replace(stored, name=name)))
    return described(target, name)


def _announced(folder: Path, announce: Announce) -> None:
    announce(described(folder, folder.name))


def _is_the_same(folder: Path, other: Stored) -> bool:
    """Tell whether a kernel of the store is another one but for its name and its initrd."""
    if not records.exists(folder):
        return False
    return structs.replace(find(folder.name), name=other.name, initrd_key=other.initrd_key) == other


def _refresh_initrd(stored: Stored) -> None:
    """Make the initrd of a kernel again if the guest program is another one than it was made with."""
    fresh = record.with_initrd(root() / stored.name, stored)
    if fresh != stored:
        records.write(root() / stored.name, RECORD, fresh)


def beside(kernel: Path) -> bootable.Kernel | None:
    """Return where a kernel file of the store, or of an image's own copy, boots by the record beside it; None if none.

    What a record of an older time does not say is unknown, and nothing is refused for it.
    """
    if not (kernel.parent / RECORD).is_file():
        return None
    stored = record.read(kernel.parent)
    direct = stored.pvh or stored.architecture == "arm64" or (kernel.parent / "vmlinuz").exists()
    return bootable.Kernel(stored.architecture, features.from_record(stored.features), direct)


def place(kernel: manifest.Kernel, folder: Path) -> manifest.Kernel:
    """Put a kernel's files into `folder` by hard link where the filesystem can, so that it outlives the store's."""
    source = Path(kernel.kernel).parent
    with unchanging(source):
        _place(source, folder)
    return described(folder, kernel.name)


@contextlib.contextmanager
def unchanging(folder: Path) -> Iterator[None]:
    """See to it that a kernel's folder, if it is one of the store, is neither replaced nor removed meanwhile."""
    with locked(folder.name) if folder.parent == root() else contextlib.nullcontext():
        yield


def _place(source: Path, folder: Path) -> None:
    for path in record.listed(source):
        target = folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        share(path, target)


def share(source: Path, target: Path) -> None:
    """Give a file another name: by hard link if it is ours and so never written to, else by a copy."""
    if any(source.is_relative_to(folder) for folder in (locations.state(), locations.cache())):
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    files.copy(source, target)


def users(name: str) -> list[str]:
    """Return which images and VMs have a copy of a kernel, as in "image 'web'"; what cannot be read is warned of."""
    from banger_tools.store import images, vms

    found = []
    for image in images.listed():
        with _warned(f"image '{image}'"):
            own = images.find(image).get("published", manifest.Published).kernel
            found += [f"image '{image}'"] if own is not None and own.name == name else []
    for vm in vms.listed():
        with _warned(f"VM '{vm}'"):
            found += [f"VM '{vm}'"] if vms.load(vm).spec.boot.name == name else []
    return found


@contextlib.contextmanager
def _warned(what: str) -> Iterator[None]:
    try:
        yield
    except errors.BangerError as error:
        console.warning(f"whether the {what} uses the kernel cannot be told: {error.message}")


def check_unused(name: str, *, force: bool = False) -> None:
    """Check that a kernel is there, broken or not, and that nothing uses it (unless `force`).

    Raises records.Missing, Denied, or CannotCreate naming the images and VMs.
    """
    folder = root() / names.check(name, "NAME")
    if not records.exists(folder):
        raise records.missing(folder, WHAT, listed())
    using = [] if force else users(name)
    if using:
        hint = "they have copies of their own: with --force it is deleted, and these stay"
        raise errors.CannotCreate(f"the kernel '{name}' is used by {', '.join(using)}", hint)


def delete(name: str, *, force: bool = False) -> None:
    """Remove a kernel from the store; images and VMs keep their own copies.

    Raises what `check_unused` raises.
    """
    with locked(names.check(name, "NAME")):
        check_unused(name, force=force)
        staging.retire(root() / name)
