"""banger kernel delete: remove kernels from the store.

Usage:
  banger kernel delete [options] NAME...

Arguments:
  NAME  Kernels of the store.

Options:
  -f, --force  Delete kernels that images or machines use, too; these keep the copies that they have.
  @talk

Description:
  A kernel that an image or a machine was made with is not deleted, and they are named. None is deleted if one of those
  named is not there or in use. What images and machines boot is a copy of their own, so with --force nothing breaks.

Examples:
  $ banger kernel delete generic mine

Exit status:
  0   done
  64  the command line is wrong
  66  there is no such kernel
  73  a kernel is in use
  77  the store may not be changed

See also:
  banger-kernel-list(1) banger-kernel-pull(1)
"""

from __future__ import annotations

from collections.abc import Sequence

from banger_tools import cli
from banger_tools.commands import deletion


def work(arguments: cli.Arguments) -> None:
    """Delete what the command line says."""
    from banger_tools.store import kernels

    deletion.delete(kernels, arguments)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)
