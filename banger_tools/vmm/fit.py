"""Whether a kernel, an initrd, an image and a machine fit together, told before the machine is made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from banger_tools import console, errors

INIT = "/usr/local/libexec/banger-init"

if TYPE_CHECKING:
    from banger_tools.kernel import bootable
    from banger_tools.vmm.spec import Boot, Forward, Spec


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


def warn_of_promised_ports(forwards: list[Forward]) -> None:
    """Warn of ports that are free now, but that another machine asks for at its next start."""
    from banger_tools.store import vms
    from banger_tools.vmm import spec as specs

    for name in vms.listed() if forwards else ():
        try:
            others = vms.load(name).spec.forwards
        except errors.BangerError:  # a broken record is its own command's trouble
            continue
        for forward in forwards:
            if any(specs.same_port(forward, other) for other in others):
                console.warning(f"port {forward.host_port} is that of the VM '{name}', too: only one can run at a time")


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
