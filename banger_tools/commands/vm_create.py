"""banger vm create: make a machine of an image, start it, and print its name.

Usage:
  banger vm create [options] [--publish=FORWARD]... [--env=VAR]...

Options:
  --image=IMAGE            Image of the store or of a catalog by name, or what to make one of, as in alpine:3.20;
                           debian-bookworm if not given.
  --pull=WHEN              When to make the image: if it is missing, always anew, or never [default: missing].
  --no-start               Make the VM, and leave its start to `banger vm start`.
  @machine
  @talk

Description:
  The VM is booted by bg-boot(1), which returns when the guest's agent answers, and runs on. An image that is not in
  the store is made first, as by `banger image pull`; with --no-kernel if a kernel is named for the VM. What --image
  takes is in banger-vm-run(1).

Examples:
  $ banger vm create --name web --image nginx:latest --publish 8080:80
  $ vm=$(banger vm create --memory 2G --no-start)

Exit status:
  0   the VM answers, or is made
  64  the command line is wrong
  66  there is no such image, and it was not to be made

  Otherwise that of the program that failed.

See also:
  banger(1) banger-vm-run(1) banger-vm-start(1) bg-boot(1)
"""

from __future__ import annotations

from collections.abc import Sequence

from banger_tools import cli
from banger_tools.commands import machine


def work(arguments: cli.Arguments) -> None:
    """Make the machine and print its name."""
    wanted = machine.Wanted.from_arguments(arguments, ["--no-start"] if arguments["--no-start"] else [])
    machine.provide(wanted)
    with machine.booted(wanted) as booted:
        print(booted.start())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)
