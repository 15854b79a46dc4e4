"""banger image delete: remove images from the store.

Usage:
  banger image delete [options] NAME...

Arguments:
  NAME  Images of the store.

Options:
  -f, --force  Delete images that machines were made from, too; these keep the disks that they have.
  @talk

Description:
  An image that a machine was made from is not deleted, and the machines are named. None is deleted if one of those
  named is not there or in use. Machines have disks of their own, so with --force nothing breaks.

  A machine that is just being made from the image gets whole disks, or none: then the image was gone before.

  Of an image that `banger image register` made, the files that it refers to stay.

Examples:
  $ banger image delete debian-bookworm web

Exit status:
  0   done
  64  the command line is wrong
  66  there is no such image
  73  an image is in use
  75  an image stayed locked for a minute by a machine being made from it
  77  the store may not be changed

See also:
  banger-image-list(1) banger-image-prune(1) banger-vm-delete(1)
"""

from __future__ import annotations

from collections.abc import Sequence

from banger_tools import cli
from banger_tools.commands import deletion


def work(arguments: cli.Arguments) -> None:
    """Delete what the command line says."""
    from banger_tools.store import images

    deletion.delete(images, arguments)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)
