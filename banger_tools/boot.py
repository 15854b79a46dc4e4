"""bg-boot: start a virtual machine from an image, and wait until it answers.

Usage:
  bg-boot [options] [--publish=FORWARD]... [--env=VAR]... [INPUT]

Arguments:
  INPUT  The manifest of a published image, or an ext4 file; the manifest on stdin if none is given or it is '-'.

Options:
  --image=NAME             Boot an image of the store by name, in place of INPUT.
  --name=NAME              Name of the VM and its host name; made from the image's if not given.
  --vmm=VMM                Monitor: auto, firecracker or qemu [default: auto].
  --cpus=N                 Virtual CPUs [default: 1].
  --memory=SIZE            Memory [default: 1G].
  --disk=SIZE              Grow the root disk to this size.
  --work-disk=SIZE         Size of the disk for /root; 1G if the image has a work seed, else none.
  --net=NET                Network: user, tap or none [default: user].
  --nat                    On a tap, let the machine reach what the host reaches.
  --publish=FORWARD        Lead a port of the host to the guest: [ADDRESS:]PORT:GUESTPORT[/tcp|/udp]. Repeatable.
  --env=VAR                NAME=VALUE for the guest's programs; overrides the image's. Repeatable.
  --ssh-key=FILE           Public keys that may log in as root.
  --git-identity=WHO       Who root's commits are by: 'Name <mail>', or host for what this host's git says.
  --read-only              Keep the root disk as it is; changes live in memory.
  --run                    Run the image's own command, and power off when it ends.
  --kernel-ref=REF         Kernel: its name in the store or in a catalog, apt:PACKAGE, or the URL of a bundle.
  --kernel=FILE            Kernel file, in place of the image's.
  --initrd=FILE            Initrd for --kernel.
  --modules=DIR            Modules for --kernel: an initrd is made of those that it needs.
  --append=WORDS           More words for the kernel's command line.
  --wait=WHAT              Return when the agent answers, or at once: agent or none [default: agent].
  --timeout=SECONDS        How long to wait for the agent [default: 120].
  --keep                   Keep the VM's folder when it does not start, to look at.
  --path                   Print the path of the VM's folder instead of the manifest.
  @talk

Description:
  The VM is a folder in the store: a copy of the image's disks (by reflink where the filesystem can, else without
  their holes), sockets, and the console's log. Its monitor is a process of its own, which outlives this command and
  its terminal; nothing else keeps running. QEMU uses KVM where booting a kernel with it works, which is tried once
  with a time limit, and runs without it elsewhere.

  Wrong values are refused before anything is made, as is a kernel that cannot boot the image: the error names what
  it lacks. A start that fails is undone: the monitor is ended, and the folder removed unless --keep is given; the
  error shows the end of the guest's console.

  --ssh-key and --git-identity are for this VM alone and stand on its work disk, if it has one: the keys are added to
  root's authorized_keys, and root's .gitconfig gets one line that includes a file with the identity.

Examples:
  bg-boot --image bookworm --name web --publish 8080:80
  bg-boot --image bookworm --net tap --nat | jq -r .vm.address
  bg-fetch apt:bookworm | bg-flatten | bg-mkext4 | bg-chown | bg-inject | bg-seed | bg-publish | bg-boot

Exit status:
  0   the VM answers, or what was asked is done
  64  the command line is wrong
  65  a manifest, image, kernel or VM is not what it claims to be
  66  an input, image or kernel is missing or cannot be read
  69  no monitor can run the VM here, or it did not start
  73  the name or a port is taken
  74  the disk is full or failed
  75  the agent did not answer in time, or a lock stayed held
  77  access was refused
  130  interrupted; a VM that did not answer yet is gone
  143  terminated; a VM that did not answer yet is gone

See also:
  bg-publish(1), banger-vm-run(1), banger-vm-stop(1), banger-manifest(5)
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from banger_tools import cli, console, errors, sizes, stage

if TYPE_CHECKING:
    from banger_tools.manifest import Manifest
    from banger_tools.vmm.spec import Boot, Forward, GitIdentity, Record, Spec

WORK_DISK = 1 << 30


class Options(NamedTuple):
    """What shapes a new VM, checked; sizes in bytes."""

    input: str | None
    image: str | None
    name: str | None
    vmm: str
    cpus: int
    memory: int
    disk: int | None
    work_disk: int | None
    net: str
    nat: bool
    forwards: list[Forward]
    env: list[str]
    ssh_keys: list[str]
    git: GitIdentity | None
    read_only: bool
    run: bool
    kernel_ref: str | None
    kernel: Path | None
    initrd: Path | None
    modules: Path | None
    append: str
    wait: bool
    timeout: float
    keep: bool
    path_only: bool

    @classmethod
    def from_arguments(cls, arguments: dict[str, Any]) -> Options:
        """Check the options of a new VM; raises BadUsage naming the one that is wrong."""
        from banger_tools.store import names
        from banger_tools.vmm import choose, git_identity
        from banger_tools.vmm import spec as specs

        _refuse_together(arguments)
        key = arguments["--ssh-key"]
        return cls(
            arguments["INPUT"],
            _checked(arguments["--image"], lambda name: names.check(name, "--image")),
            _checked(arguments["--name"], names.check_vm),
            _one_of("--vmm", arguments["--vmm"], choose.WORDS),
            specs.parse_cpus(arguments["--cpus"]),
            specs.parse_memory(arguments["--memory"]),
            _checked(arguments["--disk"], lambda text: sizes.parse(text, "--disk")),
            _checked(arguments["--work-disk"], lambda text: sizes.parse(text, "--work-disk")),
            _one_of("--net", arguments["--net"], specs.NETWORKS),
            bool(arguments["--nat"]),
            [specs.parse_forward(text) for text in arguments["--publish"]],
            specs.parse_environment(arguments["--env"]),
            specs.read_ssh_key(Path(key)) if key else [],
            _checked(arguments["--git-identity"], git_identity.parse),
            bool(arguments["--read-only"]),
            bool(arguments["--run"]),
            arguments["--kernel-ref"],
            _checked(arguments["--kernel"], _existing),
            _checked(arguments["--initrd"], _existing),
            _checked(arguments["--modules"], Path),
            arguments["--append"] or "",
            _one_of("--wait", arguments["--wait"], ("agent", "none")) == "agent",
            specs.parse_timeout(arguments["--timeout"]),
            bool(arguments["--keep"]),
            bool(arguments["--path"]),
        )


def _checked(text: str | None, check: Any) -> Any:
    return None if text is None else check(text)


def _one_of(option: str, word: str, words: Sequence[str]) -> str:
    if word not in words:
        raise errors.BadUsage(f"{option}: '{word}' is none of {', '.join(words)}")
    return word


def _existing(text: str) -> Path:
    path = Path(os.path.abspath(text))
    try:
        with open(path, "rb"):
            return path
    except OSError as error:
        raise errors.os_error(error, f"cannot read '{text}'") from error


def _refuse_together(arguments: dict[str, Any]) -> None:
    """Refuse options that contradict each other."""
    for one, other in (
        ("--image", "INPUT"),
        ("--kernel-ref", "--kernel"),
    ):
        if arguments[one] and arguments[other]:
            raise errors.BadUsage(f"{one} and {other} exclude each other")
    for option in ("--initrd", "--modules"):
        if arguments[option] and not arguments["--kernel"]:
            raise errors.BadUsage(f"{option} goes with --kernel only")
    if arguments["--publish"] and arguments["--net"] == "none":
        raise errors.BadUsage("--publish needs a network, and --net is none")
    if arguments["--nat"] and arguments["--net"] != "tap":
        raise errors.BadUsage("--nat goes with --net tap only")


# The machine ----------------------------------------------------------------


def read_input(options: Options) -> Manifest:
    """Return the manifest to boot: of an image of the store, of INPUT, or made for a bare ext4 file."""
    from banger_tools import identify
    from banger_tools.manifest import Manifest, Published
    from banger_tools.store import images

    if options.image:
        return images.find(options.image)
    kind, path = stage.open_input(options.input)
    if kind == identify.MANIFEST:
        return stage.read_manifest(path)
    if kind != identify.EXT4 or path is None:
        raise stage.wrong_input(path, kind, "the manifest of a published image, or an ext4 image,")
    bare = Manifest()
    bare.name = path.stem
    bare.put("published", Published(path.stem, str(path.parent), str(path)))
    return bare


def specify(image: Manifest, options: Options) -> Spec:
    """Return the spec of the VM that an image and the options make."""
    import uuid

    from banger_tools.manifest import Published
    from banger_tools.vmm import guest_config
    from banger_tools.vmm import spec as specs

    published = image.get("published", Published)
    guest = specs.Guest(
        **guest_config.process_of(image.process, options.env, run=options.run),
        ssh_keys=options.ssh_keys,
        git=options.git,
        read_only=options.read_only,
    )
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
    )
    specs.refuse_taken_ports(spec.forwards)
    return spec


def generated_name(image: str) -> str:
    """Return a name for a VM of an image that is free, and short enough for a host name."""
    import secrets

    from banger_tools.store import names, records, vms

    while True:
        name = f"{names.derived_vm(image)[:50].strip('-') or 'vm'}-{secrets.token_hex(2)}"
        if not records.exists(vms.folder(name)):
            return name


def choose_boot(image: Manifest, options: Options) -> Boot:
    """Return what is booted: --kernel, else --kernel-ref, else the image's own kernel, else the host's default."""
    from banger_tools.manifest import Published
    from banger_tools.store import kernels
    from banger_tools.vmm import spec as specs

    if options.kernel and options.modules:
        made = kernels.of_files(options.kernel, options.initrd, options.modules)
        return specs.Boot(made.kernel, made.vmlinuz, made.initrd, options.append)
    if options.kernel:
        return specs.Boot(str(options.kernel), None, str(options.initrd) if options.initrd else None, options.append)
    own = image.get("published", Published).kernel
    if options.kernel_ref or own is None:
        own = kernels.obtain(options.kernel_ref or kernels.default_ref(image.architecture))
    if own.architecture != image.architecture:
        raise errors.BadInput(f"the kernel '{own.name}' is for {own.architecture}, the image for {image.architecture}")
    for path in (own.kernel, own.vmlinuz, own.initrd):
        _checked(path, _existing)
    return specs.Boot(own.kernel, own.vmlinuz, own.initrd, options.append, own.name)


def boot(image: Manifest, options: Options) -> Manifest:
    """Make and start a VM, wait for it, and return the manifest with its section; a failure is undone."""
    from msgspec import structs

    from banger_tools.manifest import Published
    from banger_tools.store import staging, vms
    from banger_tools.vmm import choose, fit, life

    spec = specify(image, options)
    staging.refuse_taken(vms.folder(spec.name), replace=False, what=vms.WHAT)
    spec = choose.settle(structs.replace(spec, boot=choose_boot(image, options)))
    fit.check(spec, agent=options.wait)
    published = image.get("published", Published)
    fit.check_init(spec.boot, _existing(published.rootfs))
    seed = Path(published.work_seed) if published.work_seed else None
    sources = life.Sources(_existing(published.rootfs), seed, options.disk, _work_size(seed, options))
    try:
        life.create(spec, sources, image)
        with life.held(spec.name):
            record = run(spec.name, options)
    except BaseException:
        _undo(spec, keep=options.keep)
        raise
    return described(record, image)


def _work_size(seed: Path | None, options: Options) -> int | None:
    """Return the size of the work disk: as asked, else roomy if there is a seed for it."""
    if options.work_disk or seed is None:
        return options.work_disk
    return max(WORK_DISK, seed.stat().st_size)


def run(name: str, options: Options) -> Record:
    """Start a VM that was made, and wait as long as the options say."""
    from banger_tools.vmm import life

    began = time.monotonic()
    record = life.start(name)
    if options.wait:
        with console.step(f"agent of '{name}' answered"):
            record = life.wait_ready(record, began, options.timeout)
    return record


def _undo(spec: Spec, *, keep: bool) -> None:
    """Remove a VM whose start failed: ours by its id, and not one of another program that took the name."""
    from banger_tools.store import vms
    from banger_tools.vmm import life

    try:
        record = vms.load(spec.name)
    except errors.BangerError:  # it was not made yet
        return
    if record.spec.id != spec.id:
        return
    if keep:
        life.kill(record)
        life.settle(record)
        console.note(f"the VM's folder is kept: '{vms.folder(spec.name)}'")
    else:
        life.delete(spec.name, force=True)


def described(record: Record, image: Manifest) -> Manifest:
    """Return an image's manifest with the section of a VM."""
    from banger_tools.vmm import life

    image.put("vm", life.described(record))
    image.record("bg-boot", {"cpus": record.spec.cpus, "memory": record.spec.memory, "net": record.spec.net})
    return image


def work(arguments: dict[str, Any]) -> int:
    """Make and start the machine, and print its manifest."""
    options = Options.from_arguments(arguments)
    made = boot(read_input(options), options)
    stage.print_result(made, made.raw["vm"]["path"], path_only=options.path_only)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run bg-boot and return its exit status."""
    return cli.run(__doc__ or "", argv, work)


if __name__ == "__main__":
    raise SystemExit(main())
