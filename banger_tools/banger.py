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
  image export    Write an image as a tar, a disk, or a bundle for catalogs.
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
  with -v it shows that pipe, ready to be pasted into a shell.

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
