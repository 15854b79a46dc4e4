"""bg-boot: start a virtual machine from an image, and wait until it answers.

Usage:
  bg-boot [options] [--publish=FORWARD]... [--env=VAR]... [INPUT]

Arguments:
  INPUT  The manifest of a published image, or an ext4 file; the manifest on stdin if none is given or it is '-'.

Options:
  --image=NAME             Boot an image of the store by name, in place of INPUT.
  @machine
  --command=WORDS          What --run runs in place of the image's own command, quoted as for a shell.
  --exec=COMMAND           When the VM answers, run this by its /bin/sh; stdin, stdout and status are the command's.
  --user=USER              User of the image for --run and --exec.
  --cwd=FOLDER             Folder of the image for --run and --exec.
  --console                Show the VM's console on stdout until the VM ends; ^C leaves it running.
  --rm                     Delete the VM after --exec or --console.
  --detach                 Return as soon as the monitor runs: --wait=none in a word.
  --no-start               Make the VM, and leave its start to `banger vm start`.
  --path                   Print the path of the VM's folder instead of the manifest.
  @talk

Description:
  What no option says is as banger-config(5) has it in [vm_defaults], or a variable of the environment; `banger config`
  shows it. Files that stand in its file_sync are put on the work disk.

  The VM is a folder in the store: a copy of the image's disks (by reflink where the filesystem can, else without
  their holes; QEMU gets an overlay over the image's where a copy does not fit), sockets, and the console's log. Its
  monitor is a process of its own, which outlives this command and its terminal; nothing else keeps running. With
  --vmm=auto that is the first that can run the VM here, which is tried and not guessed; -v says why the others cannot.

  The monitor stays in the cgroup of this command, and ends with it: with the systemd service that ran it, or at logout
  where logind.conf(5) has KillUserProcesses=yes. `systemd-run --user --scope bg-boot ...` gives it one of its own (root
  leaves out --user); `loginctl enable-linger` lets that one outlast the logout. So with `banger vm start` and `run`.

  Wrong values are refused before anything is made, as is a kernel that cannot boot the image: the error names what
  it lacks. A start that fails is undone: the monitor is ended, and the folder removed unless --keep is given; the
  error shows the end of the guest's console. A VM that answers is there to stay, as soon as its manifest is printed:
  if its sshd does not come up in time, that is an error, and the VM runs on to be looked at.

  --exec and --console take stdout for themselves: no manifest is printed. The command of --exec gets the rest of our
  stdin, and none if the manifest came from there. --wait=ssh waits until an sshd greets at the port that leads to
  the guest's port 22 or at its address on the tap; without either, until the guest listens on port 22.

  --ssh-key and --git-identity are for this VM alone and stand on its work disk, if it has one: the keys are added to
  root's authorized_keys, and root's .gitconfig gets one line that includes a file with the identity.

Examples:
  bg-boot --image bookworm --name web --publish 8080:80
  bg-boot --image bookworm --net tap --nat | jq -r .vm.address
  bg-boot --image bookworm --rm --exec 'make -C /src test'
  bg-fetch apt:bookworm | bg-flatten | bg-mkext4 | bg-chown | bg-inject | bg-seed | bg-publish | bg-boot

Exit status:
  0   the VM answers, or what was asked is done
  64  the command line is wrong
  65  a manifest, image, kernel or VM is not what it claims to be
  66  an input, image or kernel is missing or cannot be read
  69  no monitor can run the VM here, or it did not start
  73  the name or a port is taken
  74  the disk is full or failed
  75  the agent or sshd did not answer in time, or a lock stayed held
  77  access was refused
  130  interrupted; a VM that did not answer yet is gone
  143  terminated; a VM that did not answer yet is gone

  With --exec, the command's own status: 128 and the signal's number if a signal ended it.

See also:
  bg-publish(1), banger-config(1), banger-vm-run(1), banger-vm-stop(1), banger-config(5), banger-manifest(5)
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from banger_tools import cli, console, errors, sizes, stage

if TYPE_CHECKING:
    from banger_tools.manifest import Manifest
    from banger_tools.precedence import Setting
    from banger_tools.vmm.life import Sources
    from banger_tools.vmm.spec import Boot, Forward, GitIdentity, Limits, Record, Spec

WORK_DISK = 1 << 30


class Process(NamedTuple):
    """What the guest is to run: the machine's own command, or one beside it once the agent answers."""

    run: bool
    command: list[str] | None
    execute: str | None
    user: str | None
    cwd: str | None

    @classmethod
    def from_arguments(cls, arguments: dict[str, Any]) -> Process:
        """Check what is to be run; raises BadUsage."""
        import shlex

        run, execute, words = bool(arguments["--run"]), arguments["--exec"], arguments["--command"]
        if words is not None and not run:
            raise errors.BadUsage("--command goes with --run only")
        for option in ("--user", "--cwd"):
            if arguments[option] is not None and not run and execute is None:
                raise errors.BadUsage(f"{option} goes with --run or --exec only")
        try:
            command = None if words is None else shlex.split(words)
        except ValueError as error:
            raise errors.BadUsage(f"--command: {str(error).lower()}: {words}") from error
        if command == []:
            raise errors.BadUsage("--command: there is no word in it")
        return cls(run, command, execute, arguments["--user"], arguments["--cwd"])


