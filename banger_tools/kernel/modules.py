"""The modules that a boot needs, with all that they depend on, in the order in which they load.

Dependencies are read out of the modules themselves: a Debian package holds no modules.dep (depmod makes that at
installation), and kmod need not be there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from banger_tools import errors, files
from banger_tools.kernel import elf, payload

# In load order; what a kernel has built in, or has not at all, is skipped.
WANTED = (
    "virtio_ring",
    "virtio",
    "virtio_pci",
    "virtio_mmio",
    "virtio_blk",
    "crc32c_generic",
    "ext4",
    "virtio_net",
    "virtio_console",
    "virtio_rng",
    "vmw_vsock_virtio_transport",
    "overlay",
    "autofs4",  # systemd asks for it, and the image has no modules of this kernel
)
LIMIT = 64 << 20
SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")
_PLACES = ("*", "modules/*", "lib/modules/*", "usr/lib/modules/*")


class Module(NamedTuple):
    """One module: its name (with underscores), where it stands, and its plain ELF bytes."""

    name: str
    path: Path
    data: bytes


class Folder:
    """The modules of one kernel: a lib/modules/VERSION folder, looked up by name."""

    def __init__(self, root: Path) -> None:
        self.root = root
        # sorted, so that of two of one name the one in updates/ wins over kernel/, as it does for depmod
        self.paths = {module_name(path): path for path in sorted(root.rglob("*.ko*")) if _is_module(path)}
        self.builtin = {module_name(Path(line)) for line in _lines(root / "modules.builtin")}

    def read(self, name: str) -> Module:
        """Return a module, decompressed."""
        path = self.paths[name]
        data = files.read_small(path, LIMIT, "a kernel module")
        if path.suffix != ".ko":
            data = payload.decompress(data, limit=LIMIT, what=f"the module '{path}'")
        return Module(name, path, data)


def _is_module(path: Path) -> bool:
    return path.name.endswith(SUFFIXES) and path.is_file()


def locate(folder: Path, release: str) -> Path:
    """Return the folder of a kernel's modules: `folder` itself, or the one below it where builds and packages put them.

    Raises NoInput if there is none, BadInput if there are several and none is named as the kernel's release.
    """
    if (folder / "kernel").is_dir() or (folder / "modules.builtin").is_file():
        return folder
    found = {path for pattern in _PLACES for path in folder.glob(pattern) if (path / "kernel").is_dir()}
    named = {path for path in found if path.name == release} or found
    if not named:
        raise errors.NoInput(f"'{folder}' holds no modules", "give the folder lib/modules/VERSION")
    if len({path.resolve() for path in named}) > 1:
        there = ", ".join(sorted(path.name for path in named))
        raise errors.BadInput(f"'{folder}' holds the modules of several kernels: {there}")
    return min(named)


def check_version(folder: Folder, release: str) -> str:
    """Check by their vermagic that the modules that a boot needs are a kernel's, and return its release.

    A kernel that does not say its release takes any, as long as they agree. Raises BadInput naming both versions.
    """
    for name in WANTED:
        if name in folder.paths:
            found = version(folder.read(name))
            release = release or found
            if found != release:
                raise errors.BadInput(f"the module '{folder.paths[name]}' is for '{found}', the kernel is '{release}'")
    return release


def module_name(path: Path) -> str:
    """Return a module's name as the kernel writes it: virtio-rng.ko.xz is virtio_rng."""
    return path.name.split(".ko", 1)[0].replace("-", "_")


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []


def closure(folder: Folder, wanted: Iterable[str] = WANTED) -> list[Module]:
    """Return the wanted modules that exist, each after all that it depends on.

    Raises BadInput if a dependency is neither there nor built in.
    """
    ordered: dict[str, Module] = {}
    for name in wanted:
        if name in folder.paths:
            _add(folder, name, ordered, ())
    return list(ordered.values())


def _add(folder: Folder, name: str, ordered: dict[str, Module], asked_by: Sequence[str]) -> None:
    if name in ordered or name in folder.builtin:
        return
    if name in asked_by:
        raise errors.BadInput(f"the modules '{name}' and '{asked_by[-1]}' depend on each other")
    if name not in folder.paths:
        raise errors.BadInput(f"the module '{asked_by[-1]}' needs '{name}', which is not in '{folder.root}'")
    module = folder.read(name)
    info = elf.module_info(module.path, module.data)
    for needed in _hard(info):
        _add(folder, needed, ordered, (*asked_by, name))
    for helpful in _soft(info):
        if helpful in folder.paths:
            _add(folder, helpful, ordered, (*asked_by, name))
    ordered[name] = module


def _hard(info: dict[str, list[str]]) -> list[str]:
    return [name.replace("-", "_") for line in info.get("depends", []) for name in line.split(",") if name]


def _soft(info: dict[str, list[str]]) -> list[str]:
    """Return what is to be loaded before a module if it can be (`softdep=pre: a b post: c`)."""
    found: list[str] = []
    for line in info.get("softdep", []):
        before = line.partition("pre:")[2].partition("post:")[0]
        found += [name.replace("-", "_") for name in before.split()]
    return found


def copy_closure(source: Path, target: Path) -> list[str]:
    """Copy the modules that a boot needs, under their own paths, and the list of what is built in.

    Returns their names in load order.
    """
    folder = Folder(source)
    chosen = closure(folder)
    for path in [*(module.path for module in chosen), source / "modules.builtin"]:
        if path.exists():
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            files.copy(path, place)
    return [module.name for module in chosen]


def version(module: Module) -> str:
    """Return the kernel version that a module was built for, out of its vermagic."""
    magic = elf.module_info(module.path, module.data).get("vermagic", [""])[0]
    return magic.split(" ", 1)[0]
