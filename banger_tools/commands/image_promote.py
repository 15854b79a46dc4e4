"""banger image promote: copy a registered image's disks into the store.

Usage:
  banger image promote [options] NAME

Arguments:
  NAME  An image that `banger image register` made.

Options:
  --json  Print the image's manifest instead of its name.
  @talk

Description:
  The disks are copied, by reflink where the filesystem can, else without their holes, and take the place of the
  references to them; the image is there all the time. The files that were registered stay as they are, and are not
  looked at any more.

Examples:
  $ banger image register --name=mine build/rootfs.ext4
  $ banger image promote mine

Exit status:
  0   the image is managed
  64  the command line is wrong
  65  a disk is missing, or was written to meanwhile
  66  there is no such image
  73  the image is managed already
  74  the disk is full or failed
  75  another command kept the image for a minute
  77  a disk may not be read, or the store not be changed

See also:
  banger-image-register(1) banger-image-show(1)
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from banger_tools import cli


def work(arguments: cli.Arguments) -> None:
    """Promote the image and print its name or its manifest."""
    from banger_tools.store import promotion

    image = promotion.promote(arguments["NAME"])
    sys.stdout.write(image.dumps() if arguments["--json"] else f"{image.name}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)
