"""The kernels in the store: `kernels/NAME/{vmlinux, vmlinuz, initrd.img, modules/, config, kernel.json}`."""

from __future__ import annotations

import os
from pathlib import Path

from msgspec import Struct, structs

from banger_tools import console, errors, files, locations, manifest
from banger_tools.kernel import apt, bootable, features, image, initrd, modules, understood
from banger_tools.store import names, records, staging

SCHEMA = "banger-kernel/1"
RECORD = "kernel.json"
WHAT = "kernel"
_DEFAULTS = {"debian": "linux-image-cloud-{}", "ubuntu": "linux-image-virtual"}  # by ID of os-release(5)


class Stored(Struct, frozen=True):
    """The record of a kernel: what it is, where it came from, what it has, and what its initrd was made of.

    `format`, `compression` and `banner` are those of the file that it came in, `features` in the words of
    kernel/features.py, which `evidence` told.
    """

    schema: str
    name: str
    version: str
    architecture: str
    source: str
    pvh: bool
    packages: dict[str, str] = {}
    modules: list[str] = []
    initrd_key: str | None = None
    format: str = ""
    compression: str | None = None
    banner: str = ""
    evidence: str = ""
    features: dict[str, str] = {}


def root() -> Path:
    """Return the folder of all kernels."""
    return locations.state() / "kernels"


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
    stored = records.read(folder, RECORD, Stored, WHAT)
    if stored.schema != SCHEMA:
        raise errors.BadInput(f"the kernel '{name}' has the schema '{stored.schema}', and we read '{SCHEMA}'")
    records.check_file(folder, "vmlinux", WHAT)
    return stored


def obtain(ref: str, *, pull: bool = True) -> manifest.Kernel:
    """Return a kernel with its initrd, by name or as `apt:PACKAGE`; what is missing is fetched and made once.

    Only a kernel that is really not there is fetched. Raises what `find` and `apt.unpack` raise.
    """
    scheme, colon, package = ref.partition(":")
    name = names.derived(package.removeprefix("linux-image-")) if colon else ref
    if colon and scheme != "apt":
        raise errors.BadUsage(f"--kernel-ref: '{ref}' is neither the name of a kernel nor apt:PACKAGE")
    names.check(name, "--kernel-ref")
    with files.locked(locations.state() / "locks" / f"kernel-{name}", what=f"the kernel '{name}'"):
        try:
            stored = find(name)
        except records.Missing as error:
            if not colon or not pull:
                error.hint = f"kernels here: {', '.join(listed()) or 'none'}; get one with --kernel-ref apt:PACKAGE"
                raise
            stored = fetch(name, package)
        _refresh_initrd(stored)
    return described(root() / name, name)


def fetch(name: str, package: str) -> Stored:
    """Take a kernel from a package of the host into the store under `name`."""
    console.note(f"fetching the kernel package '{package}' through apt")
    with console.step(f"kernel '{name}' fetched"), staging.staged(root() / name, what=WHAT) as folder:
        with files.temporary_folder(folder / "packages") as work:
            unpacked = apt.unpack(package, work)
            stored = _fill(folder, name, f"apt:{package}", unpacked)
        records.write(folder, RECORD, stored)
    return stored


def _fill(folder: Path, name: str, source: str, unpacked: apt.Unpacked) -> Stored:
    """Stage a kernel's files and return their record."""
    kernel = image.read(unpacked.vmlinuz)
    about = understood.understand(kernel, modules_folder=unpacked.modules, config_file=unpacked.config)
    (folder / "vmlinux").write_bytes(kernel.bare)
    if kernel.is_bzimage:
        files.copy(unpacked.vmlinuz, folder / "vmlinuz")
    if unpacked.config:
        files.copy(unpacked.config, folder / "config")
    chosen = modules.copy_closure(unpacked.modules, folder / "modules") if unpacked.modules else []
    return Stored(
        SCHEMA,
        name,
        about.version or unpacked.vmlinuz.name.partition("-")[2],
        kernel.architecture,
        source,
        kernel.pvh,
        packages=unpacked.packages,
        modules=chosen,
        format=kernel.format,
        compression=kernel.compression,
        banner=kernel.banner,
        evidence=about.evidence,
        features=features.record(about.features),
    )


def beside(kernel: Path) -> bootable.Kernel | None:
    """Return where a kernel file of the store, or of an image's own copy, boots by the record beside it; None if none.

    What a record of an older time does not say is unknown, and nothing is refused for it.
    """
    if not (kernel.parent / RECORD).is_file():
        return None
    stored = records.read(kernel.parent, RECORD, Stored, WHAT)
    direct = stored.pvh or stored.architecture == "arm64" or (kernel.parent / "vmlinuz").exists()
    return bootable.Kernel(stored.architecture, features.from_record(stored.features), direct)


def _refresh_initrd(stored: Stored) -> None:
    """Make the initrd of a kernel again if the guest program is another one than it was made with."""
    from banger_tools import guest

    folder = root() / stored.name
    init = initrd.read_init(guest.program(stored.architecture))
    key = initrd.key(init, stored.version)
    if stored.initrd_key == key and (folder / "initrd.img").exists():
        return
    source = modules.Folder(folder / "modules")
    with console.step(f"initrd of '{stored.name}' made"), files.atomic(folder / "initrd.img", force=True) as temporary:
        with open(temporary, "xb") as output:
            initrd.write(output, init, [source.read(module) for module in stored.modules])
    records.write(folder, RECORD, structs.replace(stored, initrd_key=key))


def described(folder: Path, name: str) -> manifest.Kernel:
    """Return the manifest's words for the kernel whose files stand in `folder`."""
    stored = records.read(folder, RECORD, Stored, WHAT)

    def path(part: str) -> str | None:
        return str(folder / part) if (folder / part).exists() else None

    return manifest.Kernel(
        name=name,
        version=stored.version,
        architecture=stored.architecture,
        kernel=str(records.check_file(folder, "vmlinux", WHAT)),
        vmlinuz=path("vmlinuz"),
        initrd=path("initrd.img"),
        modules=path("modules"),
    )


def place(kernel: manifest.Kernel, folder: Path) -> manifest.Kernel:
    """Put a kernel's files into `folder` by hard link where the filesystem can, so that it outlives the store's."""
    source = Path(kernel.kernel).parent
    for path in sorted(source.rglob("*")):
        target = folder / path.relative_to(source)
        if path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        elif not path.name.startswith("."):
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(path, target)
    return described(folder, kernel.name)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        files.copy(source, target)


def delete(name: str) -> None:
    """Remove a kernel from the store; published images keep their own."""
    find(name)
    staging.retire(root() / name)
