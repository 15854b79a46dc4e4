"""banger vm delete: remove a machine and its disks.

Usage:
  banger vm delete [options] NAME

Arguments:
  NAME  A machine of the store.

Options:
  -f, --force  Delete a machine that runs, too; it is killed.
  @talk

Description:
  What the machine wrote to its disks is gone.

Examples:
  $ banger vm delete web

Exit status:
  0   done
  64  the command line is wrong
  66  there is no such machine
  73  the machine runs

See also:
  banger-vm-stop(1)
"""

from __future__ import annotations

from collections.abc import Sequence

from banger_tools import cli


def work(arguments: cli.Arguments) -> None:
    """Delete what the command line says."""
    from banger_tools.vmm import life

    with life.held(arguments["NAME"]):
        life.delete(arguments["NAME"], force=bool(arguments["--force"]))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)


if __name__ == "__main__":
    raise SystemExit(main())