class Room(NamedTuple):
    """The size of a disk in bytes: just that if it was asked for, else at the least."""

    size: int
    exact: bool

    @classmethod
    def from_setting(cls, setting: Setting) -> Room | None:
        """Return what a setting says; raises BadUsage, or BadInput for what config.toml says."""
        size = _settled(setting, lambda text: sizes.parse(text, f"--{setting.key}"))
        return None if size is None else cls(size, setting.is_asked)

    def over(self, disk: Path) -> int:
        """Return the size that a copy of a disk is to have."""
        return self.size if self.exact else max(self.size, disk.stat().st_size)


class Options(NamedTuple):
    """What shapes a new VM, checked; sizes in bytes. `wait` is what to wait for: agent, ssh or none."""

    input: str | None
    image: str | None
    name: str | None
    vmm: str
    cpus: int
    memory: int
    disk: Room | None
    work_disk: Room | None
    net: str
    nat: bool
    forwards: list[Forward]
    env: list[str]
    ssh_keys: list[str]
    git: GitIdentity | None
    read_only: bool
    process: Process
    kernel_ref: str | None
    kernel: Path | None
    initrd: Path | None
    modules: Path | None
    append: str
    offline: bool
    jail: bool
    limits: Limits
    wait: str
    timeout: float
    keep: bool
    console: bool
    remove: bool
    starts: bool
    path_only: bool

    @classmethod
    def from_arguments(cls, arguments: dict[str, Any]) -> Options:
        """Check the options of a new VM; raises BadUsage naming the one that is wrong."""
        from banger_tools import precedence
        from banger_tools.store import names
        from banger_tools.vmm import choose, git_identity
        from banger_tools.vmm import spec as specs

        settings = precedence.settings(arguments)
        _refuse_together(arguments, str(settings["net"].value))
        return cls(
            arguments["INPUT"],
            _checked(arguments["--image"], lambda name: names.check(name, "--image")),
            _checked(arguments["--name"], names.check_vm),
            _settled(settings["vmm"], lambda word: _one_of("--vmm", word, choose.WORDS)),
            _settled(settings["cpus"], specs.parse_cpus),
            _settled(settings["memory"], specs.parse_memory),
            Room.from_setting(settings["disk"]),
            Room.from_setting(settings["work-disk"]),
            _settled(settings["net"], lambda word: _one_of("--net", word, specs.NETWORKS)),
            bool(arguments["--nat"]),
            specs.parse_forwards(arguments["--publish"]),
            specs.parse_environment(arguments["--env"]),
            _settled(settings["ssh-key"], lambda path: specs.read_ssh_key(Path(path))) or [],
            _settled(settings["git-identity"], git_identity.parse),
            bool(arguments["--read-only"]),
            Process.from_arguments(arguments),
            arguments["--kernel-ref"],
            _checked(arguments["--kernel"], _existing),
            _checked(arguments["--initrd"], _existing),
            _checked(arguments["--modules"], Path),
            arguments["--append"] or "",
            bool(arguments["--offline"]),
            bool(arguments["--jail"]),
            specs.parse_limits(arguments["--limit-disk"], arguments["--limit-iops"], arguments["--limit-net"]),
            _awaited(arguments),
            _settled(settings["timeout"], specs.parse_timeout),
            bool(arguments["--keep"]),
            bool(arguments["--console"]),
            bool(arguments["--rm"]),
            not arguments["--no-start"],
            bool(arguments["--path"]),
        )


def _checked(text: str | None, check: Any) -> Any:
    return None if text is None else check(text)


def _settled(setting: Setting, check: Any) -> Any:
    """Return the checked value of a setting; an error names who gave it."""
    with setting.blamed():
        return _checked(setting.value, check)


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


