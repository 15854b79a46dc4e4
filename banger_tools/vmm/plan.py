"""What a new machine will be, out of an image and what is asked of it; nothing is made here but a name."""

from __future__ import annotations

import secrets
import uuid
from pathlib import Path

from msgspec import structs

from banger_tools import console, errors
from banger_tools.manifest import Manifest, Published
from banger_tools.net import taps
from banger_tools.store import kernels, names, records, staging, vms
from banger_tools.vmm import choose, fit, guest_config, life
from banger_tools.vmm import spec as specs
from banger_tools.vmm.options import Options, Room, existing
from banger_tools.vmm.spec import Boot, Spec

WORK_DISK = 1 << 30


def machine(image: Manifest, options: Options) -> Spec:
    """Return the spec of a VM that can be made and started here; nothing is made yet.

    Raises what is wrong with it: a name or port is taken, the kernel cannot boot it, no monitor can run it, it cannot
    have its network.
    """
    spec = specify(image, options)
    staging.refuse_taken(vms.folder(spec.name), replace=False, what=vms.WHAT)
    if spec.net == "tap":
        taps.foresee()
    with console.stage("kernel"), console.step("kernel found"):
        booted = choose_boot(image, options)
    with console.stage("monitor"):
        spec = choose.settle(structs.replace(spec, boot=booted))
    fit.check(spec, agent=options.wait != "none")
    fit.check_init(spec.boot, existing(image.get("published", Published).rootfs))
    return spec


def specify(image: Manifest, options: Options) -> Spec:
    """Return the spec of the VM that an image and the options make."""
    published = image.get("published", Published)
    process = options.process
    guest = specs.Guest(
        **guest_config.process_of(image.process, options.env, run=process.run, own=process.command),
        ssh_keys=options.ssh_keys,
        git=options.git,
        read_only=options.read_only,
    )
    guest = specs.overridden(guest, process.user, process.cwd)
    if guest.run and not guest.argv:
        raise errors.BadInput("--run: the image has no command of its own", "name one with --command")
    spec = specs.Spec(
        id=str(uuid.uuid4()),
        name=options.name or generated_name(published.name),
        image=published.name,
        architecture=image.architecture,
        vmm=options.vmm,
        cpus=options.cpus,
        memory=options.memory,
        net=options.net,
        boot=specs.Boot("", append=options.append),
        guest=guest,
        forwards=options.forwards,
        nat=options.nat,
        jail=options.jail,
        limits=options.limits,
    )
    fit.refuse_taken_ports(spec)
    fit.warn_of_promised_ports(spec)
    return spec


def generated_name(image: str) -> str:
    """Return a name for a VM of an image that is free, and short enough for a host name."""
    while True:
        name = f"{names.derived_vm(image)[:50].strip('-') or 'vm'}-{secrets.token_hex(2)}"
        if not records.exists(vms.folder(name)):
            return name


def choose_boot(image: Manifest, options: Options) -> Boot:
    """Return what is booted: --kernel, else --kernel-ref, else the image's own kernel, else the host's default."""
    if options.kernel and options.modules:
        made = kernels.of_files(options.kernel, options.initrd, options.modules)
        return specs.Boot(made.kernel, made.vmlinuz, made.initrd, options.append)
    if options.kernel:
        return specs.Boot(str(options.kernel), None, str(options.initrd) if options.initrd else None, options.append)
    own = image.get("published", Published).kernel
    if options.kernel_ref or own is None:
        ref = options.kernel_ref or kernels.default_ref(image.architecture)
        own = kernels.obtain(ref, offline=options.offline)
    if own.architecture != image.architecture:
        raise errors.BadInput(f"the kernel '{own.name}' is for {own.architecture}, the image for {image.architecture}")
    for path in (own.kernel, own.vmlinuz, own.initrd):
        if path is not None:
            existing(path)
    return specs.Boot(own.kernel, own.vmlinuz, own.initrd, options.append, own.name)


def sources(image: Manifest, options: Options) -> life.Sources:
    """Return what the disks of a VM are made from, and how large they are to be."""
    published = image.get("published", Published)
    rootfs = existing(published.rootfs)
    seed = Path(published.work_seed) if published.work_seed else None
    return life.Sources(rootfs, seed, options.disk and options.disk.over(rootfs), _work_size(seed, options))


def _work_size(seed: Path | None, options: Options) -> int | None:
    """Return the size of the work disk: as asked or settled, else roomy if there is a seed for it."""
    if seed is None:
        return options.work_disk and options.work_disk.size
    return (options.work_disk or Room(WORK_DISK, exact=False)).over(seed)
