"""banger vm run: boot an image and run a command or a shell in it.

Usage:
  banger vm run [options] [--publish=FORWARD]... [--env=VAR]... [COMMAND]...

Arguments:
  COMMAND  A program of the image and its arguments; options of ours come before it, or before a `--`. A shell
           if there is none.

Options:
  --image=IMAGE            Image of the store or of a catalog by name, or what to make one of, as in alpine:3.20;
                           debian-bookworm if not given.
  --pull=WHEN              When to make the image: if it is missing, always anew, or never [default: missing].
  -d, --detach             Leave the VM running and print its name; it runs COMMAND, if there is one, as its own.
  --rm                     Delete the VM when the command has ended, however that comes.
  --user=USER              User of the image to run the command as; root if not given, with --run the image's own.
  --cwd=FOLDER             Folder of the image to run the command in; / if not given, with --run the image's own.
  -t, --tty                Give the command a terminal, though we have none.
  -T, --no-tty             Give the command no terminal.
  @machine
  @talk

Description:
  Boots the image with bg-boot(1) and runs the command through the guest's agent: stdin, stdout and stderr are
  the command's, each for itself, and so is the exit status. The command gets a terminal if stdin and stdout are
  terminals: every key goes to the guest, ^C too, the window's size is followed, and at the end, whatever it is,
  our terminal is as it was.

  An image that is not in the store is made first, as `banger image pull` does, once if several ask for it; with
  --no-kernel if a kernel is named for the VM. Nothing but its absence starts that: one that is broken or may not be
  read is an error. With --pull=never nothing is fetched, no kernel either; with --pull=always what the image is made of
  is asked for afresh, and the new one takes its place. What no option says is as banger-config(5) has it.

  --image takes an image of the store or an entry of a catalog by its name, and anything else only if it has a colon or
  a slash: nginx:latest, which becomes the image nginx-latest. banger-image-pull(1) says how images are named.

  Without --rm the VM runs on; `banger vm exec`, `stop` and `delete` manage it. With -d and a COMMAND, the VM exists for
  it: it runs in place of the image's own (--run), what it prints is on the console (`banger vm logs`), and when it
  ends the VM powers off. With -d alone the VM is booted.

Examples:
  $ banger vm run --rm -- cat /etc/os-release
  $ tar c src | banger vm run --rm --image build -- sh -c 'tar x && make -C src'
  $ banger vm run -d --run --name web --publish 8080:80 --image nginx:latest
  $ banger vm run -d --image alpine:3.20 -- httpd -f -p 80

Exit status:
  0   the command ended with 0
  64  the command line is wrong
  66  there is no such image, and it was not to be made

  Otherwise the command's own status, 128 and the signal's number if a signal ended it; or that of the program that
  failed before.

See also:
  banger(1) banger-image-pull(1) banger-vm-create(1) banger-vm-exec(1) banger-vm-logs(1) bg-boot(1)
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from banger_tools import cli, console, errors
from banger_tools.commands import machine

if TYPE_CHECKING:
    from banger_tools.vmm import inside


class Options(NamedTuple):
    """What was asked: the VM to make, and what to do with it."""

    wanted: machine.Wanted
    detach: bool
    remove: bool
    command: tuple[str, ...]
    settings: inside.Settings

    @classmethod
    def from_arguments(cls, arguments: cli.Arguments) -> Options:
        """Sort the options; those of the machine are for bg-boot to check.

        Raises BadUsage for words that do not go together.
        """
        from banger_tools.vmm import inside

        detach, remove = bool(arguments["--detach"]), bool(arguments["--rm"])
        if detach and remove:
            raise errors.BadUsage("--rm: nobody would be there to delete the VM", "leave --detach away")
        if arguments["--run"] and not detach:
            raise errors.BadUsage("--run goes with --detach only", "or name the command to run here")
        if arguments["--wait"] == "none" and not detach:
            raise errors.BadUsage("--wait: a command needs the agent")
        if detach and (arguments["--tty"] or arguments["--no-tty"]):
            raise errors.BadUsage("--tty and --no-tty are for a command that has our streams, and --detach gives none")
        settings = inside.Settings.from_arguments(arguments)
        command = tuple(arguments["COMMAND"])
        own = tuple(_own_process(arguments, command)) if detach else ()
        return cls(machine.Wanted.from_arguments(arguments, own), detach, remove, command, settings)


def _own_process(arguments: cli.Arguments, command: Sequence[str]) -> list[str]:
    """Return the options of bg-boot that make a command the VM's own."""
    run = bool(arguments["--run"] or command)
    words = ["--run"] if command and not arguments["--run"] else []
    words += [f"--command={shlex.join(command)}"] if command else []
    for option in ("--user", "--cwd"):
        if arguments[option] is not None:
            if not run:
                raise errors.BadUsage(f"{option} is for a command, and there is none")
            words.append(f"{option}={arguments[option]}")
    return words


def attend(name: str, options: Options) -> int:
    """Run the command, or leave the VM alone, and say how to go on."""
    from banger_tools.vmm import inside

    if options.detach:
        print(name)
        return 0
    # what the machine was told of variables, its agent gives to every command
    status = inside.execute(name, options.command, options.settings._replace(env=()))
    if not options.remove:
        inside.tell_it_runs_on(name)
    return status


def _doubt(options: Options) -> None:
    """Tell that the first word is the name of an image, which other programs' `run` would take for one."""
    from banger_tools.store import images

    word = "".join(options.command[:1])
    if word in images.listed():
        console.note(f"'{word}' is run as a command in '{options.wanted.image}'; to run the image: --image {word}")


def work(arguments: cli.Arguments) -> int:
    """Boot, run the command, clean up, and return the command's status."""
    from banger_tools.vmm import inside

    options = Options.from_arguments(arguments)
    if arguments["--image"] is None:
        _doubt(options)
    machine.provide(options.wanted)
    with machine.booted(options.wanted) as booted:
        try:
            return attend(booted.start(), options)
        finally:
            name = booted.name()
            if options.remove and name is not None:
                inside.remove(name)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work, nested=True)