EXCLUSIVE = (
    ("--image", "INPUT"),
    ("--kernel-ref", "--kernel"),
    ("--wait", "--detach"),
    ("--exec", "--console"),
    ("--exec", "--detach"),
    ("--console", "--detach"),
    ("--no-start", "--exec"),
    ("--no-start", "--console"),
    ("--no-start", "--wait"),
    ("--path", "--exec"),
    ("--path", "--console"),
    ("--rm", "--keep"),
)
NEEDS = (  # an option, and those of which it needs one
    ("--initrd", ("--kernel",)),
    ("--modules", ("--kernel",)),
    ("--rm", ("--exec", "--console")),
)


def _refuse_together(arguments: dict[str, Any], net: str) -> None:
    """Refuse options that contradict each other; one that was given an empty value was given."""
    given = {name for name, value in arguments.items() if value is not None and value is not False}
    for one, other in EXCLUSIVE:
        if given.issuperset((one, other)):
            raise errors.BadUsage(f"{one} and {other} exclude each other")
    for option, needed in NEEDS:
        if option in given and given.isdisjoint(needed):
            raise errors.BadUsage(f"{option} goes with {' or '.join(needed)} only")
    if arguments["--publish"] and net == "none":
        raise errors.BadUsage("--publish needs a network, and --net is none")
    if arguments["--nat"] and net != "tap":
        raise errors.BadUsage("--nat goes with --net tap only")


def _awaited(arguments: dict[str, Any]) -> str:
    """Return what to wait for: what was asked, else the agent, unless the VM may be done before that answers."""
    asked = arguments["--wait"]
    if asked is not None:
        _one_of("--wait", asked, ("agent", "ssh", "none"))
        if arguments["--exec"] is not None and asked == "none":
            raise errors.BadUsage("--exec needs the agent, and --wait is none")
        return str(asked)
    if arguments["--exec"] is not None:
        return "agent"
    at_once = ("--run", "--console", "--detach", "--no-start")
    return "none" if any(arguments[name] for name in at_once) else "agent"


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
    from banger_tools.vmm import fit, guest_config
    from banger_tools.vmm import spec as specs

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
        ref = options.kernel_ref or kernels.default_ref(image.architecture)
        own = kernels.obtain(ref, offline=options.offline)
    if own.architecture != image.architecture:
        raise errors.BadInput(f"the kernel '{own.name}' is for {own.architecture}, the image for {image.architecture}")
    for path in (own.kernel, own.vmlinuz, own.initrd):
        _checked(path, _existing)
    return specs.Boot(own.kernel, own.vmlinuz, own.initrd, options.append, own.name)


def plan(image: Manifest, options: Options) -> Spec:
    """Return the spec of a VM that can be made and started here; nothing is made yet.

    Raises what is wrong with it: a name or port is taken, the kernel cannot boot it, no monitor can run it, it cannot
    have its network.
    """
    from msgspec import structs

    from banger_tools.manifest import Published
    from banger_tools.net import taps
    from banger_tools.store import staging, vms
    from banger_tools.vmm import choose, fit

    spec = specify(image, options)
    staging.refuse_taken(vms.folder(spec.name), replace=False, what=vms.WHAT)
    if spec.net == "tap":
        taps.foresee()
    with console.stage("kernel"), console.step("kernel found"):
        booted = choose_boot(image, options)
    with console.stage("monitor"):
        spec = choose.settle(structs.replace(spec, boot=booted))
    fit.check(spec, agent=options.wait != "none")
    fit.check_init(spec.boot, _existing(image.get("published", Published).rootfs))
    return spec


def boot(image: Manifest, options: Options) -> tuple[Record, float]:
    """Make and start a VM, wait for its agent, and print what was made; a failure is undone.

    Return its record, and the time (monotonic) of its start, from which --timeout counts.

    A name that we made up ourselves is no reason to fail: if another program takes it meanwhile, another is made up.
    """
    from msgspec import structs

    from banger_tools.store import records, vms

    spec = plan(image, options)
    while True:
        try:
            return _boot(spec, image, options)
        except errors.CannotCreate:
            if options.name is not None or not records.exists(vms.folder(spec.name)):
                raise
        spec = structs.replace(spec, name=generated_name(spec.image))


def _boot(spec: Spec, image: Manifest, options: Options) -> tuple[Record, float]:
    from banger_tools.store import images, vms
    from banger_tools.vmm import life

    try:
        with console.stage("disks"), images.unchanging(image):
            life.create(spec, _sources(image, options), image)
        began = time.monotonic()
        if options.starts:
            with life.held(spec.name):
                record = run(spec.name, options, began)
        else:
            record = vms.load(spec.name)
        _tell(record, image, options)
    except BaseException:
        _undo(spec, keep=options.keep)
        raise
    return record, began


