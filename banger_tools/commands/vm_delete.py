"""banger vm delete: remove machines and their disks.

Usage:
  banger vm delete [options] NAME...

Arguments:
  NAME  A machine of the store.

Options:
  -f, --force  Delete a machine that runs, too; it is killed.
  @talk

Description:
  What a machine wrote to its disks is gone. One whose record is broken is deleted, too; the process of its monitor is
  known by the lock that it holds, and no other one is ever killed.

  If one of several machines cannot be deleted, the others still are; the exit status is that of the first failure in
  the order of the names.

Examples:
  $ banger vm delete web
  $ banger vm delete --force web db

Exit status:
  0   done
  64  the command line is wrong
  66  there is no such machine
  73  the machine runs
  75  another command kept the machine for a minute, or its monitor hangs in the kernel

See also:
  banger-vm-stop(1) banger-vm-prune(1)
"""

from __future__ import annotations

from collections.abc import Sequence

from banger_tools import cli


def delete(name: str, *, force: bool) -> None:
    """Delete a machine."""
    from banger_tools.vmm import life

    with life.held(name):
        life.delete(name, force=force)


def work(arguments: cli.Arguments) -> int:
    """Delete what the command line says."""
    from banger_tools.commands import several

    force = bool(arguments["--force"])
    names = several.named(arguments)
    return several.each(("vm", "delete"), arguments, names, lambda name: delete(name, force=force))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)
