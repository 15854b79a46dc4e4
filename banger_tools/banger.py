"""banger: run the pipe of bg- programs, and look after what it makes.

Usage:
  banger [options] COMMAND [ARGUMENTS]...

Arguments:
  COMMAND    One or two words, as below.
  ARGUMENTS  What the command takes; `banger COMMAND --help` tells.

Commands:
  image pull      Make a bootable image out of a container image, a tar or Debian packages.
  image list      List the images.
  image show      Tell what an image is, what it runs, and who uses it.
  image register  Register existing disk files as an image, without copying.
  image promote   Copy a registered image's disks into the store.
  image rename    Give an image another name.
  image verify    Check that images are what their manifests say.
  image export    Write an image as a tar, a disk, or a bundle for catalogs.
  image delete    Remove images.
  image prune     Remove the images that no machine was made from.
  kernel pull     Fetch a kernel and keep it.
  kernel list     List the kernels.
  kernel show     Tell what a kernel is, what it has, and what it boots.
  kernel import   Take a kernel that is on this host.
  kernel delete   Remove kernels.
  kernel catalog  List the kernels that can be pulled by name.
  vm run          Boot an image and run a command or a shell in it.
  vm create       Make a machine, start it, and print its name.
  vm start        Start machines that do not run.
  vm stop         End machines without losing anything.
  vm restart      Stop machines and start them again.
  vm kill         End machines at once.
  vm delete       Remove machines and their disks.
  vm prune        Remove the machines that do not run.
  vm list         List the machines, and how they are.
  vm show         Print what a machine is and how it is.
  vm set          Change what machines have.
  vm stats        Show what machines use, of the host and inside.
  vm ports        Show who listens in machines, and how to reach it from here.
  vm health       Ask the agents of machines whether they are well.
  vm exec         Run a command in a machine that runs.
  vm ssh          Log into a machine that runs by ssh.
  vm cp           Copy files and folders to and from machines that run.
  vm logs         Show what a machine wrote to its console.
  ssh-config      Let `ssh NAME.vm` log into machines.
  cache list      List what is in the cache.
  cache prune     Remove from the cache what was not used for long.
  prune           Remove what programs that were killed left behind.
  build           Run any part of the pipe and keep what it makes.
  config          Show the settings in effect, and where each comes from.
  doctor          Look whether this host has what banger needs.

Options:
  @talk

Description:
  banger is the driver of the suite. It does no work of its own: it starts the bg- programs as one pipe, and
  with -v it shows that pipe, ready to be pasted into a shell.

  Images, kernels and virtual machines are plain folders: by default below ~/.local/state/banger, with the
  cache in ~/.cache/banger; BANGER_HOME puts all of them below one folder. The folder of a machine has its record
  vm.json, its disks and its console's log: `banger vm show NAME | jq -r .vm.path`.

  A SIZE is a number of bytes, or a number with K, M, G or T, which are powers of 1024: 4G, 4GiB and 4GB are the same.

Words:
  image      What machines are made of: in a registry an OCI or docker image, in the store a folder with its disks.
  artifact   A file that a stage makes: tree.jsonl, rootfs.ext4, work-seed.ext4.
  manifest   What a stage prints: JSON that says what was made and where it is; banger-manifest(5).
  store      The folder where images, kernels and machines are, each by its name.
  managed    Of an image: its disks are in the store. Those of a registered one stay where they are.
  work seed  A copy of the image's /root as a disk; each machine gets its own copy, the work disk, as its /root.
  bundle     A finished image, or a kernel, as one file for a catalog.
  machine    A virtual machine (VM): a folder in the store, and the process of its monitor while it runs.
  monitor    The program that runs a VM: QEMU or Firecracker.
  tap        A network device of the host that is one VM's own: the VM has an address that the host reaches.
  host       The computer that banger runs on.

JSON:
  With --json a command prints one object or array, whose keys its own page names. Sizes are bytes, durations seconds,
  and null is what is not known. Keys may be added, so ignore those that you do not know. Manifests are in
  banger-manifest(5), which `banger vm show` and `--json` of `banger image pull`, `register` and `promote` print.

  With --progress=json every program writes lines to stderr, each one object:

    {"done": 1, "finished": true, "program": "bg-boot", "seconds": 0.412, "total": 1, "unit": "stage", "what": "agent"}

  `program` is who tells, `what` the task. `done` of `total` (null if that is not known) are counted in `unit`: B for
  bytes, stage for a step, whose last line has its `seconds`. `finished` is true in the last line of a task. A layer has
  its `digest`, and `cached` says whether it was there already. Lines that are no object are messages.

Environment:
  BANGER_HOME   One folder for all of it: the cache, the store and the configuration.
  XDG_CACHE_HOME, XDG_STATE_HOME, XDG_CONFIG_HOME  Where these are without BANGER_HOME, each in a folder named banger;
                else ~/.cache, ~/.local/state and ~/.config.
  BANGER_IMAGE, BANGER_CPUS, BANGER_MEMORY, BANGER_DISK  What a new VM has if no option says it, as --image does; also
                BANGER_WORK_DISK, BANGER_VMM, BANGER_NET, BANGER_SSH_KEY, BANGER_GIT_IDENTITY and BANGER_TIMEOUT.
  HTTP_PROXY, HTTPS_PROXY, NO_PROXY  Proxies for registries, catalogs and bundles, and the hosts that need none.
  REGISTRY_AUTH_FILE, DOCKER_CONFIG  Where the logins of podman and docker are, if not in their usual places.
  SOURCE_DATE_EPOCH  Seconds since 1970 to use as creation time. If not set, bg-mkext4 takes 1, and apt: the date of the
                packages' release.
  NO_COLOR      No colours on a terminal, if it is set to anything.

Examples:
  $ banger image pull docker.io/library/alpine:3.20
  $ banger vm run --rm -- cat /etc/os-release
  $ banger build --to mkext4 -C work oci:./layout

Exit status:
  0   done
  64  the command line is wrong
  70  a bug in banger; the traceback says where

  Otherwise that of the command: of the program that failed, or of the program that ran in the machine.

See also:
  bg-fetch(1) bg-flatten(1) bg-mkext4(1) bg-chown(1) bg-inject(1) bg-seed(1) bg-publish(1) bg-boot(1)
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from banger_tools import cli, console, docs, errors


def choose(words: Sequence[str], commands: Sequence[str]) -> tuple[str, list[str]]:
    """Return the command that `words` begin with, and the words after it.

    Raises BadUsage naming the nearest command if there is none.
    """
    for length in (2, 1):
        name = " ".join(words[:length])
        if name in commands:
            return name, list(words[length:])
    following = [name.split()[1] for name in commands if name.startswith(f"{words[0]} ")]
    if following and len(words) == 1:
        raise errors.BadUsage(f"'{words[0]}' needs one more word: {', '.join(following)}")
    near = nearest(words, commands)
    name = " ".join(words[:2] if following else words[:1])
    asked = " or ".join(f"'banger {command}'" for command in near)
    known = f"after '{words[0]}' comes one of: {', '.join(following)}" if following else _ALL
    raise errors.BadUsage(f"unknown command '{name}'", f"did you mean {asked}?" if near else known)


_ALL = "banger --help lists the commands"


def nearest(words: Sequence[str], commands: Sequence[str]) -> list[str]:
    """Return the commands that `words`, which begin with none, may have meant: one of a group, or a word of several."""
    groups = list(dict.fromkeys(command.split()[0] for command in commands if " " in command))
    group = _close(words[0], groups, 1)
    if not group:
        last = _close(words[0], list(dict.fromkeys(command.split()[-1] for command in commands)), 2)
        found = [command for word in last for command in commands if command.split()[-1] == word]
        return sorted(found, key=lambda command: command.count(" "))[:3]
    inner = {command.split()[1]: command for command in commands if command.startswith(f"{group[0]} ")}
    if words[0] != group[0] and words[1:2] == []:  # as in `banger images`
        return [inner["list"]] if "list" in inner else list(inner.values())[:3]
    return [inner[word] for word in _close("".join(words[1:2]), list(inner), 2)]


def _close(word: str, words: Sequence[str], most: int) -> list[str]:
    import difflib

    return [word] if word in words else difflib.get_close_matches(word, words, most, 0.7)


def work(arguments: cli.Arguments) -> int:
    """Run one command, in this process, with the options on talking that came before it."""
    commands = list(docs.commands(docs.parse(__doc__ or "")))
    name, rest = choose([arguments["COMMAND"], *arguments["ARGUMENTS"]], commands)
    module = importlib.import_module(f"banger_tools.{docs.command_module(name)}")
    return int(module.main([*console.passed_on(), *rest]))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    return cli.run(__doc__ or "", argv, work, nested=True)


if __name__ == "__main__":
    raise SystemExit(main())
