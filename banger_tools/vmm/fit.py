"""Whether a kernel, an initrd, an image and a machine fit together, told before the machine is made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from banger_tools import console, errors

INIT = "/usr/local/libexec/banger-init"

if TYPE_CHECKING:
    from banger_tools.kernel import bootable
    from banger_tools.vmm.spec import Boot, Forward, Record, Spec


def check(spec: Spec, *, agent: bool) -> None:
    """Check that what a spec boots can boot an image; with `agent`, that it can be reached there, too.

    Raises BadInput naming what is lacking, and what `image.read` and `initrd.look` raise for files that are no such.
    """
    from banger_tools.kernel import bootable

    kernel = booted_kernel(spec.boot)
    what = f"the kernel '{spec.boot.kernel}'"
    if kernel.architecture != spec.architecture:
        raise errors.BadInput(f"{what} is for {kernel.architecture}, the image for {spec.architecture}")
    wants = bootable.Wants(agent=agent, network=spec.net != "none", read_only=spec.guest.read_only)
    bootable.require(kernel, what, spec.vmm, wants, initrd=spec.boot.initrd is not None)


def check_init(boot: Boot, rootfs: Path) -> None:
    """Check that a kernel without an initrd finds our init in the image; raises BadInput if it does not."""
    from banger_tools.ext4 import image

    if boot.initrd is not None or "init=" in boot.append:
        return
    try:
        with image.opened(rootfs) as disk:
            found = disk.resolve(INIT.encode(), follow=True)
    except errors.BadInput:  # the kernel may know features that we do not
        return
    if found is None:
        hint = "run bg-inject on it, or use a kernel of the store that has an initrd"
        raise errors.BadInput(f"the image has no '{INIT}', and the kernel no initrd that has it", hint)


def refuse_taken_ports(spec: Spec) -> None:
    """Raise CannotCreate if a port of a machine is in use, or Denied if this user may not listen on it.

    Nobody listens on the ports of a machine at a tap: rules lead to it what goes there, whoever else listens.
    """
    from banger_tools.vmm import spec as specs

    specs.refuse_taken_ports(spec.forwards)
    for forward, other in _also_of_others(spec):
        if _is_led_to(other):
            name = other.spec.name
            raise errors.CannotCreate(f"--publish: port {forward.host_port}: leads to the VM '{name}' already")


def warn_of_promised_ports(spec: Spec) -> None:
    """Warn of ports that are free now, but that another machine asks for at its next start."""
    for forward, other in _also_of_others(spec):
        name = other.spec.name
        console.warning(f"port {forward.host_port} is that of the VM '{name}', too: only one can run at a time")


def _also_of_others(spec: Spec) -> Iterator[tuple[Forward, Record]]:
    """Yield the ports that other machines of the store have, too, with these."""
    from banger_tools.store import vms
    from banger_tools.vmm import spec as specs

    for name in vms.listed() if spec.forwards else ():
        if name == spec.name:
            continue
        try:
            other = vms.load(name)
        except errors.BangerError:  # a broken record is its own command's trouble
            continue
        for forward in spec.forwards:
            if any(specs.same_port(forward, its) for its in other.spec.forwards):
                yield forward, other


def _is_led_to(record: Record) -> bool:
    """Tell whether rules lead ports of this host to a machine: it runs, at a tap that is in the network we are in."""
    import socket

    from banger_tools.store import vms
    from banger_tools.vmm import holder

    network = record.process.network if record.process else None
    taps = [name for _, name in socket.if_nameindex()]
    return network is not None and network.tap in taps and holder.is_alive(vms.folder(record.spec.name))


def booted_kernel(boot: Boot) -> bootable.Kernel:
    """Return where a kernel boots: by the record beside it, else by what the files themselves say."""
    from banger_tools.kernel import bootable, config, image, understood
    from banger_tools.store import kernels

    path = Path(boot.kernel)
    stored = kernels.beside(path)
    if stored is not None:
        return stored
    kernel = image.read(path)
    about = understood.understand(kernel, config_file=config.beside(path))
    if boot.initrd:
        about = understood.with_initrd(about, Path(boot.initrd))
    return bootable.Kernel(kernel.architecture, about.features, kernel.is_direct or boot.vmlinuz is not None)
