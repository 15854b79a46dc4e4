"""banger image rename: give an image another name.

Usage:
  banger image rename [options] OLD NEW

Arguments:
  OLD  An image of the store.
  NEW  The name that it is to have: one that no image has.

Options:
  @talk

Description:
  The records of machines that were made from the image get its new name, so they still keep it from being deleted.
  Nothing is copied. If it is killed, the image has one of the two names, and `banger prune` mends the records that have
  the other.

Examples:
  $ banger image rename debian-bookworm base

Exit status:
  0   done
  64  the command line is wrong
  65  the image is broken
  66  there is no such image
  73  the new name is taken
  75  another command kept the image or one of its machines for a minute
  77  the store may not be changed

See also:
  banger-image-list(1) banger-vm-list(1)
"""

from __future__ import annotations

from collections.abc import Sequence

from banger_tools import cli


def work(arguments: cli.Arguments) -> None:
    """Rename the image."""
    from banger_tools.store import renaming

    renaming.rename(arguments["OLD"], arguments["NEW"])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)
