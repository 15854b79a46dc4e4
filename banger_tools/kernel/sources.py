"""What names a kernel: the grammar of REF in `bg-fetch kernel:REF`; and where the parts of one are in a folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from banger_tools import errors
from banger_tools.kernel import apt, config
from banger_tools.oci import reference
from banger_tools.store import names

HINT = "write NAME, apt:PACKAGE, https://URL.tar.zst, or a path with a slash in it: ./bzImage"
INITRD = "initrd.img"

# Where a build leaves its kernel, the one to be preferred first; of those in one line only one may be there.
_KERNELS = (
    ("arch/x86/boot/bzImage", "arch/arm64/boot/vmlinuz.efi", "arch/arm64/boot/Image"),
    ("arch/arm64/boot/Image.gz",),
    ("bzImage", "Image", "Image.gz", "vmlinuz.efi"),
    ("vmlinuz", "vmlinuz-*", "boot/vmlinuz-*"),
    ("vmlinux", "vmlinux-*", "boot/vmlinux-*"),
)
_CONFIGS = (".config", "config", "config-*", "boot/config-*")
_MODULES = ("lib/modules", "usr/lib/modules", "modules")
_BUILD = "modules.order"  # a build's own folder has it, with modules that are not installed anywhere


class Apt(NamedTuple):
    """A package of the host's package manager."""

    package: str

    def __str__(self) -> str:
        return f"apt:{self.package}"


class Archive(NamedTuple):
    """A bundle: a `.tar.zst` in a file or behind a URL, its digest and its compressed bytes if they are known."""

    bundle: reference.Bundle
    size: int | None = None

    def __str__(self) -> str:
        return str(self.bundle).removeprefix("bundle:")


class Files(NamedTuple):
    """Files that are here: a folder with what a build leaves, or a kernel with what was named to go with it."""

    path: Path
    initrd: Path | None = None
    modules: Path | None = None

    def __str__(self) -> str:
        return str(self.path.absolute())


class Parts(NamedTuple):
    """The files of a kernel, as they came; `modules` holds lib/modules/VERSION, or is it."""

    kernel: Path
    initrd: Path | None = None
    modules: Path | None = None
    config: Path | None = None
    packages: Mapping[str, str] = {}


Source = Apt | Archive | Files


def parse(text: str) -> Source | None:
    """Return what a REF names; None for a plain name, which is that of a kernel in the store or in a catalog.

    Raises BadUsage.
    """
    if text.startswith("apt:"):
        return Apt(apt.check_name(text.removeprefix("apt:")))
    if re.match(r"https?://", text):
        return Archive(reference.parse_bundle(text))
    if "/" in text and text.isprintable():
        return Archive(reference.Bundle(text)) if text.endswith(".tar.zst") else Files(Path(text))
    if not reference.may_be_catalog_name(text):
        raise errors.BadUsage(f"'{text}' names no kernel", HINT)
    return None


def name_of(source: Source) -> str:
    """Return the name that a kernel gets in the store unless another is given."""
    match source:
        case Apt(package):
            return names.derived(package.removeprefix("linux-image-"))
        case Archive(bundle):
            return reference.friendly_name(bundle)
    return names.derived(source.path.absolute().name)


def parts(source: Files) -> Parts:
    """Return the parts of a kernel that is in files.

    Raises NoInput if there is none, BadInput if a folder holds several.
    """
    if not source.path.is_dir():
        return Parts(source.path, source.initrd, source.modules, config.beside(source.path))
    if source.initrd or source.modules:
        raise errors.BadUsage(f"'{source.path}' is a folder: its own initrd and modules are taken")
    return of_folder(source.path)


def of_folder(folder: Path) -> Parts:
    """Return the parts that a build left in a folder, or that somebody put there under the names of the store."""
    kernel = next(filter(None, (_only(folder, patterns) for patterns in _KERNELS)), None)
    if kernel is None:
        looked = ", ".join(pattern for patterns in _KERNELS for pattern in patterns)
        raise errors.NoInput(f"'{folder}' holds no kernel", f"looked for {looked}")
    initrd = folder / INITRD
    return Parts(kernel, initrd if initrd.is_file() else None, _modules(folder), _only(folder, _CONFIGS))


def _only(folder: Path, patterns: tuple[str, ...]) -> Path | None:
    """Return the one file that matches; None if none does; raises BadInput naming them if there are several."""
    found = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    if len({path.resolve() for path in found}) > 1:
        there = ", ".join(f"'{path.relative_to(folder)}'" for path in found)
        raise errors.BadInput(f"'{folder}' holds several: {there}", "name the one that is meant")
    return found[0] if found else None


def _modules(folder: Path) -> Path | None:
    """Return the folder that modules were installed into, else the build's own."""
    installed = next((folder / place for place in _MODULES if (folder / place).is_dir()), None)
    if installed is not None:
        return installed
    return folder if (folder / _BUILD).is_file() else None
