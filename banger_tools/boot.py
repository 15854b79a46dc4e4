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
  --user=USER              User of the image for --run (the image's own if not given) and --exec (root).
  --cwd=FOLDER             Folder of the image for --run (the image's own if not given) and --exec (/).
  --console                Show the VM's console on stdout until the VM ends; ^C leaves it running.
  --rm                     Delete the VM after --exec or --console.
  --detach                 Return as soon as the monitor runs: --wait=none in a word.
  --no-start               Make the VM, and leave its start to `banger vm start`.
  --path                   Print the path of the VM's folder instead of the manifest.
  @talk

Description:
  An option that is not given is taken from the environment (BANGER_MEMORY for --memory), then from [vm_defaults] in
  banger-config(5), then from a default that suits the host; `banger config` shows the result. Files that stand in its
  file_sync are put on the work disk.

  The VM is a folder in the store: a copy of the image's disks (by reflink where the filesystem can, else without
  their holes; QEMU gets an overlay over the image's where a copy does not fit), sockets, and the console's log. Its
  monitor is a process of its own, which outlives this command and its terminal; nothing else keeps running. With
  --vmm=auto that is the first that can run the VM here, which is tried and not guessed; -v says why the others cannot.

  The monitor stays in the cgroup of this command, and ends with it: with the systemd service that ran it, or at logout
  where logind.conf(5) has KillUserProcesses=yes. `systemd-run --user --scope bg-boot ...` gives it one of its own (root
  leaves out --user); `loginctl enable-linger` lets that one outlast the logout. The same holds for `banger vm start`
  and `run`.

  Wrong values are refused before anything is made, as is a kernel that cannot boot the image: the error names what
  it lacks. A start that fails is undone: the monitor is ended, and the folder removed unless --keep is given; the
  error shows the end of the guest's console. A VM that answers is there to stay, as soon as its manifest is printed:
  if its sshd does not come up in time, that is an error, and the VM runs on to be looked at.

  --exec and --console take stdout for themselves: no manifest is printed. The command of --exec gets the rest of our
  stdin, and none if the manifest came from there. Without --wait, the agent is waited for; nothing is with --run,
  --console, --detach or --no-start, but for --exec. --wait=ssh waits until an sshd greets at the port that leads to the
  guest's port 22 or at its address on the tap; without either, until the guest listens on port 22.

  --ssh-key and --git-identity are for this VM alone. They are written to root's home in the VM at each start, on its
  work disk or, without one, on its root disk: the keys are added to root's authorized_keys, and root's .gitconfig gets
  one line that includes a file with the identity.

  --net user and none need no right. --net tap needs CAP_NET_ADMIN, as root has it, and --jail needs root.

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
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from banger_tools import cli, console, errors, stage
from banger_tools.vmm.options import Options

if TYPE_CHECKING:
    from banger_tools.manifest import Manifest
    from banger_tools.vmm.spec import Record, Spec


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


# Boot and its undoing ---------------------------------------------------------


def boot(image: Manifest, options: Options) -> tuple[Record, float]:
    """Make and start a VM, wait for its agent, and print what was made; a failure is undone.

    Return its record, and the time (monotonic) of its start, from which --timeout counts.

    A name that we made up ourselves is no reason to fail: if another program takes it meanwhile, another is made up.
    """
    from msgspec import structs

    from banger_tools.store import records, vms
    from banger_tools.vmm import plan

    spec = plan.machine(image, options)
    while True:
        try:
            return _boot(spec, image, options)
        except errors.CannotCreate:
            if options.name is not None or not records.exists(vms.folder(spec.name)):
                raise
        spec = structs.replace(spec, name=plan.generated_name(spec.image))


def _boot(spec: Spec, image: Manifest, options: Options) -> tuple[Record, float]:
    from banger_tools.store import images, vms
    from banger_tools.vmm import life, plan

    try:
        with console.stage("disks"), images.unchanging(image):
            life.create(spec, plan.sources(image, options), image)
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


# What is left to do with a VM that runs ---------------------------------------


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
