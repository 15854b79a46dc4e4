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
  image register  Let an image's disks stay where they are, and give it a name.
  image promote   Let the store have disks of its own for such an image.
  image rename    Give an image another name.
  image verify    Check that images are what their manifests say.
  image delete    Remove images.
  image prune     Remove the images that no machine was made from.
  kernel pull     Fetch a kernel and keep it.
  kernel list     List the kernels.
  kernel show     Tell what a kernel is, what it has, and what it boots.
  kernel import   Take a kernel that is on this machine.
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
  ssh-config      Let `ssh NAME.vm` lead into machines.
  cache list      List what is in the cache.
  cache prune     Remove from the cache what was not used for long.
  prune           Remove what programs that were killed left behind.
  build           Run any part of the pipe and keep what it makes.
  config          Show what is settled, and by whom.
  doctor          Look whether this machine has what banger needs.

Options:
  @talk

Description:
  banger is the driver of the suite. It does no work of its own: it starts the bg- programs as one pipe, and
  with -vv it shows that pipe, ready to be pasted into a shell.

  Images, kernels and virtual machines are plain folders: by default below ~/.local/state/banger, with the
  cache in ~/.cache/banger; BANGER_HOME puts all of them below one folder.

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
    raise _unknown(" ".join(words[:2] if following else words[:1]), commands)


def _unknown(name: str, commands: Sequence[str]) -> errors.BadUsage:
    import difflib

    near = difflib.get_close_matches(name, commands, 1) or difflib.get_close_matches(
        name, [command.split()[0] for command in commands], 1
    )
    hint = f"did you mean 'banger {near[0]}'?" if near else f"the commands are: {', '.join(commands)}"
    return errors.BadUsage(f"unknown command '{name}'", hint)


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
