"""What a kernel can boot, on which machine, and what it lacks: told before a machine is made, not by a panic.

A root disk needs the machine's transport, virtio_blk, ext4 and devtmpfs. What is a module needs an initrd to load it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from banger_tools import errors
from banger_tools.kernel.features import State, States

_ROOT = ("virtio_blk", "ext4", "devtmpfs")
_NETWORK = "virtio_net"
_OVERLAY = "overlay"
_BY_COMMAND_LINE = "virtio_mmio on the command line"
DIRECT = "what QEMU starts (a bzImage, a PVH entry, or an arm64 Image)"
_WITH_MODULES = "banger kernel import --modules makes an initrd of its modules"
_UNCONNECTED = "it boots without a network: --net none"
_TAKEN_APART = "give the bzImage of the same build, or let banger kernel import take this one apart"


class Machine(NamedTuple):
    """A kind of machine: its devices' transport, the agent's channel, and whether it starts a bare ELF by itself."""

    text: str
    transport: str
    channel: str
    starts_elf: bool


MACHINES = {
    "qemu": Machine("QEMU (q35, virt)", "virtio_pci", "virtio_console", False),
    "microvm": Machine("QEMU (microvm)", "virtio_mmio", "virtio_console", False),
    "firecracker": Machine("Firecracker", "virtio_mmio", "vsock", True),
}


class Kernel(NamedTuple):
    """What decides where a kernel boots: architecture, features, and whether QEMU can start its file (`direct`)."""

    architecture: str
    features: States
    direct: bool


class Wants(NamedTuple):
    """What a machine is to have besides its root disk."""

    agent: bool = True
    network: bool = True
    read_only: bool = False


ALL = Wants()


class Verdict(NamedTuple):
    """What a kernel lacks on a machine (nothing: it boots), and what of it only an initrd can load."""

    machine: str
    lacks: tuple[str, ...]
    by_initrd: tuple[str, ...]


def verdict(kernel: Kernel, name: str, wants: Wants = ALL) -> Verdict:
    """Return how a kernel stands to a machine of MACHINES."""
    machine = MACHINES[name]
    needed = list(_needed(machine, wants))
    lacks = [feature for feature in needed if kernel.features[feature].is_lacking]
    by_initrd = [feature for feature in needed if kernel.features[feature] is State.MODULE]
    if by_initrd and kernel.features["initrd"].is_lacking:
        lacks.append("initrd")
    if machine.transport == "virtio_mmio" and not lacks and not _finds_mmio(kernel):
        lacks.append(f"ACPI, or {_BY_COMMAND_LINE}")
    if not machine.starts_elf and not kernel.direct:
        lacks.append(DIRECT)
    return Verdict(name, tuple(lacks), tuple(by_initrd))


def verdicts(kernel: Kernel) -> list[Verdict]:
    """Return how a kernel stands to each machine that there is for its architecture."""
    names = [name for name in MACHINES if name != "microvm" or kernel.architecture == "amd64"]
    return [verdict(kernel, name) for name in names]


def _needed(machine: Machine, wants: Wants) -> Iterator[str]:
    yield machine.transport
    yield from _ROOT
    if wants.agent:
        yield machine.channel
    if wants.network:
        yield _NETWORK
    if wants.read_only:
        yield _OVERLAY


def _finds_mmio(kernel: Kernel) -> bool:
    """Tell whether a kernel is told where its mmio devices are: arm64 by the device tree, amd64 by one of two ways.

    The words on the command line reach a driver that is built in only.
    """
    if kernel.architecture != "amd64" or not kernel.features["ACPI"].is_lacking:
        return True
    by_words = not kernel.features[_BY_COMMAND_LINE].is_lacking
    return by_words and kernel.features["virtio_mmio"] is not State.MODULE


def require(kernel: Kernel, what: str, name: str, wants: Wants, *, initrd: bool) -> None:
    """Check that a kernel, called `what`, boots an image on a machine, with an initrd or without.

    Raises BadInput naming what it lacks.
    """
    found = verdict(kernel, name, wants)
    text = MACHINES[name].text
    if found.lacks:
        raise errors.BadInput(
            f"{what} cannot boot an image on {text}: it lacks {_listed(found.lacks)}", _hint(kernel, found)
        )
    if found.by_initrd and not initrd:
        raise errors.BadInput(
            f"{what} needs an initrd to boot an image on {text}: {_listed(found.by_initrd)} are modules", _WITH_MODULES
        )


def _hint(kernel: Kernel, found: Verdict) -> str | None:
    if any(kernel.features.get(name) is State.ABSENT for name in found.lacks):
        return _WITH_MODULES
    if len(found.lacks) > 1:
        return None
    return {DIRECT: _TAKEN_APART, _NETWORK: _UNCONNECTED}.get(found.lacks[0])


def _listed(names: tuple[str, ...]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