def _sources(image: Manifest, options: Options) -> Sources:
    """Return what the disks of a VM are made from, and how large they are to be."""
    from banger_tools.manifest import Published
    from banger_tools.vmm import life

    published = image.get("published", Published)
    rootfs = _existing(published.rootfs)
    seed = Path(published.work_seed) if published.work_seed else None
    return life.Sources(rootfs, seed, options.disk and options.disk.over(rootfs), _work_size(seed, options))


def _work_size(seed: Path | None, options: Options) -> int | None:
    """Return the size of the work disk: as asked or settled, else roomy if there is a seed for it."""
    if seed is None:
        return options.work_disk and options.work_disk.size
    return (options.work_disk or Room(WORK_DISK, exact=False)).over(seed)


def run(name: str, options: Options, began: float) -> Record:
    """Start a VM that was made, and wait for its agent if the options say so."""
    from banger_tools.vmm import life

    record = life.start(name)
    if options.wait != "none":
        with console.stage("agent"), console.step(f"agent of '{name}' answered"):
            record = life.wait_ready(record, began, options.timeout)
    return record


def _undo(spec: Spec, *, keep: bool) -> None:
    """Remove a VM whose start failed, if it is there and ours; no second signal breaks that off."""
    from banger_tools.store import records
    from banger_tools.vmm import life

    with cli.signals_later(), contextlib.suppress(records.Missing):
        if _own(spec) is not None:  # or we would wait for the lock of whoever took the name
            with life.held(spec.name):
                _end(_own(spec), keep=keep)


def _own(spec: Spec) -> Record | None:
    """Return the record of the VM that was made of a spec: ours by its id, and not another program's of that name."""
    from banger_tools.store import vms

    try:
        record = vms.load(spec.name)
    except errors.BangerError:  # it was not made yet
        return None
    return record if record.spec.id == spec.id else None


def _end(record: Record | None, *, keep: bool) -> None:
    from banger_tools.store import vms
    from banger_tools.vmm import life

    if record is None:
        return
    if keep:
        life.kill(record)
        life.settle(record)
        console.note(f"the VM's folder is kept: '{vms.folder(record.spec.name)}'")
    else:
        life.delete(record.spec.name, force=True)


def _tell(record: Record, image: Manifest, options: Options) -> None:
    """Print the manifest of a VM that is there to stay, unless stdout is for its command or console."""
    from banger_tools.vmm import life

    if options.console or options.process.execute is not None:
        return
    image.put("vm", life.described(record))
    image.record("bg-boot", {"cpus": record.spec.cpus, "memory": record.spec.memory, "net": record.spec.net})
    stage.print_result(image, image.raw["vm"]["path"], path_only=options.path_only)
    sys.stdout.flush()


def attend(record: Record, options: Options, began: float) -> int:
    """Do what is left to do with a VM that runs: wait for its sshd, run a command, show its console."""
    from banger_tools.vmm import inside, logs, ssh

    name, process = record.spec.name, options.process
    if options.wait == "ssh":
        with console.stage("ssh"), console.step(f"sshd of '{name}' answered"):
            ssh.wait(record, began + options.timeout)
    if process.execute is not None:
        from_stdin = options.image is None and options.input in (None, "-")  # the manifest came from there
        settings = inside.Settings(user=process.user, cwd=process.cwd, stdin=not from_stdin)
        return inside.execute(name, ("/bin/sh", "-c", process.execute), settings)
    if options.console:
        logs.show(name, logs.CONSOLE, follow=True)
    return 0


def work(arguments: dict[str, Any]) -> int:
    """Make and start the machine, and stay with it as long as was asked."""
    from banger_tools.vmm import inside

    options = Options.from_arguments(arguments)
    with console.stage("image"), console.step("image found"):
        image = read_input(options)
    record, began = boot(image, options)
    try:
        return attend(record, options, began)
    finally:
        if options.remove:
            inside.remove(record.spec.name)
        elif options.console or options.process.execute is not None:  # nothing else told its name
            inside.tell_it_runs_on(record.spec.name)


def main(argv: Sequence[str] | None = None) -> int:
    """Run bg-boot and return its exit status."""
    return cli.run(__doc__ or "", argv, work)


if __name__ == "__main__":
    raise SystemExit(main())
