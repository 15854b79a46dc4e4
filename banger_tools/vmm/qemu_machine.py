"""Which machine QEMU is for a guest: q35 or virt, or microvm, which has no PCI and starts sooner, where it is safe.

Under TCG microvm is not: it has no timer to measure the processor's clock by. A Debian 12 kernel hung there in 9 of 10
boots (q35: 0 of 17) unless told the clock's frequency by `tsc_early_khz=`: 0 of 17, and 0.1 s of 3.6 s sooner. But no
host tells an ordinary program that frequency: what /proc/cpuinfo says changes with the load of a processor, and a wrong
one makes the guest's clock run wrong. Under KVM the guest has KVM's own clock, and a kernel is tried there first: in a
machine in a machine that trial keeps one from hanging, where q35 boots.
"""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from typing import NamedTuple

from banger_tools import errors, process
from banger_tools.vmm import fit, probe
from banger_tools.vmm import spec as specs


class Machine(NamedTuple):
    """What differs from one machine to the next; `bus` is how the names of its virtio devices end."""

    name: str
    program: str
    options: str
    console: str
    bus: str
    settings: tuple[str, ...] = ()


# force-legacy: devices without PCI would be those of before virtio 1.0
_MODERN = ("-global", "virtio-mmio.force-legacy=false")
MICROVM = Machine("microvm", "qemu-system-x86_64", "microvm,acpi=on", "ttyS0", "device", _MODERN)
_MACHINES = {
    "amd64": Machine("q35", "qemu-system-x86_64", "q35", "ttyS0", "pci"),
    # gic-version: with KVM the host's own, which may be the only one that it can do
    "arm64": Machine("virt", "qemu-system-aarch64", "virt,gic-version=max", "ttyAMA0", "pci"),
}
_HOSTS = {"x86_64": "amd64", "aarch64": "arm64"}


def usual(architecture: str) -> Machine:
    """Return the machine for an architecture; raises Unavailable if there is none."""
    if architecture not in _MACHINES:
        raise errors.Unavailable(f"there is no machine for the architecture '{architecture}'")
    return _MACHINES[architecture]


def best(spec: specs.Spec, accelerator: str) -> Machine:
    """Return the machine for a spec: microvm if its kernel can boot there, which a trial with KVM proved."""
    found = usual(spec.architecture)
    if spec.architecture != "amd64" or accelerator != "kvm" or not _suits_microvm(spec):
        return found
    trial = probe.microvm(found.program, version(found.program), kernel(spec))
    return MICROVM if trial.usable else found


def _suits_microvm(spec: specs.Spec) -> bool:
    """Tell whether a kernel has the drivers for a machine without PCI."""
    from banger_tools.kernel import bootable

    wants = bootable.Wants(network=spec.net != "none", read_only=spec.guest.read_only)
    verdict = bootable.verdict(fit.booted_kernel(spec.boot), "microvm", wants)
    return not verdict.lacks and (spec.boot.initrd is not None or not verdict.by_initrd)


def kernel(spec: specs.Spec) -> Path:
    """Return the file that QEMU boots."""
    return Path(spec.boot.vmlinuz or spec.boot.kernel)


def accelerator(spec: specs.Spec) -> str:
    """Return `kvm` where a trial proved it, else `tcg`."""
    if spec.architecture != _HOSTS.get(os.uname().machine):
        return "tcg"
    _, program, options, console, *_ = usual(spec.architecture)
    return "kvm" if probe.kvm(program, version(program), kernel(spec), options, console).usable else "tcg"


@functools.cache
def version(program: str) -> str:
    """Return the version text of a QEMU; raises Unavailable naming the package if it is not installed."""
    text = process.run([program, "--version"]).stdout.decode(errors="replace")
    match = re.search(r"version (\S+)", text)
    return match[1] if match else text.splitlines()[0]


@functools.cache
def has_option(program: str, option: str) -> bool:
    """Tell whether a QEMU was built with an option."""
    return f"\n{option} ".encode() in process.run([program, "-help"]).stdout
