"""What a kernel has of that which a virtual machine needs: built in, as a module, or not at all.

Told by its configuration where there is one, else by the lists of its modules, else by what must stand in a kernel
that has a driver built in: the driver's name.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from banger_tools import errors
from banger_tools.kernel.modules import Folder


class State(enum.Enum):
    """How a kernel has something; ABSENT is a module that is not with the kernel."""

    BUILTIN = "built in"
    MODULE = "module"
    ABSENT = "module that is not here"
    MISSING = "missing"
    UNKNOWN = "unknown"

    @property
    def is_lacking(self) -> bool:
        """Whether no machine with this kernel can have it."""
        return self in (State.ABSENT, State.MISSING)


class Feature(NamedTuple):
    """One thing to look for: its symbol in a configuration, its module, and the name that the kernel holds."""

    symbol: str
    module: str | None = None
    text: bytes | None = None


# The texts are names in tables, which no build leaves out, and not of messages, which CONFIG_PRINTK=n does.
FEATURES = {
    "ext4": Feature("EXT4_FS", "ext4", b"ext4\0"),
    "virtio_blk": Feature("VIRTIO_BLK", "virtio_blk", b"virtio_blk\0"),
    "virtio_net": Feature("VIRTIO_NET", "virtio_net", b"virtio_net\0"),
    "virtio_pci": Feature("VIRTIO_PCI", "virtio_pci", b"virtio-pci\0"),
    "virtio_mmio": Feature("VIRTIO_MMIO", "virtio_mmio", b"virtio-mmio\0"),
    "virtio_console": Feature("VIRTIO_CONSOLE", "virtio_console", b"virtio_console\0"),
    "vsock": Feature("VIRTIO_VSOCKETS", "vmw_vsock_virtio_transport", b"vmw_vsock_virtio_transport\0"),
    "overlay": Feature("OVERLAY_FS", "overlay", b"overlay\0"),
    "initrd": Feature("BLK_DEV_INITRD"),
    "devtmpfs": Feature("DEVTMPFS", None, b"devtmpfs\0"),
    "ACPI": Feature("ACPI", None, b"_SB_\0"),
    "virtio_mmio on the command line": Feature("VIRTIO_MMIO_CMDLINE_DEVICES"),
}
States = Mapping[str, State]


def by_config(symbols: Mapping[str, str], folder: Folder | None) -> dict[str, State]:
    """Return the features of a kernel with this configuration, and these modules."""
    return {name: _configured(feature, symbols, folder) for name, feature in FEATURES.items()}


def _configured(feature: Feature, symbols: Mapping[str, str], folder: Folder | None) -> State:
    value = symbols.get(feature.symbol, "n")
    if value == "m":
        return State.MODULE if folder is not None and feature.module in folder.paths else State.ABSENT
    return State.BUILTIN if value == "y" else State.MISSING


def by_modules(folder: Folder, bare: bytes) -> dict[str, State]:
    """Return the features of a kernel by its modules and the list of what is built in; the rest by its own text."""
    return {name: _listed(feature, folder) or _named(feature, bare) for name, feature in FEATURES.items()}


def _listed(feature: Feature, folder: Folder) -> State | None:
    if feature.module is None:
        return None
    if feature.module in folder.paths:
        return State.MODULE
    if feature.module in folder.builtin:
        return State.BUILTIN
    return State.MISSING if folder.builtin else None


def by_text(bare: bytes) -> dict[str, State]:
    """Return what can be told by an uncompressed kernel alone: what has not even its name in there is not built in."""
    return {name: _named(feature, bare) for name, feature in FEATURES.items()}


def _named(feature: Feature, bare: bytes) -> State:
    return State.MISSING if feature.text is not None and feature.text not in bare else State.UNKNOWN


def check_config(states: States, bare: bytes) -> None:
    """Check that a configuration can be that of a kernel: what it says is built in has its name in there.

    Raises BadInput naming what is not.
    """
    wrong = [name for name, state in states.items() if state is State.BUILTIN and _is_unnamed(name, bare)]
    if wrong:
        raise errors.BadInput(f"the configuration is of another kernel: this one has {_words(wrong)} not built in")


def _is_unnamed(name: str, bare: bytes) -> bool:
    return _named(FEATURES[name], bare) is State.MISSING


def _words(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def record(states: States) -> dict[str, str]:
    """Return the features in plain words, for a record in JSON."""
    return {name: state.value for name, state in states.items()}


def from_record(words: Mapping[str, str]) -> dict[str, State]:
    """Return the features that `record` wrote; what it does not name, or not in our words, is unknown."""
    known = {state.value: state for state in State}
    return {name: known.get(words.get(name, ""), State.UNKNOWN) for name in FEATURES}
